"""Run a check in a process of its own: what crashes or hangs there is a failure, not the end.

Processes are forked from a server that has the heavy modules loaded, and no threads.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from tests.fuzzing.cases import Failure

SECONDS = 120.0
"""How long a check may take; a random case takes about one."""

T = TypeVar("T")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["onnxruntime", "tests.fuzzing.cases"])


def isolated(
    check: Callable[[T], Failure | None], subject: T, seconds: float = SECONDS
) -> Failure | None:
    """``check(subject)`` in another process; both must be picklable."""
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_run, args=(sender, check, subject), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            process.kill()
            return Failure(f"the check took more than {seconds:g} seconds")
        found = receiver.recv()
        assert found is None or isinstance(found, Failure)
        return found
    except EOFError:
        process.join()
        return Failure(f"the process was killed by {_cause(process.exitcode)}")
    finally:
        receiver.close()
        process.join()


def _run(sender: Connection, check: Callable[[T], Failure | None], subject: T) -> None:
    sender.send(check(subject))
    sender.close()


def _cause(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its exit with code {code}"
    return signal.Signals(-code).name
