"""Fake quantization: quantize and dequantize at once, and the pair of it with an observer.

The arithmetic is contract 1 of :mod:`qcc.numerics` (a true division, half to even), so a
fake-quantized tensor holds exactly the values that the quantized graph computes with.  There is
no gradient: forward only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError
from qcc.numerics import dequantize, quantize
from qcc.quant.observers.base import Observer, ObserverArguments, ObserverSpec, State
from qcc.quant.observers.minmax import MovingAverageMinMaxObserver
from qcc.quant.observers.registry import register_observer
from qcc.quant.qparams import QuantParams

FloatArray = NDArray[np.float32]


def quantize_with(x: Any, params: QuantParams) -> NDArray[Any]:
    """``x`` (float32, any shape) as stored integers of ``params.storage``."""
    return quantize(
        x,
        params.scales,
        params.zero_points,
        params.storage,
        axis=params.axis,
        low=params.quant_min,
        high=params.quant_max,
    )


def dequantize_with(q: Any, params: QuantParams) -> FloatArray:
    """Stored integers (any shape) as float32."""
    return dequantize(q, params.scales, params.zero_points, axis=params.axis)


def fake_quantize(x: Any, params: QuantParams) -> FloatArray:
    """``dequantize(quantize(x))``: float32 of the same shape, rounded to what can be stored."""
    return dequantize_with(quantize_with(x, params), params)


DEFAULT_OBSERVER = MovingAverageMinMaxObserver.with_args()
"""torch's choice for fake quantization."""


@dataclass(frozen=True)
class FakeQuantizeArguments(ObserverArguments):
    """The observer that finds the parameters."""

    observer: ObserverSpec = DEFAULT_OBSERVER

    def check(self, observer: str) -> None:
        """Raise ConfigError unless the inner observer is a spec that gives parameters."""
        inner = self.observer
        if not isinstance(inner, ObserverSpec) or issubclass(inner.observer, FakeQuantize):
            raise ConfigError(
                f"{observer}: observer must be a spec such as MinMaxObserver.with_args(), "
                f"got {inner!r}"
            )

    @property
    def dtype(self) -> str:
        """The observer's dtype."""
        return self.observer.dtype

    @property
    def qscheme(self) -> str | None:
        """The observer's qscheme."""
        return self.observer.qscheme

    @property
    def quant_range(self) -> tuple[int, int] | None:
        """The observer's stored bounds."""
        return self.observer.quant_range

    @property
    def eps(self) -> float | None:
        """The observer's least scale."""
        return self.observer.eps

    @property
    def ch_axis(self) -> int | None:
        """The observer's channel axis."""
        return self.observer.ch_axis

    @property
    def is_dynamic(self) -> bool:
        """Whether the observer's range is found at run time."""
        return self.observer.is_dynamic

    @property
    def fixed(self) -> tuple[float, int] | None:
        """The observer's fixed scale and zero point."""
        return self.observer.fixed


class FakeQuantize(Observer):
    """An observer that also gives back the tensor as quantization will change it.

    ``observer_enabled``: tensors update the observer (and thereby the parameters);
    ``fake_quant_enabled``: :meth:`forward` fake-quantizes, otherwise it gives its input back.
    With the observer disabled the parameters stay as they were when it was.
    """

    arguments_type: ClassVar[type[ObserverArguments]] = FakeQuantizeArguments

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        super().__init__(spec, name)
        arguments = spec.arguments
        assert isinstance(arguments, FakeQuantizeArguments)
        self.observer = arguments.observer(name)
        self.observer_enabled = True
        self.fake_quant_enabled = True

    def forward(self, x: Any) -> FloatArray:
        """See ``x`` (float32, any shape) and give it back, each as the flags say.

        Raises DataError when it shall fake-quantize and nothing was ever seen.
        """
        self.update(x)
        values: FloatArray = np.asarray(x, np.float32)
        return fake_quantize(values, self.qparams()) if self.fake_quant_enabled else values

    def __call__(self, x: Any) -> FloatArray:
        """The same as :meth:`forward`."""
        return self.forward(x)

    def enable_observer(self, enabled: bool = True) -> None:
        """Let tensors update the parameters, or not."""
        self.observer_enabled = enabled

    def disable_observer(self) -> None:
        """Keep the parameters as they are."""
        self.enable_observer(False)

    def enable_fake_quant(self, enabled: bool = True) -> None:
        """Let :meth:`forward` fake-quantize, or not."""
        self.fake_quant_enabled = enabled

    def disable_fake_quant(self) -> None:
        """Let :meth:`forward` give its input back."""
        self.enable_fake_quant(False)

    def update(self, array: Any) -> None:
        """Show the tensor to the observer, if it is enabled."""
        if self.observer_enabled:
            self.observer.update(array)
            self.infinite = self.observer.infinite

    def merge(self, other: Observer) -> None:
        """Take in what the observer of ``other`` has seen after this one's."""
        self.check_mergeable(other)
        assert isinstance(other, FakeQuantize)
        self.observer.merge(other.observer)
        self.infinite = self.observer.infinite

    def qparams(self) -> QuantParams:
        """The observer's parameters."""
        return self.observer.qparams()

    def state(self) -> State:
        """The observer's state and the two flags."""
        return {
            **self.observer.state(),
            "observer_enabled": np.asarray(self.observer_enabled),
            "fake_quant_enabled": np.asarray(self.fake_quant_enabled),
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace the observer's state and the flags."""
        self.observer.load_state(state)
        self.infinite = self.observer.infinite
        self.observer_enabled = bool(self.state_entry(state, "observer_enabled"))
        self.fake_quant_enabled = bool(self.state_entry(state, "fake_quant_enabled"))


register_observer(FakeQuantize)
