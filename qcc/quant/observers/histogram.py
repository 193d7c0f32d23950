"""The histogram observer of torch.ao, whose numbers it reproduces.

Source: ``torch.ao.quantization.observer.HistogramObserver`` (torch 2.13), which follows caffe2's
``NormMinimization::NonlinearQuantizationParamsSearch``.  Bin edges, bin positions and quantization
errors are float32 here as there; only the counts are float64 (torch's float32 counts stop growing
at 2^24) and are rounded to float32 for the search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError, DataError
from qcc.quant.observers.base import (
    Observer,
    ObserverArguments,
    ObserverSpec,
    State,
    UniformArguments,
    UniformObserver,
)
from qcc.quant.qparams import QuantParams

F32 = np.float32
FloatArray = NDArray[np.float32]
Counts = NDArray[np.float64]

UPSAMPLE = 16
"""Into how many equal parts an old bin is cut before it is sorted into a grown range."""
STEP = 1e-5
"""The share of the mass by which the search moves a bound."""
HUGE = 1e33
"""From this width on, bin positions are computed in float64: their float32 products overflow."""


@dataclass(frozen=True)
class HistogramArguments(UniformArguments):
    """:class:`~qcc.quant.observers.base.UniformArguments` with the number of bins."""

    bins: int = 2048

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        if self.bins < 2:
            raise ConfigError(f"{observer}: bins must be at least 2, got {self.bins}")


class HistogramObserver(UniformObserver):
    """A histogram whose range grows, and the range of least squared quantization error in it.

    Infinite values are ignored, as in torch.  ``low``, ``high``: the extremes seen (float32);
    ``counts``: float64 of ``bins`` entries over [low, high].
    """

    arguments_type: ClassVar[type[ObserverArguments]] = HistogramArguments

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        super().__init__(spec, name)
        arguments = spec.arguments
        assert isinstance(arguments, HistogramArguments)
        self.bins = arguments.bins
        self.low = F32(np.inf)
        self.high = F32(-np.inf)
        self.counts: Counts = np.zeros(self.bins, np.float64)

    @property
    def seen(self) -> bool:
        """Whether any finite value was seen."""
        return bool(self.low <= self.high)

    def update(self, array: Any) -> None:
        """Count a float tensor of any shape; the range grows to hold it."""
        values = self.finite(array)
        if values.size == 0:
            return
        low, high = F32(values.min()), F32(values.max())
        if self.seen:
            low, high = min(low, self.low), max(high, self.high)
        fresh = _count(values, self.bins, low, high)
        self.counts = fresh + self._spread(low, high) if self.seen else fresh
        self.low, self.high = low, high

    def merge(self, other: Observer) -> None:
        """Add the histogram of ``other``, both spread over the common range (approximate)."""
        self.check_mergeable(other)
        assert isinstance(other, HistogramObserver)
        self.infinite += other.infinite
        if not other.seen:
            return
        if not self.seen:
            self.low, self.high, self.counts = other.low, other.high, other.counts.copy()
            return
        low, high = min(self.low, other.low), max(self.high, other.high)
        self.counts = self._spread(low, high) + other._spread(low, high)
        self.low, self.high = low, high

    def _spread(self, low: F32, high: F32) -> Counts:
        """The counts over the wider range [low, high]."""
        if low == self.low and high == self.high:
            return self.counts
        if self.low == self.high:
            one_bin = _count(np.asarray(self.low), self.bins, low, high)
            return np.asarray(one_bin * self.counts.sum(), np.float64)
        pieces = self.bins * UPSAMPLE
        with np.errstate(over="ignore"):
            width = F32(F32(self.high - self.low) / F32(pieces))
        middles = _linspace(self.low, self.high, pieces + 1)[:-1] + F32(0.5) * width
        edges = _linspace(low, high, self.bins + 1)
        target = np.clip(np.searchsorted(edges, middles, side="right") - 1, 0, self.bins - 1)
        parts = np.repeat(self.counts, UPSAMPLE) / UPSAMPLE
        return np.bincount(target, weights=parts, minlength=self.bins).astype(np.float64)

    def best_range(self) -> tuple[F32, F32]:
        """The range inside [low, high] that the greedy search finds (float32 each)."""
        if not self.seen:
            raise self.nothing_seen()
        if self.low == self.high:
            return self.low, self.high
        counts = self.counts.astype(F32)
        levels = _levels(self.arguments.dtype)
        start, end = _search(counts, float(self.high) - float(self.low), levels)
        with np.errstate(over="ignore", invalid="ignore"):
            width = F32(F32(self.high - self.low) / F32(self.bins))
            return self.low + width * F32(start), self.low + width * F32(end + 1)

    def qparams(self) -> QuantParams:
        """The parameters of :meth:`best_range`; raises DataError when nothing was seen."""
        low, high = self.best_range()
        return self.arguments.qparams(low, high)

    def state(self) -> State:
        """``histogram`` float64 [bins], ``min_val``, ``max_val`` float32 and ``infinite``."""
        return {
            "histogram": self.counts.copy(),
            "min_val": np.asarray(self.low),
            "max_val": np.asarray(self.high),
            "infinite": np.asarray(self.infinite, np.int64),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was seen; raises DataError for a state with other bins."""
        counts = self.state_entry(state, "histogram").astype(np.float64)
        if counts.shape != (self.bins,):
            raise DataError(
                f"the saved state of {self.label} has {counts.size} bins, not {self.bins}: "
                f"calibrate again"
            )
        self.counts = counts
        self.low = F32(self.state_entry(state, "min_val"))
        self.high = F32(self.state_entry(state, "max_val"))
        self.infinite = int(self.state_entry(state, "infinite"))


def _levels(dtype: str) -> int:
    """How many values ``dtype`` tells apart; torch takes the whole type, whatever the range."""
    return 1 << int("".join(c for c in dtype if c.isdigit()))


def _linspace(low: F32, high: F32, count: int) -> FloatArray:
    """``torch.linspace`` in float32: both halves are counted from their own end.

    torch's loop is compiled to fused multiply-adds.  A product of two float32 is exact in float64,
    so one rounding of the float64 sum stands for it.
    """
    with np.errstate(over="ignore"):
        step = float(F32(F32(high - low) / F32(count - 1)))
    if not np.isfinite(step):  # wider than float32: qparams() will say so
        return np.linspace(float(low), float(high), count).astype(F32)
    index = np.arange(count, dtype=np.float64)
    from_low = float(low) + step * index
    from_high = float(high) - step * (count - 1 - index)
    return np.where(index < count // 2, from_low, from_high).astype(F32)


def _count(values: FloatArray, bins: int, low: F32, high: F32) -> Counts:
    """``torch.histc``: counts of ``values`` in equal bins over [low, high], the last one closed.

    A range of no width is taken as [low - 1, high + 1].
    """
    if low == high:
        low, high = F32(low - F32(1)), F32(high + F32(1))
        if low == high:  # beyond 2^24 a step of 1 is lost: one bin holds all
            return np.bincount([bins // 2] * values.size, minlength=bins).astype(np.float64)
    flat = values.reshape(-1)
    if float(high) - float(low) < HUGE:
        place = (flat - low) * F32(bins) / F32(high - low)
    else:
        share = (flat.astype(np.float64) - low) / (float(high) - float(low))
        place = (share * bins).astype(F32)
    # The greatest value belongs to the last bin, and rounding may reach its far edge too.
    index = np.minimum(place.astype(np.int64), bins - 1)
    return np.bincount(index, minlength=bins).astype(np.float64)


def _search(counts: FloatArray, span: float, levels: int) -> tuple[int, int]:
    """The first and last bin kept by the greedy search; ``span`` is ``high - low``.

    Start with all bins.  In turn, give up ``STEP`` of the mass on the side where that skips more
    bins (the right one on a tie), and stop as soon as the squared error grows.
    """
    # Only the order of errors counts, and a power of two leaves it alone; without it the cubes of
    # very wide and very narrow ranges leave float32 (and torch's search goes astray).
    span = float(np.frexp(span)[0])
    total = float(F32(counts.sum(dtype=np.float64)))
    mass = np.cumsum(counts, dtype=np.float64).astype(F32)
    steps = round(1 / STEP) + 2
    alphas = np.add.accumulate(np.concatenate(([0.0], np.full(steps, STEP))))
    betas = np.subtract.accumulate(np.concatenate(([1.0], np.full(steps, STEP))))
    # left[k]: first bin that reaches share alphas[k]; right[k]: last bin not past betas[k].
    left = np.searchsorted(mass, (alphas * total).astype(F32), side="left").tolist()
    right = (np.searchsorted(mass, (betas * total).astype(F32), side="right") - 1).tolist()
    lower, upper = alphas.tolist(), betas.tolist()
    start, end, i, j = 0, len(counts) - 1, 0, 0
    least = float("inf")
    while lower[i] < upper[j]:
        new_start = min(max(start, left[i + 1]), end)
        new_end = max(min(end, right[j + 1]), start)
        if new_start - start > end - new_end:
            i, new_end = i + 1, end
        else:
            j, new_start = j + 1, start
        if new_start == start and new_end == end:
            continue
        error = _squared_error(counts, span, levels, new_start, new_end)
        if error > least:
            break
        least, start, end = error, new_start, new_end
    return start, end


def _squared_error(counts: FloatArray, span: float, levels: int, start: int, end: int) -> float:
    """Squared error when bins ``start..end`` are cut into ``levels`` equal steps.

    A bin's mass is uniform in it: density times the integral of the squared distance to the centre
    of its step, which is (e^3 - b^3) / 3 for a piece [b, e] around the centre; what lies outside
    goes to the outermost step.  All in float32, in torch's order.
    """
    bins = len(counts)
    width = span / bins
    step = width * (end - start + 1) / levels
    if step == 0.0:
        return 0.0
    half = F32(step / 2)
    begin = (np.arange(bins) - start).astype(F32) * F32(width)
    finish = begin + F32(width)
    first = np.clip(np.floor_divide(begin, F32(step)), F32(0), F32(levels - 1))
    last = np.clip(np.floor_divide(finish, F32(step)), F32(0), F32(levels - 1))
    density = counts / F32(width)
    near = _cube_difference(begin - (first + F32(0.5)) * F32(step), half)
    whole = _cube_difference(-half, half)
    far = _cube_difference(-half, finish - (last * F32(step) + half))
    error = density * near + (last - first - F32(1)) * (density * whole) + density * far
    return float(error.sum(dtype=np.float64))


def _cube_difference(begin: Any, end: Any) -> Any:
    """The integral of x^2 over [begin, end]."""
    return (end * end * end - begin * begin * begin) / F32(3)
