"""A histogram whose bins are the same whatever order the data come in.

The bin width is a power of two and a range grows by doubling, so two histograms of different ranges
nest: adding is exact, in any order and grouping.  Positive and negative magnitudes have a row
each, and 0 is a bin's border.  This serves the observers that look for a range afterwards
(percentile, entropy, squared error).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError, DataError
from qcc.quant.observers.base import (
    Observer,
    ObserverSpec,
    State,
    UniformArguments,
    UniformObserver,
)
from qcc.quant.qparams import QuantParams

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST_EXPONENT = -100
"""The range is never narrower than 2^-100: below it every value counts as 0's neighbour."""


@dataclass(frozen=True)
class GridArguments(UniformArguments):
    """:class:`~qcc.quant.observers.base.UniformArguments` with the resolution.

    ``bins``: at least so many bins span the greatest magnitude seen; a power of two.
    """

    bins: int = 2048

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        low, high = self.quant_range
        if self.bins < 2 or self.bins & (self.bins - 1):
            raise ConfigError(f"{observer}: bins must be a power of two, got {self.bins}")
        if high - low >= self.bins:
            raise ConfigError(
                f"{observer}: {self.bins} bins cannot place {high - low + 1} quantized levels: "
                f"give more bins or use MinMaxObserver"
            )


@dataclass(frozen=True)
class Side:
    """The used bins of one sign or of magnitudes: ``counts`` int64, and their width."""

    counts: Counts
    width: float

    @property
    def centres(self) -> Floats:
        """The middle of every bin."""
        return np.asarray((np.arange(len(self.counts)) + 0.5) * self.width, np.float64)


class GridObserver(UniformObserver):
    """Counts magnitudes on the nesting grid; a subclass says which range is best.

    ``counts``: int64 [2, 2 * bins], row 0 for values >= 0, row 1 for negative ones;
    ``exponent``: both rows span magnitudes up to ``2**exponent``; ``low``, ``high``: the extremes.
    """

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        super().__init__(spec, name)
        arguments = spec.arguments
        assert isinstance(arguments, GridArguments)
        self.size = 2 * arguments.bins
        self.counts: Counts = np.zeros((2, self.size), np.int64)
        self.exponent = LEAST_EXPONENT
        self.low = float("inf")
        self.high = float("-inf")

    @property
    def seen(self) -> bool:
        """Whether any finite value was seen."""
        return self.low <= self.high

    @property
    def width(self) -> float:
        """The width of a bin, a power of two."""
        return float(np.ldexp(1.0, self.exponent)) / self.size

    def update(self, array: Any) -> None:
        """Count a float tensor of any shape; the range doubles until it holds it."""
        values = self.finite(array).reshape(-1)
        if values.size:
            self.count(values)

    def count(self, values: NDArray[np.float32]) -> None:
        """Count finite values, 1-D and at least one."""
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(low, self.low), max(high, self.high)
        self._grow(int(np.frexp(max(-low, high))[1]))
        # Scaling by a power of two is exact, so a value's bin does not depend on the batch.
        scaled = np.abs(values) * np.float32(1.0 / self.width)
        index = scaled.astype(np.int64)
        index[values < 0] += self.size
        self.counts += np.bincount(index, minlength=2 * self.size).reshape(2, self.size)

    def merge(self, other: Observer) -> None:
        """Add what ``other`` has seen; the result is that of one observer seeing it all."""
        self.check_mergeable(other)
        assert isinstance(other, GridObserver)
        self.infinite += other.infinite
        self._grow(other.exponent)
        self.counts += _fold(other.counts, self.exponent - other.exponent)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def _grow(self, exponent: int) -> None:
        """Widen the range to magnitudes below ``2**exponent``."""
        if exponent > self.exponent:
            self.counts = _fold(self.counts, exponent - self.exponent)
            self.exponent = exponent

    def magnitudes(self) -> Side:
        """The histogram of |x|, up to the bin of the greatest magnitude."""
        return self._used(self.counts.sum(axis=0))

    def positive(self) -> Side:
        """The histogram of the values >= 0, up to their greatest bin."""
        return self._used(self.counts[0])

    def negative(self) -> Side:
        """The histogram of the negated negative values, up to their greatest bin."""
        return self._used(self.counts[1])

    def _used(self, counts: Counts) -> Side:
        filled = np.flatnonzero(counts)
        return Side(counts[: filled[-1] + 1 if filled.size else 0], self.width)

    def search(self) -> tuple[float, float]:
        """The best range to quantize, within the extremes and 0; the subclass's algorithm."""
        raise NotImplementedError

    def best_range(self) -> tuple[float, float]:
        """The range that :meth:`search` finds; raises DataError when nothing was seen."""
        if not self.seen:
            raise self.nothing_seen()
        return self.search()

    def qparams(self) -> QuantParams:
        """The parameters of :meth:`best_range`; raises DataError when nothing was seen."""
        low, high = self.best_range()
        return self.arguments.qparams(low, high)

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and greatest value seen, with 0 included."""
        return min(self.low, 0.0), max(self.high, 0.0)

    def state(self) -> State:
        """``histogram`` int64 [2, 2 * bins], ``exponent``, the extremes and ``infinite``."""
        return {
            "histogram": self.counts.copy(),
            "exponent": np.asarray(self.exponent, np.int64),
            "min_val": np.asarray(self.low, np.float64),
            "max_val": np.asarray(self.high, np.float64),
            "infinite": np.asarray(self.infinite, np.int64),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was seen; raises DataError for a state with other bins."""
        counts = self.state_entry(state, "histogram").astype(np.int64)
        if counts.shape != self.counts.shape:
            raise DataError(
                f"the saved state of {self.label} has bins {counts.shape}, "
                f"not {self.counts.shape}: calibrate again"
            )
        self.counts = counts
        self.exponent = int(self.state_entry(state, "exponent"))
        self.low = float(self.state_entry(state, "min_val"))
        self.high = float(self.state_entry(state, "max_val"))
        self.infinite = int(self.state_entry(state, "infinite"))


def _fold(counts: Counts, doublings: int) -> Counts:
    """The counts [2, n] on a range that is ``2**doublings`` times as wide (n is a power of two)."""
    if doublings == 0:
        return counts
    size = counts.shape[1]
    group = min(1 << min(doublings, size.bit_length()), size)
    result = np.zeros_like(counts)
    result[:, : size // group] = counts.reshape(2, -1, group).sum(axis=2)
    return result
