"""Repairs as data: a rule says which one a problem has, :mod:`qcc.lint.fixes` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from qcc.lint.index import Operation, Tensor


@dataclass(frozen=True)
class SetAxis:
    """The scales of these Q/DQ nodes belong to another axis of the tensor: say which."""

    quantizers: tuple[Operation, ...]
    axis: int


@dataclass(frozen=True)
class FlattenScales:
    """Write scales and zero points of channels as lists: they have dimensions of 1 beside them."""

    quantizer: Operation


@dataclass(frozen=True)
class RequantizeWeight:
    """Store the weight of a DQ anew: symmetric, with scales of its own along an axis."""

    dequantize: Operation
    axis: int


@dataclass(frozen=True)
class WriteZeroPoint:
    """Write the zero point 0 that a Q/DQ node means, of the given element type."""

    quantizer: Operation
    element: str


@dataclass(frozen=True)
class StoreSigned:
    """Store the uint8 ``values`` of a group of Q/DQ nodes as int8, less ``shift``, zero point too.

    The first of the values is the one that the others are moved from.
    """

    quantizers: tuple[Operation, ...]
    values: tuple[Tensor, ...]
    shift: int


@dataclass(frozen=True)
class MakeSymmetric:
    """Store the ``values`` of a group of Q/DQ nodes as int8 with zero point 0, in its range.

    ``low`` and ``high`` are the real bounds that the group saturates at.
    """

    quantizers: tuple[Operation, ...]
    values: tuple[Tensor, ...]
    low: float
    high: float


@dataclass(frozen=True)
class FloatBias:
    """Replace the DQ of a stored int32 bias by the float32 numbers that it gives."""

    dequantize: Operation


@dataclass(frozen=True)
class SetZeroScales:
    """Scales of 0 belong to stored data that are all zero: 1 means the same."""

    dequantize: Operation


@dataclass(frozen=True)
class DequantizeFirst:
    """Dequantize stored data before they are moved, not after: the ``values`` become floats.

    The first of the values is stored; the nodes dequantize what is moved from it, all alike.
    """

    quantizers: tuple[Operation, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class UseOnnxDomain:
    """A com.microsoft Q/DQ node means what ONNX's own op means: take that."""

    quantizer: Operation


@dataclass(frozen=True)
class NameNodes:
    """Give nodes names that no other node has."""

    operations: tuple[Operation, ...]


Repair: TypeAlias = (
    SetAxis
    | FlattenScales
    | RequantizeWeight
    | WriteZeroPoint
    | StoreSigned
    | MakeSymmetric
    | FloatBias
    | SetZeroScales
    | DequantizeFirst
    | UseOnnxDomain
    | NameNodes
)
"""What can be repaired."""
