"""Take over a model that already holds Q/DQ nodes.

QuantizeLinear and DequantizeLinear become q.quantize and q.dequantize; the scales move into types.

* A constant behind DequantizeLinear becomes a constant of quantized type; a float constant behind
  QuantizeLinear is quantized now.
* An integer graph input that is only dequantized, and an integer graph output, keep their name and
  dtype and get a quantized type.
* Integer data that an op merely moves (``Q -> Reshape -> DQ``) is moved on the float side instead:
  ``Q -> DQ -> Reshape -> Q -> DQ``, all with the same numbers, which gives the same bytes; a
  constant behind DequantizeLinear is transposed and reshaped now.
* Models in QOperator form (QLinearConv, ...) are first written as Q/DQ around float ops.

What has no such form (scales that are computed, blocked or float8 quantization, integer tensors
used by arithmetic) stays ONNX and float, with a sentence in the rewriter's refusals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Graph, Node, Stage, Value, constant_array
from qcc.ir.infer import infer_shapes
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.expand_qoperators import expand_qoperators
from qcc.passes.import_clips import narrow_ranges
from qcc.passes.import_movers import (
    MOVERS,
    READERS,
    can_move,
    dequantized,
    move_constants,
    move_real_values,
    moved_operands,
    moved_outputs,
)
from qcc.passes.manager import Pass
from qcc.ref.vendor_types import infer_vendor_types


@dataclass(frozen=True)
class ImportQdq(Pass):
    """Turn the Q/DQ form of ONNX into the one of the IR; the graph reaches stage NUMBERED."""

    name: ClassVar[str] = "import-qdq"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    produces: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        if expand_qoperators(graph, rewriter):
            infer_shapes(graph)
        infer_vendor_types(graph)
        found = _Candidates(graph, rewriter).settle()
        for node in graph.walk():
            if is_dequantize(node):
                _import_dequantize(node, found, rewriter)
            elif is_quantize(node):
                _import_quantize(node, found, rewriter)
            elif node.op in MOVERS and any(value in found for value in moved_outputs(node)):
                move_real_values(node, found[moved_outputs(node)[0]], rewriter)
            elif node.op in READERS and _is_stored(node.operand(0), found):
                rewriter.replace_input(node, 0, dequantized(node.operand(0), node, rewriter))
        for value in graph.inputs:
            if value in found:
                rewriter.set_type(value, value.tensor.with_element(found[value]))
        move_constants(graph, rewriter)
        narrow_ranges(graph, rewriter)
        graph.stage = Stage.NUMBERED


def is_quantize(node: Node) -> bool:
    """Whether ``node`` is a QuantizeLinear."""
    return node.op == "QuantizeLinear"


def is_dequantize(node: Node) -> bool:
    """Whether ``node`` is a DequantizeLinear."""
    return node.op == "DequantizeLinear"


# -- which values get which numbers --------------------------------------------------------------


def linear_quant(node: Node) -> Quant | str:
    """The Quant that a QuantizeLinear or DequantizeLinear speaks of, or why there is none."""
    scale, zero_point = constant_array(node.input(1)), constant_array(node.input(2))
    if scale is None or (node.input(2) is not None and zero_point is None):
        return "its scale or zero point is computed by the model"
    if attribute(node, "block_size"):
        return "it is quantized by blocks"
    if str(scale.dtype) != "float32" or not _real_side(node).tensor.is_float:
        return "its float side is not float32"
    integer = node.operand(0) if is_dequantize(node) else node.output
    storage = str(zero_point.dtype) if zero_point is not None else integer.tensor.storage
    if storage not in numerics.STORAGE_RANGE:
        return f"'{storage}' is no integer storage that qcc knows"
    zeros = np.zeros(scale.size) if zero_point is None else zero_point
    if storage == "int32" and np.any(np.asarray(zeros) != 0):
        return "an int32 tensor with a zero point is not allowed"
    axis = None if scale.size == 1 else _channel_axis(node, scale, integer.tensor)
    if isinstance(axis, str):
        return axis
    try:
        return Quant.make(storage, scale, np.asarray(zeros).astype(np.int64), axis)
    except ValueError as error:
        return str(error)


def _channel_axis(node: Node, scale: Array, type: TensorType) -> int | str:
    """The axis that several scales speak of, or why there is none.

    A scale of the tensor's own rank that has one axis of more than one entry speaks of that axis,
    whatever the attribute says (ONNX asks for rank 1, and not every quantizer keeps to it).
    """
    rank = type.rank
    if rank is None or type.shape is None:
        return "the rank of what it quantizes by channel is not known"
    axis = int(attribute(node, "axis"))
    if scale.ndim > 1:
        long = [index for index, size in enumerate(scale.shape) if size > 1]
        if scale.ndim != rank or len(long) != 1:
            return "it has a scale for other than the channels of one axis"
        axis = long[0]
    if not -max(rank, 1) <= axis < rank and rank != 1:
        return f"its axis {axis} is none of the {rank} that it quantizes"
    size = type.shape[axis % rank] if rank else 1
    if isinstance(size, int) and size != scale.size:
        return f"its {scale.size} scales are not as many as the {size} entries of axis {axis}"
    return axis % max(rank, 1)


def _real_side(node: Node) -> Value:
    return node.output if is_dequantize(node) else node.operand(0)


class _Candidates:
    """The integer values that get a quantized type.

    Constants are not among them: each DequantizeLinear gives a constant its own numbers.
    """

    def __init__(self, graph: Graph, rewriter: Rewriter) -> None:
        self.graph = graph
        self.rewriter = rewriter
        self.found: dict[Value, Quant] = {}
        self.conflicts: set[Value] = set()

    def settle(self) -> dict[Value, Quant]:
        """Collect, carry across movers, and drop what something else reads."""
        for node in self.graph.walk():
            if is_quantize(node) or is_dequantize(node):
                quant = linear_quant(node)
                if isinstance(quant, str):
                    self.rewriter.refuse(node, f"'{node.label}' stays float: {quant}")
                else:
                    self.offer(node.output if is_quantize(node) else node.operand(0), quant)
        movers = [node for node in self.graph.walk() if node.op in MOVERS]
        while sum(self.spread(node) for node in movers):
            pass
        self.drop_mixed_uses()
        return self.found

    def offer(self, value: Value, quant: Quant) -> bool:
        """Give ``value`` numbers; True if it had none.  Two different ones leave it without."""
        if value.is_constant or value in self.conflicts:
            return False
        if value not in self.found:
            self.found[value] = quant
            return True
        if self.found[value] != quant:
            self.conflicts.add(value)
            del self.found[value]
        return False

    def spread(self, node: Node) -> bool:
        """Carry numbers across a mover, in either direction; True if something was learnt."""
        values = (*moved_operands(node), *moved_outputs(node))
        known = [self.found[v] for v in values if v in self.found and self.found[v].per_tensor]
        return bool(known) and sum(self.offer(value, known[0]) for value in values) > 0

    def drop_mixed_uses(self) -> None:
        """Drop every value whose producer or some user cannot be taken over, until none is left."""
        while True:
            dropped = [(value, why) for value in self.found if (why := self.obstacle(value))]
            for value, why in dropped:
                del self.found[value]
                if value.producer is not None:
                    self.rewriter.refuse(
                        value.producer, f"'{value.name}' stays an ONNX tensor: {why}"
                    )
            if not dropped:
                return

    def obstacle(self, value: Value) -> str | None:
        """What speaks against a quantized type for ``value``, or None."""
        producer = value.producer
        if producer is None and value not in self.graph.inputs:
            return "a loop carries it"
        if producer is None and value.tensor.storage != self.found[value].storage:
            return f"its dtype is {value.tensor.storage}"
        if producer is not None and not self.fits(producer, value):
            return f"it comes out of '{producer.label}' ({producer.op})"
        for user in value.users:
            if not self.fits(user, value):
                return f"'{user.label}' ({user.op}) reads its integers"
        if any(isinstance(use.user, Graph) and use.user is not self.graph for use in value.uses):
            return "it leaves a subgraph"
        return None

    def fits(self, node: Node, value: Value) -> bool:
        """Whether ``node`` can produce or use ``value`` with a quantized type."""
        quant = self.found[value]
        if is_quantize(node):
            return node.output is value and linear_quant(node) == quant
        if is_dequantize(node):
            return node.operand(0) is value and linear_quant(node) == quant
        if not quant.per_tensor:
            return False
        if node.op in READERS:
            return node.operand(0) is value
        if node.op not in MOVERS or not can_move(node, quant.storage):
            return False
        ends = (*moved_operands(node), *moved_outputs(node))
        return value in ends and all(
            end.is_constant or self.found.get(end) == quant for end in ends
        )


# -- rewriting -----------------------------------------------------------------------------------


def _is_stored(value: Value, found: dict[Value, Quant]) -> bool:
    """Whether ``value`` has a quantized type, or gets one when the inputs do."""
    if value in found:
        return True
    return isinstance(value.type, TensorType) and value.type.quant is not None


def _import_dequantize(node: Node, found: dict[Value, Quant], rewriter: Rewriter) -> None:
    source, quant = node.operand(0), linear_quant(node)
    if isinstance(quant, str):
        return
    if source.is_constant:
        source = _quantized_constant(source, quant, rewriter)
    elif source not in found and source.tensor.quant != quant:
        return
    type = node.output.tensor.with_element("float32")
    _replace(node, "q.dequantize", source, type, rewriter)


def _import_quantize(node: Node, found: dict[Value, Quant], rewriter: Rewriter) -> None:
    quant = found.get(node.output)
    if quant is None:
        return
    source = node.operand(0)
    data = constant_array(source)
    if data is None or node.output.is_output:
        type = node.output.tensor.with_element(quant)
        _replace(node, "q.quantize", source, type, rewriter)
        return
    stored = numerics.quantize(
        data, quant.scales, quant.zero_points, quant.storage, axis=quant.axis
    )
    constant = rewriter.constant(node.output.name, stored, TensorType(tuple(stored.shape), quant))
    _drop(node, constant, rewriter)


def _quantized_constant(source: Value, quant: Quant, rewriter: Rewriter) -> Value:
    """The same stored integers with a quantized type; one constant for each distinct Quant."""
    type = source.tensor.with_element(quant)
    data = np.asarray(source.constant)
    if source.tensor.quant == quant:
        return source
    if len(source.uses) == 1 and data.dtype == numerics.storage_dtype(quant.storage):
        rewriter.set_type(source, type)
        return source
    stored = data.astype(numerics.storage_dtype(quant.storage), copy=False)
    return rewriter.constant(source.name, stored, type)


def _replace(node: Node, op: str, source: Value, type: TensorType, rewriter: Rewriter) -> None:
    old = node.output
    new = rewriter.insert(
        op, [source], [type], name=node.name, output_names=[old.name], before=node
    )
    new.doc, new.metadata = node.doc, dict(node.metadata)
    new.output.doc, new.output.metadata = old.doc, dict(old.metadata)
    _drop(node, new.output, rewriter)


def _drop(node: Node, value: Value, rewriter: Rewriter) -> None:
    operands = node.inputs
    rewriter.replace_uses(node.output, value)
    rewriter.erase(node)
    for operand in operands:
        rewriter.erase_dead(operand)
