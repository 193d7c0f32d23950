"""One engine with one net, waiting for turns: ``python -m peers.worker JOB``.

Commands are JSON lines on stdin, answers JSON lines on stdout.  Between commands the process is
blocked in a read.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from peers.engines import OPENERS, Opened, Opening, import_runtime, one_line, pin
from peers.nets import Feed, load_feeds, save_feeds

PATIENCE = 3
"""How many times as long a burst may take for the sake of undisturbed runs."""

LEAST_LOSS = 0.02
"""Share of a run that other programs may take away; told by the CPU time of one thread's work."""


def peak_mib() -> float:
    """The high-water mark of this process's resident memory.

    Not ``ru_maxrss``: a process inherits that of the one which started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM line; measure on Linux")


def common_shapes(feeds: list[Feed]) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the inputs where all feeds have the same ones."""
    shapes = [{name: tuple(array.shape) for name, array in feed.items()} for feed in feeds]
    return shapes[0] if all(shape == shapes[0] for shape in shapes) else None


def _timed(
    run: Callable[[], Any], seconds: float, least: int, alone: bool
) -> tuple[list[float], list[float]]:
    """Milliseconds of undisturbed and of disturbed runs.

    Undisturbed ones are wanted, ``least`` of them and ``seconds`` in all, and worth some more runs;
    a long run is hardly ever left alone on a busy machine.  Of a disturbed run of one thread
    (``alone``) the CPU time is given, which is what it would have taken but for colder caches.
    """
    clean: list[float] = []
    disturbed: list[float] = []
    spent = 0.0
    while spent < seconds or len(clean) < least:
        before, worked = _preemptions(), time.process_time()
        start = time.perf_counter()
        run()
        took = time.perf_counter() - start
        worked = time.process_time() - worked
        if _preemptions() == before or abs(took - worked) < LEAST_LOSS * took:
            clean.append(took * 1e3)
        else:
            disturbed.append((worked if alone else took) * 1e3)
        spent += took
        if len(disturbed) >= least and spent >= PATIENCE * seconds:
            break
    return clean, disturbed


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class Worker:
    """The answers to commands."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._feeds: list[Feed] = load_feeds(Path(job["held_out"]))
        import_runtime(job["runtime"])
        self._before = peak_mib()
        self._opened: Opened | None = None

    def load(self) -> dict[str, Any]:
        """Open the file and run every held-out feed; the outputs go to a file."""
        job = self._job
        start = time.perf_counter()
        how = Opening(
            Path(job["path"]), job["threads"], job["properties"], common_shapes(self._feeds)
        )
        bind, run = OPENERS[job["runtime"]](how)
        seconds = time.perf_counter() - start
        outputs: list[Feed] = []
        for feed in self._feeds:
            bind(feed)
            outputs.append({str(place): np.array(array) for place, array in enumerate(run())})
        save_feeds(Path(job["outputs"]), outputs)
        self._opened = bind, run
        return {"load_ms": seconds * 1e3}

    def burst(self, seconds: float, least: int) -> dict[str, Any]:
        """Milliseconds of runs of the first feed, after one run that is not timed.

        Runs in which the system took the core away are left out; there is time for some of these,
        and where fewer than ``least`` others remain, all runs are given and ``clean`` is false.
        """
        if self._opened is None:
            raise RuntimeError("burst before load")
        bind, run = self._opened
        bind(self._feeds[0])
        run()
        clean, disturbed = _timed(run, seconds, least, self._job["threads"] == 1)
        enough = len(clean) >= least
        return {"ms": clean if enough else clean + disturbed, "clean": enough}

    def memory(self) -> dict[str, Any]:
        """Peak resident memory so far beyond what imports and feeds took, in MiB."""
        return {"peak_mib": peak_mib() - self._before}


def main(job: dict[str, Any]) -> None:
    pin(job["threads"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = Worker(job)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": one_line(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
