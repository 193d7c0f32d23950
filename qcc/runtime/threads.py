"""Teams of persistent worker threads that run native code together.

The workers are Python threads that live inside one native call (ctypes releases the interpreter
lock); between runs they wait in native code, first spinning, then asleep in the kernel.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from dataclasses import dataclass
from typing import Any

from qcc.backends.llvm.machine import LoadedCode
from qcc.backends.llvm.sync import CALL_OFFSET

_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32)
_CONTROL = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@dataclass(frozen=True)
class Arguments:
    """Addresses that a native step gets."""

    arena: int
    weights: int
    inputs: int
    outputs: int


class _Call(ctypes.Structure):
    """The call in a control block, as native code reads it."""

    _fields_ = (
        ("function", ctypes.c_void_p),
        ("arena", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("threads", ctypes.c_int32),
    )


class Team:
    """``threads`` threads (the caller's is one of them) around one control block.

    ``control`` is the address of the block: the first bytes of an arena, zero at first.  Only one
    call may run at a time.
    """

    def __init__(self, code: LoadedCode, control: int, threads: int) -> None:
        self._control = control
        self._threads = threads
        self._code = code
        self._call = _Call.from_address(control + CALL_OFFSET)
        self._run = _CONTROL(code.address("qcc_team_run"))
        worker = _WORKER(code.address("qcc_worker"))
        members = [
            threading.Thread(
                target=worker, args=(control, tid), daemon=True, name=f"qcc-worker-{tid}"
            )
            for tid in range(1, threads)
        ]
        stop = _CONTROL(code.address("qcc_team_stop"))
        # A stopped team's memory may go, so the finalizer waits until every worker has left it.
        self._finalizer = weakref.finalize(self, _stop, stop, control, members)
        for member in members:
            member.start()

    def run(self, function: int, arguments: Arguments) -> None:
        """Run the native function at address ``function`` on all threads; returns when done."""
        call = self._call
        call.function, call.threads = function, self._threads
        call.arena, call.weights = arguments.arena, arguments.weights
        call.inputs, call.outputs = arguments.inputs, arguments.outputs
        self._run(self._control)

    def close(self) -> None:
        """Let the workers return and wait for them; the team cannot run again."""
        self._finalizer()


def _stop(stop: Any, control: int, members: list[threading.Thread]) -> None:
    stop(control)
    for member in members:
        member.join()
