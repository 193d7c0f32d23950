"""Value types: frozen, comparable, hashable.  Quantization lives in the type.

A tensor's element is either a scalar (a numpy or ml_dtypes dtype name, ``"string"``, or
``"undefined"`` while unknown) or a :class:`Quant`.  Dimensions are integers, symbols (strings) or
``None`` where nothing is known; ``shape=None`` means that not even the rank is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcc.numerics import STORAGE_RANGE

Dim: TypeAlias = "int | str | None"
Shape: TypeAlias = "tuple[Dim, ...] | None"

UNDEFINED = "undefined"


@dataclass(frozen=True)
class Quant:
    """Affine quantization of an element: ``real = (stored - zero_point) * scale``.

    ``storage`` is a key of :data:`qcc.numerics.STORAGE_RANGE`.  ``scale`` holds float32 values as
    Python floats (one, or one a channel along ``axis``), ``zero_point`` as many integers.  ``low``
    and ``high`` are the inclusive stored bounds that values keep to; they default to the storage's.
    """

    storage: str
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    low: int | None = None
    high: int | None = None

    def __post_init__(self) -> None:
        """Check the parameters; raises ValueError (a caller's bug, never a user's input)."""
        if self.storage not in STORAGE_RANGE:
            raise ValueError(f"unknown storage type {self.storage!r}")
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise ValueError("scale and zero_point need the same, non-zero number of entries")
        if self.axis is None and len(self.scale) != 1:
            raise ValueError("a per-tensor Quant has exactly one scale")
        if any(not s > 0.0 or s == float("inf") for s in self.scale):
            raise ValueError("every scale must be positive and finite")

    @classmethod
    def make(
        cls,
        storage: str,
        scale: Any,
        zero_point: Any,
        axis: int | None = None,
        low: int | None = None,
        high: int | None = None,
    ) -> Quant:
        """Build from scalars or arrays; scales are rounded to float32, zero points broadcast."""
        scales = np.asarray(scale, np.float32).reshape(-1)
        zeros = np.broadcast_to(np.asarray(zero_point, np.int64).reshape(-1), scales.shape)
        bounds = STORAGE_RANGE.get(storage)
        if bounds is not None:
            low = None if low == bounds[0] else low
            high = None if high == bounds[1] else high
        return cls(
            storage,
            tuple(float(s) for s in scales),
            tuple(int(z) for z in zeros),
            axis,
            low,
            high,
        )

    @property
    def per_tensor(self) -> bool:
        """Whether one scale holds for the whole tensor."""
        return self.axis is None

    @property
    def range(self) -> tuple[int, int]:
        """Inclusive stored bounds."""
        bottom, top = STORAGE_RANGE[self.storage]
        return (bottom if self.low is None else self.low, top if self.high is None else self.high)

    @property
    def scales(self) -> NDArray[np.float32]:
        """The scales as a 1-D float32 array."""
        return np.asarray(self.scale, np.float32)

    @property
    def zero_points(self) -> NDArray[np.int64]:
        """The zero points as a 1-D int64 array."""
        return np.asarray(self.zero_point, np.int64)

    def with_axis(self, axis: int | None) -> Quant:
        """The same parameters along another axis."""
        return replace(self, axis=axis)


@dataclass(frozen=True)
class TensorType:
    """A dense tensor.  ``layout`` names a physical order (``"nhwc"``) once the layout pass ran."""

    shape: Shape
    element: str | Quant
    layout: str | None = None

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a known integer."""
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers; raises ValueError unless :attr:`is_static`."""
        if self.shape is None:
            raise ValueError("the shape is not known")
        dims = tuple(d for d in self.shape if isinstance(d, int))
        if len(dims) != len(self.shape):
            raise ValueError(f"the shape {self.shape} is not static")
        return dims

    @property
    def quant(self) -> Quant | None:
        """The quantization, or None for a scalar element."""
        return self.element if isinstance(self.element, Quant) else None

    @property
    def is_float(self) -> bool:
        """Whether the element is float32 (the only float type that qcc quantizes)."""
        return self.element == "float32"

    @property
    def storage(self) -> str:
        """The stored dtype name: of the scalar itself, or of the quantized storage."""
        return self.element.storage if isinstance(self.element, Quant) else self.element

    def with_element(self, element: str | Quant) -> TensorType:
        """The same shape with another element."""
        return replace(self, element=element)

    def with_shape(self, shape: Shape) -> TensorType:
        """The same element with another shape."""
        return replace(self, shape=shape)


@dataclass(frozen=True)
class OpaqueType:
    """A sequence, map, optional or sparse type: carried through, never quantized.

    ``proto`` is the serialized ``onnx.TypeProto``.
    """

    proto: bytes


ValueType: TypeAlias = "TensorType | OpaqueType"

UNKNOWN = TensorType(None, UNDEFINED)
"""The type of a value of which nothing is known."""


def float32(*shape: Dim) -> TensorType:
    """A float32 tensor type of the given shape."""
    return TensorType(tuple(shape), "float32")
