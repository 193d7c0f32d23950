"""Observers that do not look for a range: fixed parameters, a dtype only, a record, a marker.

As torch.ao's FixedQParamsObserver, PlaceholderObserver, RecordingObserver and ReuseInputObserver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError, DataError
from qcc.numerics import STORAGE_RANGE
from qcc.quant.observers.base import (
    DTypeArguments,
    Observer,
    ObserverArguments,
    ObserverSpec,
    State,
)
from qcc.quant.qparams import QuantParams, storage_range

FLOAT_DTYPES = ("float32", "float16", "bfloat16")
"""Dtypes of a tensor that is not quantized."""


@dataclass(frozen=True)
class FixedQParamsArguments(DTypeArguments):
    """The parameters themselves; the stored bounds default to the dtype's."""

    scale: float = 1.0
    zero_point: int = 0
    quant_min: int | None = None
    quant_max: int | None = None

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the parameters are valid."""
        super().check(observer)
        if (self.quant_min is None) != (self.quant_max is None):
            raise ConfigError(f"{observer}: give quant_min and quant_max together")
        self.qparams()

    @property
    def quant_range(self) -> tuple[int, int]:
        """The inclusive stored bounds."""
        if self.quant_min is not None and self.quant_max is not None:
            return self.quant_min, self.quant_max
        return storage_range(self.dtype)

    @property
    def fixed(self) -> tuple[float, int]:
        """Scale and zero point."""
        return self.scale, self.zero_point

    def qparams(self) -> QuantParams:
        """The fixed parameters."""
        low, high = self.quant_range
        return QuantParams.make(
            self.scale, self.zero_point, self.dtype, quant_min=low, quant_max=high
        )


@dataclass(frozen=True)
class PlaceholderArguments(ObserverArguments):
    """A dtype, quantized or float, and whether its range is found at run time."""

    dtype: str = "float32"
    is_dynamic: bool = False

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the dtype is known."""
        known = (*FLOAT_DTYPES, *STORAGE_RANGE)
        if self.dtype not in known:
            raise ConfigError(f"{observer}: dtype must be one of {', '.join(known)}")


@dataclass(frozen=True)
class ReuseInputArguments(DTypeArguments):
    """No choice of its own; the dtype is that of the input."""


class _Blind(Observer):
    """Sees nothing and has no state."""

    def update(self, array: Any) -> None:
        """Ignore the tensor."""

    def merge(self, other: Observer) -> None:
        """Nothing to take in; raises ConfigError when the specs differ."""
        self.check_mergeable(other)

    def state(self) -> State:
        """No state."""
        return {}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Nothing to replace."""


class FixedQParamsObserver(_Blind):
    """Gives the scale and zero point that it was told (for Sigmoid, Softmax, Tanh, ...)."""

    arguments_type: ClassVar[type[ObserverArguments]] = FixedQParamsArguments

    def qparams(self) -> QuantParams:
        """The fixed parameters."""
        arguments = self.spec.arguments
        assert isinstance(arguments, FixedQParamsArguments)
        return arguments.qparams()


class PlaceholderObserver(_Blind):
    """States a dtype only: a float tensor, or one whose range is found at run time."""

    arguments_type: ClassVar[type[ObserverArguments]] = PlaceholderArguments

    def qparams(self) -> QuantParams:
        """Raises ConfigError: a placeholder has no parameters."""
        raise ConfigError(f"{self.label} states a dtype only: use an observer that sees data")


class ReuseInputObserver(_Blind):
    """Marks an output that takes its producer's input parameters (reshape and the like)."""

    arguments_type: ClassVar[type[ObserverArguments]] = ReuseInputArguments

    def qparams(self) -> QuantParams:
        """Raises ConfigError: the parameters are the input's."""
        raise ConfigError(f"{self.label} has no parameters: take those of the op's input")


class RecordingObserver(Observer):
    """Keeps every tensor that it sees, for debugging; its state grows with the data."""

    arguments_type: ClassVar[type[ObserverArguments]] = DTypeArguments

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        super().__init__(spec, name)
        self.tensors: list[NDArray[np.float32]] = []

    def update(self, array: Any) -> None:
        """Keep a float32 copy of the tensor, whatever its values."""
        self.tensors.append(np.array(array, np.float32))

    def merge(self, other: Observer) -> None:
        """Append the tensors of ``other``."""
        self.check_mergeable(other)
        assert isinstance(other, RecordingObserver)
        self.tensors.extend(other.tensors)

    def qparams(self) -> QuantParams:
        """Raises ConfigError: a record has no parameters."""
        raise ConfigError(f"{self.label} only records tensors: use an observer that finds a range")

    def state(self) -> State:
        """``count`` and the tensors ``tensor_0``, ``tensor_1``, ..."""
        tensors = {f"tensor_{i}": tensor for i, tensor in enumerate(self.tensors)}
        return {"count": np.asarray(len(self.tensors), np.int64), **tensors}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace the tensors; raises DataError when one is missing."""
        count = int(self.state_entry(state, "count"))
        if count < 0:
            raise DataError(f"the saved state of {self.label} does not fit: calibrate again")
        entries = [self.state_entry(state, f"tensor_{i}") for i in range(count)]
        self.tensors = [np.asarray(entry, np.float32) for entry in entries]
