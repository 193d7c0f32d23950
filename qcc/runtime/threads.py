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

import numpy as np
from numpy.typing import NDArray

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

    The block is the beginning of ``arena`` (zero at first), whose memory the team keeps alive.
    Only one call may run at a time.
    """

    def __init__(self, code: LoadedCode, arena: NDArray[np.uint8], threads: int) -> None:
        control = int(arena.ctypes.data)
        self._control = control
        self._threads = threads
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
        # Workers live in the code and the arena until they are stopped: the finalizer keeps both.
        self._finalizer = weakref.finalize(self, _stop, stop, arena, code, members)
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


def _stop(
    stop: Any, arena: NDArray[np.uint8], code: LoadedCode, members: list[threading.Thread]
) -> None:
    """Let the workers return and wait for them; only then may ``arena`` and ``code`` go."""
    del code
    stop(arena.ctypes.data)
    for member in members:
        member.join()
