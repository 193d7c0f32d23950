"""What every observer is: a small state that sees tensors, and a spec that says how to make one.

An :class:`ObserverSpec` is data: frozen, comparable, printed as valid input
(``MinMaxObserver.with_args(dtype='int8')``) and convertible to JSON.  Calling it makes a fresh
:class:`Observer`.  An observer's state has a bounded size whatever it sees, and is a dictionary of
arrays that ``numpy.savez`` can hold without pickling.

All observers see only finite values: infinities are dropped (a quantized value is clamped in any
case) and counted in :attr:`Observer.infinite`; NaN raises DataError.  Ranges always include 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError, DataError
from qcc.quant.qparams import (
    DEFAULT_EPS,
    QuantParams,
    affine_qparams,
    check_quant_range,
    default_quant_range,
    storage_range,
)

State = dict[str, NDArray[Any]]
"""An observer's state: named arrays, none of object dtype."""

QSCHEMES = (
    "per_tensor_affine",
    "per_tensor_symmetric",
    "per_channel_affine",
    "per_channel_symmetric",
)


@dataclass(frozen=True)
class ObserverArguments:
    """The choices of an observer: one field an argument, each with a default."""

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""


@dataclass(frozen=True)
class DTypeArguments(ObserverArguments):
    """The quantized storage type that the tensor is to have."""

    dtype: str = "uint8"

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        storage_range(self.dtype)


@dataclass(frozen=True)
class UniformArguments(DTypeArguments):
    """Arguments of an observer that turns a range into a scale and a zero point.

    ``quant_min`` and ``quant_max`` are given together or not at all; by default they are the
    storage's bounds, but [-127, 127] for symmetric int8 (torch: [-128, 127], hence a half range of
    127.5; give both bounds to get that).  ``reduce_range`` halves either.  ``eps`` is the least
    scale.
    """

    qscheme: str = "per_tensor_affine"
    reduce_range: bool = False
    quant_min: int | None = None
    quant_max: int | None = None
    eps: float = DEFAULT_EPS

    def check(self, observer: str) -> None:
        """Raise ConfigError, naming ``observer``, unless the arguments fit together."""
        super().check(observer)
        if self.qscheme not in QSCHEMES:
            raise ConfigError(f"{observer}: qscheme must be one of {', '.join(QSCHEMES)}")
        if self.per_channel != ("ch_axis" in {f.name for f in fields(self)}):
            wanted = "per tensor" if self.per_channel else "per channel"
            raise ConfigError(
                f"{observer} works {wanted}: choose a qscheme that is not '{self.qscheme}'"
            )
        if (self.quant_min is None) != (self.quant_max is None):
            raise ConfigError(f"{observer}: give quant_min and quant_max together")
        if not 0 < self.eps < float("inf"):
            raise ConfigError(f"{observer}: eps must be positive and finite, got {self.eps}")
        low, high = self.quant_range
        check_quant_range(self.dtype, low, high)
        if not low <= 0 <= high:
            raise ConfigError(f"{observer}: the range [{low}, {high}] must include 0")

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is fixed in the middle."""
        return self.qscheme.endswith("symmetric")

    @property
    def per_channel(self) -> bool:
        """Whether every channel has its own scale."""
        return self.qscheme.startswith("per_channel")

    @property
    def quant_range(self) -> tuple[int, int]:
        """The inclusive stored bounds, ``reduce_range`` applied."""
        if self.quant_min is not None and self.quant_max is not None:
            low, high = self.quant_min, self.quant_max
        elif self.reduce_range:
            low, high = storage_range(self.dtype)
        else:
            low, high = default_quant_range(self.dtype, symmetric=self.symmetric)
        return (low // 2, high // 2) if self.reduce_range else (low, high)

    def qparams(self, low: Any, high: Any, *, axis: int | None = None) -> QuantParams:
        """The parameters that cover ``[low, high]`` (scalars, or 1-D along ``axis``)."""
        bottom, top = self.quant_range
        default = self.quant_min is None and not self.reduce_range
        return affine_qparams(
            low,
            high,
            self.dtype,
            symmetric=self.symmetric,
            quant_min=None if default else bottom,
            quant_max=None if default else top,
            eps=self.eps,
            axis=axis,
        )


@dataclass(frozen=True, repr=False)
class ObserverSpec:
    """How to make an observer: its class and its arguments.  Call it to get a fresh observer."""

    observer: type[Observer]
    arguments: ObserverArguments

    def __call__(self, name: str = "") -> Observer:
        """A fresh observer; ``name`` (of the tensor) appears in its error sentences."""
        return self.observer(self, name)

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self._changed().items())
        return f"{self.observer.__name__}.with_args({shown})"

    def _changed(self) -> dict[str, Any]:
        """The arguments that differ from their defaults, in the order of declaration."""
        default = self.observer.arguments_type()
        pairs = {f.name: getattr(self.arguments, f.name) for f in fields(self.arguments)}
        return {key: value for key, value in pairs.items() if value != getattr(default, key)}

    def with_args(self, **arguments: Any) -> ObserverSpec:
        """The same observer with some arguments replaced; raises ConfigError for a bad one."""
        name = self.observer.__name__
        known = [f.name for f in fields(self.arguments)]
        unknown = [key for key in arguments if key not in known]
        if unknown:
            raise ConfigError(f"{name} has no argument '{unknown[0]}': it takes {', '.join(known)}")
        default = self.observer.arguments_type()
        for key, value in arguments.items():
            check_type(f"{name}: {key}", value, getattr(default, key))
        changed = replace(self.arguments, **arguments)
        changed.check(name)
        return ObserverSpec(self.observer, changed)

    def from_state(self, state: Mapping[str, NDArray[Any]], name: str = "") -> Observer:
        """An observer as :meth:`Observer.state` left it; raises DataError for a bad state."""
        observer = self(name)
        observer.load_state(state)
        return observer

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON data: the class's name and the arguments that differ from defaults."""
        data: dict[str, Any] = {"type": self.observer.__name__}
        for key, value in self._changed().items():
            data[key] = value.to_dict() if isinstance(value, ObserverSpec) else value
        return data

    @property
    def dtype(self) -> str:
        """The dtype that the observed tensor is to have."""
        return str(getattr(self.arguments, "dtype", "float32"))

    @property
    def is_dynamic(self) -> bool:
        """Whether the range is found at run time."""
        return bool(getattr(self.arguments, "is_dynamic", False))

    @property
    def qscheme(self) -> str | None:
        """One of :data:`QSCHEMES`, or None where the observer has none."""
        return getattr(self.arguments, "qscheme", None)

    @property
    def quant_range(self) -> tuple[int, int] | None:
        """The inclusive stored bounds, or None where the observer states none."""
        return getattr(self.arguments, "quant_range", None)

    @property
    def eps(self) -> float | None:
        """The least scale that the observer gives, or None where it states none."""
        return getattr(self.arguments, "eps", None)

    @property
    def ch_axis(self) -> int | None:
        """The channel axis, or None where the observer works per tensor."""
        return getattr(self.arguments, "ch_axis", None)

    @property
    def fixed(self) -> tuple[float, int] | None:
        """The scale and zero point of a fixed-parameter observer, else None."""
        return getattr(self.arguments, "fixed", None)


class Observer(ABC):
    """Sees tensors and says how to quantize them.

    ``spec`` made it; ``name`` is the tensor's, for messages; ``infinite`` counts the infinite
    values that were dropped.  Subclasses name their arguments in ``arguments_type``.
    """

    arguments_type: ClassVar[type[ObserverArguments]]

    def __init__(self, spec: ObserverSpec, name: str = "") -> None:
        self.spec = spec
        self.name = name
        self.infinite = 0

    @classmethod
    def with_args(cls, **arguments: Any) -> ObserverSpec:
        """A spec of this observer; raises ConfigError for an unknown or bad argument."""
        return ObserverSpec(cls, cls.arguments_type()).with_args(**arguments)

    @abstractmethod
    def update(self, array: Any) -> None:
        """See a float tensor of any shape (shapes may differ between calls; empty is ignored)."""

    @abstractmethod
    def merge(self, other: Observer) -> None:
        """Take in what ``other``, of the same spec, has seen after this one."""

    @abstractmethod
    def qparams(self) -> QuantParams:
        """The parameters; raises DataError when nothing was seen."""

    @abstractmethod
    def state(self) -> State:
        """Everything that was seen, as arrays of bounded size."""

    @abstractmethod
    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Replace what was seen by a :meth:`state`; raises DataError when it does not fit."""

    @property
    def label(self) -> str:
        """The observer as a message names it: its class, and the tensor's name if known."""
        of = f" of '{self.name}'" if self.name else ""
        return f"{type(self).__name__}{of}"

    def finite(self, array: Any) -> NDArray[np.float32]:
        """The finite values of ``array`` as float32: the array itself, or 1-D if some were not.

        Adds the number of infinities to :attr:`infinite`; raises DataError for NaN.
        """
        values = np.asarray(array, np.float32)
        if values.size == 0:
            return values
        extremes = float(values.min()), float(values.max())
        if np.isfinite(extremes).all():
            return values
        if np.isnan(extremes).any():
            raise DataError(f"{self.label} was given NaN: check the data and the float model")
        kept = values[np.isfinite(values)]
        self.infinite += values.size - kept.size
        return kept

    def nothing_seen(self) -> DataError:
        """The error of an observer that is asked before it saw a value."""
        return DataError(
            f"{self.label} has seen no data: run calibration samples through the model first"
        )

    def check_mergeable(self, other: Observer) -> None:
        """Raise ConfigError unless ``other`` was made by the same spec."""
        if other.spec != self.spec:
            raise ConfigError(
                f"{self.label} cannot be merged with {other.label}: their specs differ "
                f"({self.spec!r} and {other.spec!r})"
            )

    def state_entry(self, state: Mapping[str, NDArray[Any]], key: str) -> NDArray[Any]:
        """``state[key]``; raises DataError, naming the observer, when it is not there."""
        if key not in state:
            raise DataError(f"the saved state of {self.label} has no '{key}': calibrate again")
        return np.asarray(state[key])


KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "True or False"),
    int: ((int,), "an integer"),
    float: ((float, int), "a number"),
    str: ((str,), "a string"),
    type(None): ((int, type(None)), "an integer or None"),
}
"""By the type of an argument's default: the types of its values, in code and in words."""


def check_type(what: str, value: Any, default: Any) -> None:
    """Raise ConfigError unless ``value`` is of a type that may stand in for ``default``."""
    if type(default) not in KINDS:
        return
    types, words = KINDS[type(default)]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ConfigError(f"{what} must be {words}, got {value!r}")


class UniformObserver(Observer):
    """An observer whose arguments are :class:`UniformArguments`."""

    @property
    def arguments(self) -> UniformArguments:
        """The arguments, typed."""
        arguments = self.spec.arguments
        assert isinstance(arguments, UniformArguments)
        return arguments
