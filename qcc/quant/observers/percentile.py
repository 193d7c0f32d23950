"""The percentile observer: clip what lies beyond a share of the values.

Source: Wu et al. 2020, arXiv:2004.09602, as in onnxruntime's and NVIDIA's percentile calibration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.errors import ConfigError
from qcc.quant.observers.base import ObserverArguments
from qcc.quant.observers.grid import GridArguments, GridObserver, Side


@dataclass(frozen=True)
class PercentileArguments(GridArguments):
    """:class:`GridArguments` with the share of values to keep, in percent, in (50, 100]."""

    percentile: float = 99.99

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        if not 50 < self.percentile <= 100:
            raise ConfigError(
                f"{observer}: percentile must lie in (50, 100], got {self.percentile}"
            )


class PercentileObserver(GridObserver):
    """The range that keeps ``percentile`` of the values, and never more than was seen.

    A symmetric qscheme cuts the magnitudes; an affine one cuts half of the rest on either side.
    A bound is the far edge of a bin, so at most the wanted share is clipped.
    """

    arguments_type: ClassVar[type[ObserverArguments]] = PercentileArguments

    def search(self) -> tuple[float, float]:
        """The bounds that cut the wanted share."""
        arguments = self.spec.arguments
        assert isinstance(arguments, PercentileArguments)
        cut = 1.0 - arguments.percentile / 100.0
        low, high = self.extremes
        total = int(self.counts.sum())
        if self.arguments.symmetric:
            bound = _bound(self.magnitudes(), cut * total)
            return max(low, -bound), min(high, bound)
        allowed = cut / 2 * total
        return (
            max(low, -_bound(self.negative(), allowed)),
            min(high, _bound(self.positive(), allowed)),
        )


def _bound(side: Side, allowed: float) -> float:
    """The least bin edge beyond which at most ``allowed`` values lie."""
    beyond = np.cumsum(side.counts[::-1])[::-1]  # beyond[k]: values in bin k and farther out
    return float(np.count_nonzero(beyond > allowed)) * side.width
