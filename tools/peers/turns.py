"""All engines of one net alive at once, each running when it has the turn."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from peers.build import environment
from peers.engines import Built, Engine, Setting
from peers.nets import Net, Unavailable
from qcc.runtime.comparison import sqnr_from_power

BURST_SECONDS = 0.03
ANSWER_SECONDS = 300.0
LEAST_RUNS = 3
LEAST_CLEAN = 3
PAUSE_SECONDS = {1: 0.002, 2: 0.02}
"""Between turns, so that idle threads of the last engine, which spin for a while, are asleep."""


@dataclass
class Measured:
    """What is known of one engine with one net; times are milliseconds of one run.

    ``bursts`` are the medians of the bursts, one a round, ``clean`` tells which of these other
    programs left alone; ``reason`` stands where it did not run.
    """

    engine: str
    label: str
    integer: bool
    reason: str = ""
    note: str = ""
    bursts: list[float] = field(default_factory=list)
    clean: list[bool] = field(default_factory=list)
    least_ms: float = 0.0
    sqnr_db: float | None = None
    peak_mib: float = 0.0
    load_ms: float = 0.0

    @property
    def median_ms(self) -> float:
        """Median over rounds of the bursts' medians."""
        return _median(np.array(self.bursts), np.array(self.clean))


class Player:
    """The controller's end of one worker."""

    def __init__(self, engine: Engine, net: Net, built: Built, setting: Setting, job: Any) -> None:
        self.measured = Measured(engine.name, engine.label, engine.integer, note=built.note)
        whole = {
            "runtime": engine.runtime,
            "path": str(built.path),
            "properties": dict(engine.properties),
            "held_out": str(net.held_out),
            **job,
        }
        self.outputs = Path(job["outputs"])
        self._said = self.outputs.with_suffix(".log")
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "peers.worker", json.dumps(whole)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env=environment(setting),
                text=True,
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for the answer; Unavailable where the worker fails or dies."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], ANSWER_SECONDS)[0]:
            self._process.kill()
            raise Unavailable(f"the process gave no answer in {ANSWER_SECONDS:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise Unavailable(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        lines = self._said.read_text(errors="replace").strip().splitlines()
        return f"the process ended with exit code {code}: {lines[-1][:160] if lines else 'no word'}"

    def close(self) -> None:
        """End the worker."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def rotations(count: int, rounds: int) -> Iterator[list[int]]:
    """The order of turns in each round: everybody starts, and follows everybody's place, once."""
    for turn in range(rounds):
        order = [(turn + i) % count for i in range(count)]
        yield order if turn % 2 == 0 else order[::-1]


@contextmanager
def _closing(players: Sequence[Player]) -> Iterator[None]:
    try:
        yield
    finally:
        for player in players:
            player.close()


def take_turns(players: list[Player], rounds: int, threads: int) -> None:
    """Load all, then let them run in turns; fills each one's ``measured`` and ends the workers."""
    with _closing(players):
        ready = [player for player in players if _loaded(player)]
        pause = PAUSE_SECONDS.get(threads, PAUSE_SECONDS[2])
        for order in rotations(len(ready), rounds):
            for index in order:
                measured = ready[index].measured
                if measured.reason:
                    continue
                time.sleep(pause)
                _one_turn(ready[index], measured)
        for player in ready:
            if not player.measured.reason:
                player.measured.peak_mib = float(player.ask("memory")["peak_mib"])


def _one_turn(player: Player, measured: Measured) -> None:
    try:
        answer = player.ask("burst", seconds=BURST_SECONDS, least=LEAST_RUNS)
    except Unavailable as reason:
        measured.reason = str(reason)
        return
    times = answer["ms"]
    measured.bursts.append(float(np.median(times)))
    measured.clean.append(bool(answer["clean"]))
    measured.least_ms = min(times) if measured.least_ms == 0 else min(measured.least_ms, *times)


def _loaded(player: Player) -> bool:
    try:
        player.measured.load_ms = float(player.ask("load")["load_ms"])
    except Unavailable as reason:
        player.measured.reason = str(reason)
    return not player.measured.reason


def ratio(ours: Measured, peer: Measured) -> float:
    """Median over rounds of the peer's burst over ours: above 1 where we are faster."""
    both = np.array(ours.clean) & np.array(peer.clean)
    return _median(np.array(peer.bursts) / np.array(ours.bursts), both)


def _median(values: Any, clean: Any) -> float:
    """Median of the undisturbed values where there are a few, else of all."""
    return float(np.median(values[clean] if clean.sum() >= LEAST_CLEAN else values))


def best_peer(results: Sequence[Measured]) -> Measured | None:
    """The engine of least median that is not qcc."""
    peers = [m for m in results if m.engine != "qcc" and m.bursts and not m.reason]
    return min(peers, key=lambda m: m.median_ms, default=None)


# -- agreement with float --------------------------------------------------------------------------


def _has_noise(dtype: np.dtype[Any]) -> bool:
    """Floats, and bytes that stand for them; wider integers are labels and the like."""
    return np.issubdtype(dtype, np.floating) or dtype in (np.uint8, np.int8)


def output_sqnr(reference: Path, got: Path) -> float | None:
    """The least SQNR in dB of a float output, summed over the held-out feeds; None without one.

    Files hold ``<feed>:<output>`` arrays.
    """
    powers: dict[str, list[float]] = {}
    with np.load(reference) as exact, np.load(got) as other:
        for key in exact.files:
            if not _has_noise(exact[key].dtype):
                continue
            x, y = exact[key].astype(np.float64), other[key].astype(np.float64)
            power = powers.setdefault(key.split(":")[1], [0.0, 0.0])
            power[0] += float((x * x).sum())
            power[1] += float(((x - y) ** 2).sum())
    found = [sqnr_from_power(signal, noise) for signal, noise in powers.values() if signal > 0]
    return min(found, default=None)
