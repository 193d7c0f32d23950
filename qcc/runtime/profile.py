"""Where the time of one call goes: a row for every kernel call and every float region."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qcc.backends.llvm.model import CompiledModel, NativeStep
from qcc.ir.core import Array
from qcc.runtime.program import Program

REGION = "onnxruntime"
"""The kernel that rows of float regions name."""


@dataclass(frozen=True)
class ProfileRow:
    """The milliseconds of one call, and its multiply-accumulates (0 where it has none)."""

    node: str
    kernel: str
    ms: float
    macs: int = 0

    @property
    def gmacs(self) -> float:
        """Thousand million multiply-accumulates a second."""
        return self.macs / self.ms / 1e6 if self.ms else 0.0


@dataclass(frozen=True)
class Profile:
    """Rows in the order of execution; their milliseconds add up to ``total_ms``."""

    rows: tuple[ProfileRow, ...]

    @property
    def total_ms(self) -> float:
        """The whole call on one thread, without the checks of its inputs."""
        return sum(row.ms for row in self.rows)

    @property
    def slowest(self) -> tuple[ProfileRow, ...]:
        """The rows, the slowest first."""
        return tuple(sorted(self.rows, key=lambda row: -row.ms))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"total_ms": self.total_ms, "rows": [asdict(row) for row in self.rows]}


def profile_program(program: Program, arrays: Sequence[Array], runs: int) -> Profile:
    """The median of ``runs`` calls, row by row, on one thread.

    ``arrays`` are checked inputs, as :meth:`Program.run` takes them.
    """
    model = program.model
    program.profile(arrays)  # fills caches; the first use of a region loads it
    times = np.array([list(_milliseconds(program.profile(arrays))) for _ in range(runs)])
    medians = np.median(times, axis=0)
    return Profile(
        tuple(
            ProfileRow(node, kernel, float(ms), macs)
            for (node, kernel, macs), ms in zip(_names(model), medians, strict=True)
        )
    )


def _milliseconds(steps: Sequence[tuple[float, Any]]) -> Iterator[float]:
    """A step's time is shared out among its calls by their ticks, whatever the clock's rate."""
    for seconds, ticks in steps:
        total = max(int(ticks.sum()), 1)
        if len(ticks) == 1:
            yield 1e3 * seconds
            continue
        yield from (1e3 * seconds * float(t) / total for t in ticks)


def _names(model: CompiledModel) -> Iterator[tuple[str, str, int]]:
    for step in model.steps:
        if isinstance(step, NativeStep):
            yield from ((call.node, call.kernel, call.macs) for call in step.calls)
        else:
            yield step.label, REGION, 0
