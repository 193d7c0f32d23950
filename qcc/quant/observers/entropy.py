"""The entropy observer: clip where the quantized distribution diverges least from the real one.

Source: Migacz, "8-bit Inference with TensorRT", GTC 2017 (S7310), with two changes of NVIDIA's
pytorch-quantization: group borders are spread evenly instead of leaving the remainder to the last
group, and the bin at 0 is given its neighbour's count, because 0 itself is represented exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.quant.observers.base import ObserverArguments
from qcc.quant.observers.grid import Floats, GridArguments, GridObserver

SMOOTHING = 1e-4
"""The probability given to a bin that the quantized distribution cannot reach."""
CANDIDATES = 2048
"""At most so many thresholds are compared."""


@dataclass(frozen=True)
class EntropyArguments(GridArguments):
    """:class:`GridArguments`: nothing else to choose."""


class EntropyObserver(GridObserver):
    """The magnitude at which clipping loses least information (Kullback-Leibler divergence).

    The number of levels on the magnitudes follows the scheme and the data: 128 for symmetric int8,
    256 for affine data of one sign (a tensor after Relu), and in between by the longer side's
    share of the range.  The threshold clips both sides alike, never beyond what was seen.
    """

    arguments_type: ClassVar[type[ObserverArguments]] = EntropyArguments

    def search(self) -> tuple[float, float]:
        """The range of least divergence."""
        low, high = self.extremes
        side = self.magnitudes()
        bins = best_threshold(side.counts.astype(np.float64), self._levels(low, high))
        # As in the source, half a bin beyond the last one that is kept.
        bound = (bins + 0.5) * side.width
        return max(low, -bound), min(high, bound)

    def _levels(self, low: float, high: float) -> int:
        bottom, top = self.arguments.quant_range
        levels = top - bottom + 1
        if self.arguments.symmetric or high == low:
            return (levels + 1) // 2
        return round(levels * max(-low, high) / (high - low))


def best_threshold(counts: Floats, levels: int) -> int:
    """How many of the first bins of a histogram of magnitudes to keep; at least ``levels``.

    For each candidate i, P is the first i bins with everything beyond added to the last, and Q
    the first i bins (nothing added) merged into ``levels`` groups whose sum is spread evenly over
    their non-empty bins.  The i of least KL(P || Q) wins, the greatest on a tie.  All bins stay
    when there are no more of them than levels.
    """
    size = len(counts)
    if size <= levels:
        return size
    counts = counts.copy()
    counts[0] = counts[1]
    if not counts.any():
        return size
    stride = -(-(size - levels) // CANDIDATES)
    candidates = np.arange(size, levels - 1, -stride)[::-1]
    # A chunk's tables stay in the cache.
    divergences = [_divergence(counts, c, levels) for c in np.array_split(candidates, 16) if c.size]
    reverse = np.concatenate(divergences)[::-1]
    return int(candidates[len(candidates) - 1 - int(np.argmin(reverse))])


def _divergence(counts: Floats, candidates: NDArray[np.int64], levels: int) -> Floats:
    """KL(P || Q) for every candidate (1-D), from prefix sums: only groups are visited, not bins.

    With p the counts of P (sum T), q those of Q (sum C) and g running over groups,
    ``T * KL = sum p ln p - sum_g S_g ln(S_g / N_g) - O ln q_last - T ln(T / C)``, where S_g and
    N_g are the sum and the number of non-empty bins of g, and O is what lies beyond.
    """
    mass = np.concatenate(([0.0], np.cumsum(counts)))
    filled = np.concatenate(([0], np.cumsum(counts > 0)))
    entropy = np.concatenate(([0.0], np.cumsum(_x_log_x(counts))))
    total = mass[-1]
    kept = mass[candidates]
    outliers = total - kept
    borders = candidates[:, None] * np.arange(levels + 1) // levels
    sums = np.diff(mass[borders], axis=1)
    numbers = np.diff(filled[borders], axis=1)
    spread = sums / np.maximum(numbers, 1)
    logs = np.log(np.where(spread > 0, spread, 1.0))
    last = counts[candidates - 1]
    p_log_p = entropy[candidates] - _x_log_x(last) + _x_log_x(last + outliers)
    q_last = np.where(last > 0, spread[:, -1], SMOOTHING * kept)
    with np.errstate(divide="ignore", invalid="ignore"):
        p_log_q = (sums * logs).sum(axis=1) + np.where(outliers > 0, outliers * np.log(q_last), 0.0)
        divergence = (p_log_p - p_log_q) / total - np.log(total / kept)
    return np.where(kept > 0, divergence, np.inf)


def _x_log_x(x: Floats) -> Floats:
    """``x ln x``, 0 at 0."""
    result: Floats = x * np.log(np.where(x > 0, x, 1.0))
    return result
