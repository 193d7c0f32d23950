"""Data that are already quantized: values that lie on a uniform grid through 0.

Pictures are bytes divided by a constant; features of an embedded front end and the weights of a
model that was trained quantized are small integers times a step.  Whoever quantizes them with
another step adds an error for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LIMIT = 1024
"""More distinct values than this are not 8-bit data, whatever the number of channels mixed."""

LEAST_DISTINCT = 16
"""Fewer distinct values may be equally spaced by chance."""

TOLERANCE = 1e-4
"""How far from a multiple of the step a value may lie, in steps: float32 rounding of 255 steps."""

SAMPLE = 4096
"""Values that are looked at before all are: most tensors show at once that they are no grid."""


@dataclass(frozen=True)
class Lattice:
    """Values are ``k * step`` with whole numbers ``low <= k <= high``, ``used`` of them."""

    step: float
    low: int
    high: int
    used: int


def lattice_of(values: Any) -> Lattice | None:
    """The grid that ``values`` (distinct or not, any shape) lie on, if they do.

    The step is the least difference between neighbours (0 counts as a value), refined by least
    squares; all zeros lie on no grid.
    """
    points = np.unique(np.append(np.asarray(values, np.float64).reshape(-1), 0.0))
    if len(points) < 2 or not np.isfinite(points).all():
        return None
    reach = max(-points[0], points[-1])
    gaps = np.diff(points)
    # Two float32 numbers that mean the same multiple differ by rounding only.
    gaps = gaps[gaps > reach * 1e-6]
    step = float(gaps.min()) if gaps.size else 0.0
    if step <= 0.0 or reach / step > LIMIT:
        return None
    whole = np.rint(points / step)
    step = float(np.dot(points, whole) / np.dot(whole, whole))
    whole = np.rint(points / step)
    off = np.abs(points - whole * step).max() > TOLERANCE * step
    if off or np.any((whole == 0) & (points != 0)):
        return None
    return Lattice(step, int(whole[0]), int(whole[-1]), len(np.unique(whole)))


def step_of(values: Any, most: int) -> float | None:
    """The step of a grid of at most ``most`` steps on either side of 0 that ``values`` lie on.

    The greatest magnitude is taken for each number of steps in turn, the fewest first, so it finds
    the grid of a few values too; None where no number fits, or too many values are distinct.
    """
    points = np.unique(np.abs(np.asarray(values, np.float64).reshape(-1)))
    points = points[points > 0]
    if not 0 < len(points) <= most or not np.isfinite(points).all():
        return None
    counts = np.arange(1, most + 1, dtype=np.float64)
    multiples = points[:, None] / points[-1] * counts
    off = np.abs(multiples - np.rint(multiples)).max(axis=0) > TOLERANCE
    off |= np.rint(multiples[0]) == 0
    fitting = counts[~off]
    return None if fitting.size == 0 else float(points[-1] / fitting[0])


class DistinctValues:
    """The distinct float32 values of a stream, until there are more than :data:`LIMIT`.

    ``values`` is sorted; None says that there were too many.  The result does not depend on the
    order or grouping of what is added.
    """

    def __init__(self) -> None:
        self.values: NDArray[np.float32] | None = np.zeros(0, np.float32)

    def add(self, array: NDArray[np.float32]) -> None:
        """Take in an array of any shape without NaN."""
        if self.values is None:
            return
        flat = array.reshape(-1)
        for part in (flat[:SAMPLE], flat[SAMPLE:]):
            known = np.union1d(self.values, part)
            self.values = known.astype(np.float32) if len(known) <= LIMIT else None
            if self.values is None:
                return

    def merge(self, other: DistinctValues) -> None:
        """Take in what ``other`` has seen."""
        if other.values is None:
            self.values = None
        else:
            self.add(other.values)

    @property
    def lattice(self) -> Lattice | None:
        """The grid of the values seen, where they are enough to tell."""
        found = None if self.values is None else lattice_of(self.values)
        return None if found is None or found.used < LEAST_DISTINCT else found

    def state(self) -> dict[str, NDArray[Any]]:
        """``distinct`` float32 [LIMIT] and how many of them count, -1 where they were too many."""
        values = np.zeros(0, np.float32) if self.values is None else self.values
        count = -1 if self.values is None else len(values)
        padded = np.zeros(LIMIT, np.float32)
        padded[: len(values)] = values
        return {"distinct": padded, "distinct_count": np.asarray(count, np.int64)}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was seen."""
        count = int(state["distinct_count"])
        self.values = None if count < 0 else np.array(state["distinct"][:count], np.float32)
