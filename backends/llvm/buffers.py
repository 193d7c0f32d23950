"""Where values live and how they lie in memory, as native code sees them.

After the layout pass the logical order of a tensor is its physical order.  An 8-bit tensor lies as
an :class:`ActivationLayout`: the last axis is the channels, the two before it are the image.  So
does a float32 tensor whose readers want a halo around it (:func:`takes_halo`); the layout's sizes
then count elements.  Every other tensor is dense.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from qcc import numerics
from qcc.backends.llvm.kernels import READ_SLACK
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.errors import ModelError
from qcc.ir.core import Value
from qcc.ir.types import Quant, TensorType


@dataclass(eq=False)
class Buffer:
    """A range of memory; ``place`` says in what.

    ``place`` is ``arena`` (``offset`` from the memory plan), ``weights`` (``offset`` fixed), or
    ``input`` and ``output`` (``index`` into the table of pointers that the caller passes).
    """

    name: str
    size: int
    place: str = "arena"
    index: int = 0
    offset: int = 0
    steps: list[int] = field(default_factory=list)
    """Steps that touch the buffer."""

    @property
    def reserved(self) -> int:
        """Bytes to reserve: the size and the slack that kernels may read."""
        return self.size + READ_SLACK


Part: TypeAlias = "tuple[int, int]"
"""Channels ``first .. end`` of every pixel of a buffer that several values share."""

HALO_PART: Part = (-1, 0)
"""The halo of a shared buffer, which kernels that write pixels leave alone."""


@dataclass(frozen=True)
class Pointer:
    """``offset`` bytes into a buffer; ``part`` says what is meant where it is not all of it."""

    buffer: Buffer
    offset: int = 0
    part: Part | None = None

    def may_meet(self, written: Pointer) -> bool:
        """Whether what is read here (halo included) can be what is ``written`` in one buffer."""
        if self.part is None or written.part is None or written.part == HALO_PART:
            return True
        return self.part[0] < written.part[1] and written.part[0] < self.part[1]

    def may_clash(self, written: Pointer) -> bool:
        """Whether what is written here and what is ``written`` in one buffer can be the same."""
        if self.part is None or written.part is None:
            return True
        return self.part[0] < written.part[1] and written.part[0] < self.part[1]


@dataclass(frozen=True)
class Stored:
    """A value in memory.  ``layout`` is None where the elements lie dense in logical order."""

    buffer: Buffer
    layout: ActivationLayout | None
    shape: tuple[int, ...]
    element_bytes: int
    offset: int = 0
    part: Part | None = None

    @property
    def pointer(self) -> Pointer:
        """Where the value begins."""
        return Pointer(self.buffer, self.offset, self.part)

    def channels(self, first: int, shape: tuple[int, ...]) -> Stored:
        """The part of an activation from channel ``first`` on that has ``shape``."""
        if self.layout is None:
            raise TypeError(f"'{self.buffer.name}' has no activation layout")
        start = first if self.part is None else self.part[0] + first
        return replace(
            self,
            layout=self.layout.part(shape[-1]),
            shape=shape,
            offset=self.offset + first * self.element_bytes,
            part=(start, start + shape[-1]),
        )

    @property
    def is_contiguous(self) -> bool:
        """Whether element follows element in logical order, without padding."""
        if self.layout is None:
            return True
        return is_contiguous(self.layout)


def is_contiguous(layout: ActivationLayout) -> bool:
    """Whether a layout has neither halo nor padding between pixels."""
    pixels = layout.batch * layout.height * layout.width
    return not layout.has_halo and (pixels == 1 or layout.channel_stride == layout.channels)


def image_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    """``(batch, height, width, channels)`` of a shape of any rank; the element order is kept."""
    dims = [int(d) for d in shape]
    if 0 in dims:
        raise ModelError("a tensor without elements has no native form; keep the operator in float")
    if len(dims) < 4:
        dims = [1] * (4 - len(dims)) + dims if len(dims) < 2 else _spread(dims)
    return (math.prod(dims[:-3]), dims[-3], dims[-2], dims[-1])


def _spread(dims: list[int]) -> list[int]:
    """[M, C] becomes M pixels in a row; [N, T, C] becomes N images of one row."""
    return [1, 1, *dims] if len(dims) == 2 else [dims[0], 1, *dims[1:]]


def activation_layout(
    shape: Sequence[int], halo: tuple[int, int, int, int] = (0, 0, 0, 0)
) -> ActivationLayout:
    """The layout of an 8-bit tensor; ``halo`` is (top, left, bottom, right) in pixels."""
    batch, height, width, channels = image_shape(shape)
    stride = -(-channels // 4) * 4
    return ActivationLayout(batch, height, width, channels, stride, *halo)


def element_bytes(type_: TensorType) -> int:
    """Bytes of one stored element."""
    return int(numerics.storage_dtype(type_.storage).itemsize)


def is_activation(type_: TensorType) -> bool:
    """Whether native code holds this tensor as an 8-bit activation."""
    return type_.storage in ("uint8", "int8")


_FLOAT_MAKERS = frozenset(
    {"q.float_conv", "q.float_max_pool", "q.float_average_pool"}
    | {"q.transpose", "q.pad", "q.slice", "q.concat", "q.resize"}
    | {"Add", "Sub", "Mul", "Div", "Max", "Min", "Relu", "Neg", "Clip"}
    | {"Sigmoid", "Pow", "Sqrt", "Reciprocal", "Tanh", "Gelu"}
    | {"HardSigmoid", "HardSwish", "LeakyRelu"}
)
"""Ops whose kernels write float32 results with any strides."""
_FLOAT_READERS = _FLOAT_MAKERS | {"q.expand", "q.gather"}
"""Ops whose kernels read float32 operands with any strides."""


def takes_halo(value: Value) -> bool:
    """Whether a float32 value may lie with a halo: whoever makes and reads it steps over one."""
    maker = value.producer
    if value.tensor.element != "float32" or maker is None or maker.op not in _FLOAT_MAKERS:
        return False
    return all(user.op in _FLOAT_READERS for user in value.users)


def dense_bytes(type_: TensorType) -> int:
    """Bytes of the dense tensor."""
    return math.prod(type_.static_shape) * element_bytes(type_)


SIGN_SHIFT = 128
"""int8 storage is held as uint8: value and zero point are shifted by this."""


def shift_of(type_: TensorType) -> int:
    """What is added to a stored value of this type to give the byte that native code holds."""
    return SIGN_SHIFT if type_.storage == "int8" else 0


def native_quant(value: Value) -> tuple[float, int]:
    """Scale and zero point of a per-tensor quantized value, in native (uint8) units."""
    quant = value.tensor.quant
    if quant is None or not quant.per_tensor:
        raise TypeError(f"'{value.name}' is not quantized per tensor")
    return quant.scale[0], quant.zero_point[0] + shift_of(value.tensor)


def native_bounds(quant: Quant, low: int | None, high: int | None) -> tuple[int, int]:
    """Clamp bounds in native units: the attributes, within the quantization's own range."""
    bottom, top = quant.range
    shift = SIGN_SHIFT if quant.storage == "int8" else 0
    bottom = bottom if low is None else max(bottom, int(low))
    top = top if high is None else min(top, int(high))
    return bottom + shift, top + shift
