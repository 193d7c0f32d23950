"""The squared-error observer: the range whose quantizer moves the values least.

Source: the "mse" calibration of NVIDIA's pytorch-quantization, over a grid of clipped ranges; for
affine schemes the grid has two dimensions, one for each bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError
from qcc.quant.lattice import DistinctValues
from qcc.quant.observers.base import Observer, ObserverArguments, ObserverSpec, State
from qcc.quant.observers.grid import Floats, GridArguments, GridObserver

POINTS = 9
"""Bounds compared on a side in one round of the search."""
ROUNDS = 5
"""Rounds of the search, each around the best point of the one before."""
_TINY = np.float32(1e-30)
"""What an error of 0 counts as, so that it has a logarithm."""

LEAST_SHARE = 0.02
"""A range is never clipped to less than this share of what was seen."""


@dataclass(frozen=True)
class MSEArguments(GridArguments):
    """:class:`GridArguments`, and the power of the error that is summed.

    A ``norm`` above 2 weighs large errors more, so that fewer outliers are clipped.
    """

    norm: float = 2.0

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        if not 1.0 <= self.norm <= 8.0:
            raise ConfigError(f"{observer}: norm must lie in 1 to 8, got {self.norm}")


class MSEObserver(GridObserver):
    """The range of least squared quantization error over the histogram's bin centres.

    Data that already lie on a grid which fits the stored type (bytes scaled by a constant) keep
    their step, and are then quantized without error.

    Every candidate is judged with the scale and zero point that it would really get.  A symmetric
    qscheme shrinks the magnitude; an affine one shrinks both bounds on their own.  A coarse grid
    is refined around its best point; the full range is always among the candidates.
    """

    arguments_type: ClassVar[type[ObserverArguments]] = MSEArguments

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        super().__init__(spec, name)
        self.distinct = DistinctValues()

    def count(self, values: NDArray[np.float32]) -> None:
        """Count finite values, and the distinct ones while they are few."""
        super().count(values)
        self.distinct.add(values)

    def merge(self, other: Observer) -> None:
        """Add what ``other`` has seen."""
        super().merge(other)
        assert isinstance(other, MSEObserver)
        self.distinct.merge(other.distinct)

    def state(self) -> State:
        """That of the histogram, and the distinct values."""
        return super().state() | self.distinct.state()

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was seen; raises DataError for a state with other bins."""
        super().load_state(state)
        for key in self.distinct.state():
            self.state_entry(state, key)
        self.distinct.load_state(state)

    @property
    def arguments(self) -> MSEArguments:
        """The arguments, typed."""
        arguments = self.spec.arguments
        assert isinstance(arguments, MSEArguments)
        return arguments

    def search(self) -> tuple[float, float]:
        """The range of least error."""
        low, high = self.extremes
        if low == high:
            return low, high
        kept = self._grid_range()
        if kept is not None:
            return kept
        values, weights = self._points()
        if self.arguments.symmetric:
            bound = max(-low, high)
            share = self._refine(values, weights, low=0.0, high=bound)[1]
            return max(low, -share * bound), min(high, share * bound)
        shares = self._refine(values, weights, low=low, high=high)
        return shares[0] * low, shares[1] * high

    def _grid_range(self) -> tuple[float, float] | None:
        """The range whose step is that of the data's own grid, if they have one that fits."""
        lattice = self.distinct.lattice
        if lattice is None:
            return None
        arguments = self.arguments
        bottom, top = arguments.quant_range
        if arguments.symmetric:
            reach = (top - bottom) / 2
            low, high = -reach, reach
            fits = max(-lattice.low, lattice.high) <= min(top, reach)
        else:
            slack = (top - bottom) - (lattice.high - lattice.low)
            # What was not seen may lie on either side, unless nothing is negative.
            low = lattice.low - (slack // 2 if lattice.low < 0 < lattice.high else 0)
            high = low + (top - bottom)
            fits = slack >= 0 and low <= 0 <= high
        return (low * lattice.step, high * lattice.step) if fits else None

    def _points(self) -> tuple[Floats, Floats]:
        """The non-empty bins: their centres (0's own bin is taken as 0) and their counts."""
        negative, positive = self.negative(), self.positive()
        centres = np.concatenate([-negative.centres[::-1], positive.centres])
        counts = np.concatenate([negative.counts[::-1], positive.counts])
        if len(positive.counts):
            # Exact zeros dominate this bin after a Relu, and they are represented exactly.
            centres[len(negative.counts)] = 0.0
        used = counts > 0
        return centres[used], counts[used].astype(np.float64)

    def _refine(
        self, values: Floats, weights: Floats, *, low: float, high: float
    ) -> tuple[float, float]:
        """The best shares of ``low`` and ``high`` to keep; the share of a bound at 0 is 1."""
        best = (1.0, 1.0)
        reach = 1.0 - LEAST_SHARE
        least = float("inf")
        for _ in range(ROUNDS):
            lows, highs = _around(best[0], reach, low), _around(best[1], reach, high)
            pairs = np.stack(np.meshgrid(lows, highs, indexing="ij"), axis=-1).reshape(-1, 2)
            errors = self._errors(values, weights, pairs[:, 0] * low, pairs[:, 1] * high)
            place = int(np.argmin(errors))
            if errors[place] < least:
                least, best = float(errors[place]), (float(pairs[place, 0]), float(pairs[place, 1]))
            reach *= 2.0 / (POINTS - 1)
        return best

    def _errors(
        self, values: Floats, weights: Floats, lows: Floats, highs: Floats
    ) -> NDArray[np.float64]:
        """The weighted error of each candidate range."""
        params = self.arguments.qparams(lows, highs, axis=0)
        zeros = params.zero_points
        bounds = params.quant_min - zeros, params.quant_max - zeros
        norm, found = self.arguments.norm, np.empty(len(lows))
        # float32 is exact enough to compare ranges, and its logarithms take a tenth of the time;
        # in units of the largest magnitude no power overflows.
        unit = float(np.abs(values).max())
        points, shares = (values / unit).astype(np.float32), weights.astype(np.float32)
        difference = np.empty_like(points)
        for place, scale in enumerate((params.scales / unit).astype(np.float32)):
            np.divide(points, scale, out=difference)
            np.rint(difference, out=difference)
            np.clip(difference, bounds[0][place], bounds[1][place], out=difference)
            difference *= scale
            difference -= points
            if norm == 2.0:
                difference *= difference
            else:
                np.abs(difference, out=difference)
                np.maximum(difference, _TINY, out=difference)
                np.log(difference, out=difference)
                difference *= np.float32(norm)
                np.exp(difference, out=difference)
            found[place] = np.dot(shares, difference)
        return found


def _around(centre: float, reach: float, bound: float) -> Floats:
    """The shares to try on a side: evenly spaced around ``centre``, within [LEAST_SHARE, 1]."""
    if bound == 0.0:
        return np.ones(1)
    first = max(LEAST_SHARE, centre - reach)
    last = min(1.0, centre + reach)
    return np.linspace(last, first, POINTS)
