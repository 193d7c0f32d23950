"""Quantize and dequantize nodes of a model, and the operands that they quantize."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcc.lint.index import Array, ModelIndex, Operation, Tensor
from qcc.onnxio.elements import element_name

MICROSOFT = "com.microsoft."

QUANTIZE = ("QuantizeLinear", f"{MICROSOFT}QuantizeLinear")
DEQUANTIZE = ("DequantizeLinear", f"{MICROSOFT}DequantizeLinear")

DEFAULT_AXIS = 1

MOVES = frozenset(
    (
        *("Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice"),
        *("Split", "Gather", "Expand", "Tile", "DepthToSpace", "SpaceToDepth", "MaxPool"),
    )
)
"""Ops that move elements of their first operand: quantizing commutes with them."""

STORED_MOVES = MOVES - {"Cast"}
"""Those that run on stored values of any type."""

EIGHT_BITS = ("int8", "uint8")
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear node and what its parameters say."""

    index: ModelIndex
    operation: Operation

    @property
    def quantizes(self) -> bool:
        """Whether it is a QuantizeLinear."""
        return self.operation.op in QUANTIZE

    @property
    def data(self) -> Tensor | None:
        """What it reads."""
        return self.operation.input(0)

    @property
    def result(self) -> Tensor | None:
        """What it gives."""
        return self.operation.output

    @property
    def stored(self) -> Tensor | None:
        """The side that holds stored integers."""
        return self.result if self.quantizes else self.data

    @cached_property
    def scale(self) -> Array | None:
        """The scales, None where they are not constants."""
        return self.index.constant(self.operation.input(1))

    @cached_property
    def zero_point(self) -> Array | None:
        """The zero points; None where they are absent or not constants."""
        return self.index.constant(self.operation.input(2))

    @property
    def has_zero_point(self) -> bool:
        """Whether the node has a zero point operand."""
        return self.operation.input(2) is not None

    @property
    def zeros(self) -> Array | None:
        """The zero points as a list of int64, 0 where no operand is; None where unknown."""
        if not self.has_zero_point:
            return np.zeros(1, np.int64)
        found = self.zero_point
        return None if found is None else np.asarray(found, np.float64).astype(np.int64).ravel()

    @cached_property
    def storage(self) -> str | None:
        """The element type of the stored side; None where it is unknown."""
        named = self.index.element(self.operation.input(2))
        if named is None and self.zero_point is not None:
            named = str(self.zero_point.dtype)
        if not self.quantizes:
            return self.index.element(self.data) or self._made_by() or named
        if named is not None:
            return named
        asked = self.operation.attribute("output_dtype", 0)
        return element_name(asked) if asked else "uint8"

    def _made_by(self) -> str | None:
        source = None if self.data is None else self.data.producer
        if source is None or source.op not in QUANTIZE:
            return None
        return Quantizer(self.index, source).storage

    @property
    def states_storage(self) -> bool:
        """Whether the node itself says its type, so that no default is meant."""
        if self.has_zero_point or not self.quantizes:
            return True
        return bool(self.operation.attribute("output_dtype", 0))

    @property
    def block_size(self) -> int:
        """How many elements share a scale along the axis; 0 where scales are not of blocks."""
        return int(self.operation.attribute("block_size", 0))

    @property
    def is_per_tensor(self) -> bool:
        """Whether one scale holds for all (also where the scale is unknown)."""
        return self.block_size == 0 and (self.scale is None or self.scale.size <= 1)

    @property
    def axis(self) -> int:
        """The axis as written."""
        return int(self.operation.attribute("axis", DEFAULT_AXIS))

    @property
    def rank(self) -> int | None:
        """The rank of the tensor, None where unknown."""
        shape = self.index.shape(self.data)
        return None if shape is None else len(shape)

    @property
    def is_weight(self) -> bool:
        """Whether what it quantizes is stored in the file or computed from stored values only."""
        return self.index.is_constant(self.data)

    @property
    def made_by(self) -> Quantizer | None:
        """The quantize node whose result this dequantize node reads."""
        source = None if self.data is None else self.data.producer
        if self.quantizes or source is None or source.op not in QUANTIZE:
            return None
        return Quantizer(self.index, source)


@dataclass(frozen=True, eq=False)
class Group:
    """Stored values and every quantize and dequantize node around them.

    ``values`` are a stored value and what ops that only move elements make of it; ``others`` says
    whether something else reads one of them, or the model gives or takes it.
    """

    values: tuple[Tensor, ...]
    quantize: Quantizer | None
    dequantize: tuple[Quantizer, ...]
    others: bool

    @property
    def stored(self) -> Tensor:
        """The stored value that the others are made of."""
        return self.values[0]

    @property
    def lead(self) -> Quantizer:
        """The node that findings are reported at."""
        return self.dequantize[0] if self.quantize is None else self.quantize

    @property
    def members(self) -> tuple[Quantizer, ...]:
        """All nodes, the lead first."""
        return self.dequantize if self.quantize is None else (self.quantize, *self.dequantize)

    @property
    def is_weight(self) -> bool:
        """Whether the numbers are stored in the file."""
        return self.lead.is_weight

    @property
    def own(self) -> tuple[Quantizer, ...]:
        """The members whose parameters are not those of the lead, and the lead."""
        lead = self.lead
        return (lead, *(m for m in self.members if m is not lead and not same_numbers(lead, m)))


def same_numbers(first: Quantizer, second: Quantizer) -> bool:
    """Whether two nodes read the same scale and zero point, or ones of equal data."""
    for place in (1, 2):
        one, other = first.operation.input(place), second.operation.input(place)
        if one is other:
            continue
        a, b = first.index.constant(one), second.index.constant(other)
        if a is None or b is None or a.dtype != b.dtype:
            return False
        if not np.array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64), equal_nan=True):
            return False
    return True


def groups(index: ModelIndex) -> Iterator[Group]:
    """Every group of stored values that Q/DQ nodes touch, in order of the file."""
    seen: set[Tensor] = set()
    for found in quantizers(index):
        stored = None if found.stored is None else _unmoved(found.stored)
        if stored is None or stored in seen:
            continue
        values, readers, others = _spread(stored)
        seen.update(values)
        maker = None if stored.producer is None or stored.producer.op not in QUANTIZE else stored
        quantize = None if maker is None or maker.producer is None else maker.producer
        members = tuple(Quantizer(index, reader) for reader in readers)
        if quantize is not None or members:
            lead = None if quantize is None else Quantizer(index, quantize)
            yield Group(values, lead, members, others)


def _unmoved(tensor: Tensor) -> Tensor:
    """The value whose elements a stored value holds in another order."""
    while tensor.producer is not None and tensor.producer.op in STORED_MOVES:
        source = tensor.producer.input(0)
        if source is None:
            break
        tensor = source
    return tensor


def _spread(stored: Tensor) -> tuple[tuple[Tensor, ...], list[Operation], bool]:
    """A stored value and all that is moved from it, the dequantize nodes, and whether others read.

    Data that are given at run time count as read by others, and so do outputs of the model.
    """
    values, readers = [stored], []
    others = False
    for value in values:
        others = others or value.is_output or value.is_input
        for reader, place in value.users:
            if place == 0 and reader.op in DEQUANTIZE:
                readers.append(reader)
            elif place == 0 and reader.op in STORED_MOVES:
                values += [v for v in reader.outputs if v is not None and v not in values]
            else:
                others = True
    return tuple(values), readers, others


def quantizers(index: ModelIndex) -> Iterator[Quantizer]:
    """Every quantize and dequantize node."""
    return (Quantizer(index, operation) for operation in index.of(*QUANTIZE, *DEQUANTIZE))


def dequantizer(index: ModelIndex, tensor: Tensor | None) -> Quantizer | None:
    """The dequantize node that makes a value."""
    if tensor is None or tensor.producer is None or tensor.producer.op not in DEQUANTIZE:
        return None
    return Quantizer(index, tensor.producer)


def quantized_operand(index: ModelIndex, tensor: Tensor | None) -> Quantizer | None:
    """The dequantize node that a value comes from, through nodes that only move elements.

    A Concat of values with the same parameters moves them, too: the first node is given then.
    """
    while tensor is not None and tensor.producer is not None:
        found, producer = dequantizer(index, tensor), tensor.producer
        if found is None and producer.op == "Concat":
            return _joined(index, producer)
        if found is not None or not _moves(producer):
            return found
        tensor = producer.input(0)
    return None


def _moves(operation: Operation) -> bool:
    nearest = operation.attribute("mode", "nearest") == "nearest"
    return operation.op in MOVES or (operation.op == "Resize" and nearest)


def _joined(index: ModelIndex, concat: Operation) -> Quantizer | None:
    """The first dequantize node behind the operands of a Concat, where all say the same."""
    found = [quantized_operand(index, operand) for operand in concat.inputs]
    first = found[0] if found else None
    return first if first is not None and all(_agree(first, item) for item in found) else None


def _agree(one: Quantizer, other: Quantizer | None) -> bool:
    if other is None or one.storage != other.storage:
        return False
    pairs = ((one.scale, other.scale), (one.zeros, other.zeros))
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)


# -- weighted ops ----------------------------------------------------------------------------------

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Ops of which integer kernels multiply an activation by a weight."""


@dataclass(frozen=True, eq=False)
class Product:
    """A weighted op: its two data operands, and which of them is the weight."""

    index: ModelIndex
    operation: Operation

    @cached_property
    def weight_place(self) -> int | None:
        """The place of the constant operand; None where both are computed."""
        operands = (1, 0) if self.operation.op in ("Gemm", "MatMul") else (1,)
        places = [p for p in operands if self.index.is_constant(self.operation.input(p))]
        return places[0] if places else None

    @cached_property
    def quantized(self) -> tuple[Quantizer | None, Quantizer | None]:
        """The dequantize nodes of the two data operands."""
        first, second = self.operation.input(0), self.operation.input(1)
        return quantized_operand(self.index, first), quantized_operand(self.index, second)

    @property
    def is_quantized(self) -> bool:
        """Whether both data operands are quantized."""
        return None not in self.quantized

    @property
    def weight(self) -> Quantizer | None:
        """The dequantize node of the weight."""
        return None if self.weight_place is None else self.quantized[self.weight_place]

    @property
    def activation(self) -> Quantizer | None:
        """The dequantize node of the operand that is no weight."""
        return None if self.weight_place is None else self.quantized[1 - self.weight_place]

    @cached_property
    def weight_shape(self) -> tuple[int, ...] | None:
        """The sizes of the weight as the op reads it, where they are all known."""
        if self.weight_place is None:
            return None
        shape = self.index.shape(self.operation.input(self.weight_place))
        if shape is None and self.weight is not None:
            shape = self._moved_shape()
        if shape is None or not all(isinstance(size, int) for size in shape):
            return None
        return tuple(int(size) for size in shape)

    def _moved_shape(self) -> tuple[int, ...] | None:
        """The weight's sizes where shape inference failed: those of its data, permuted."""
        weight = self.weight
        stored = None if weight is None else self.index.shape(weight.data)
        if stored is None and weight is not None and weight.made_by is not None:
            stored = self.index.shape(weight.made_by.data)
        order = None if stored is None else self._weight_order(len(stored))
        return None if order is None or stored is None else tuple(stored[at] for at in order)

    def _weight_order(self, rank: int) -> tuple[int, ...] | None:
        """For every axis of the weight as the op reads it, the axis at the dequantize node."""
        order = tuple(range(rank))
        tensor = None if self.weight_place is None else self.operation.input(self.weight_place)
        while tensor is not None and tensor.producer is not None:
            producer = tensor.producer
            if producer.op in DEQUANTIZE:
                return order
            if producer.op == "Transpose":
                step = producer.attribute("perm") or tuple(reversed(range(rank)))
                order = tuple(step[at] for at in order)
            elif producer.op not in ("Identity", "Cast"):
                return None
            tensor = producer.input(0)
        return None

    def weight_axis(self, rank: int) -> int | None:
        """The axis at the weight's dequantize node that is the op's output channels.

        ``rank`` is that of the weight; None where something between reshapes it.
        """
        order = self._weight_order(rank)
        axis = self.output_axis(rank)
        return None if order is None or axis is None or axis >= rank else order[axis]

    def output_axis(self, rank: int) -> int | None:
        """The axis of the weight, as the op reads it, that is the op's output channels."""
        op = self.operation
        if op.op in ("Conv", "ConvTranspose"):
            return 0 if op.op == "Conv" else 1
        if op.op == "Gemm":
            flag, plain = ("transB", 1) if self.weight_place == 1 else ("transA", 0)
            return 1 - plain if op.attribute(flag, 0) else plain
        if rank < 2:
            return None
        return rank - 1 if self.weight_place == 1 else rank - 2


def products(index: ModelIndex) -> Iterator[Product]:
    """Every weighted op."""
    return (Product(index, operation) for operation in index.of(*WEIGHTED))
