"""Integers that ops of ONNX move, compare or pad, rewritten so that these ops see real values.

A mover gives elements of its operands, or something between them, and nothing else: dequantized in
front of it and quantized again behind it, with the same numbers, it gives the same integers.  (A
Resize that interpolates between integers may round half a step otherwise.)
"""

from __future__ import annotations

import math

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Graph, Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType

MOVERS = frozenset(
    {
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "Max",
        "MaxPool",
        "Min",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Reshape",
        "Resize",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
"""Ops whose results hold elements of some operands, and nothing beyond them."""

READERS = frozenset({"ArgMax", "ArgMin", "Shape", "Size"})
"""Ops whose result is the same for integers and for what they stand for."""

RESHAPING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Movers that keep the order of the elements."""


def moved_operands(node: Node) -> tuple[Value, ...]:
    """The operands whose elements a mover moves."""
    operands = node.inputs[:1]
    if node.op in ("Concat", "Max", "Min"):
        operands = node.inputs
    elif node.op == "Where":
        operands = node.inputs[1:3]
    return tuple(value for value in operands if value is not None)


def moved_outputs(node: Node) -> tuple[Value, ...]:
    """The results that hold these elements."""
    return node.outputs[:1] if node.op == "MaxPool" else node.outputs


def can_move(node: Node, storage: str) -> bool:
    """Whether a mover can be put between real values: constants among its operands fit ``storage``.

    What a Pad puts around must be known.
    """
    if node.op == "Pad":
        mode, fill = attribute(node, "mode"), node.input(2)
        if mode in ("constant", b"constant") and fill is not None and fill.constant is None:
            return False
    return all(
        value.tensor.storage == storage for value in moved_operands(node) if value.is_constant
    )


def move_real_values(node: Node, quant: Quant, rewriter: Rewriter) -> None:
    """Dequantize in front of a mover of integers of ``quant``, and quantize again behind it."""
    operands = moved_operands(node)
    for index, value in enumerate(node.inputs):
        if value is None or value not in operands:
            continue
        stored = _constant_of(value, quant, rewriter) if value.is_constant else value
        real = dequantized(stored, node, rewriter)
        rewriter.replace_input(node, index, real)
        if value.is_constant:
            rewriter.erase_dead(value)
    if node.op == "Pad":
        _fill_with_real_value(node, quant, rewriter)
    for output in moved_outputs(node):
        stored_type = output.tensor.with_element(quant)
        rewriter.set_type(output, output.tensor.with_element("float32"))
        again = _insert_behind(node, output, stored_type, rewriter)
        rewriter.replace_uses(output, again.output, except_node=again)


def dequantized(stored: Value, before: Node, rewriter: Rewriter) -> Value:
    """A q.dequantize of ``stored``, in front of ``before``."""
    return rewriter.insert(
        "q.dequantize",
        [stored],
        [stored.tensor.with_element("float32")],
        name=rewriter.graph.fresh_name(f"{stored.name}_real"),
        before=before,
    ).output


def _constant_of(value: Value, quant: Quant, rewriter: Rewriter) -> Value:
    data = np.asarray(value.constant)
    return rewriter.constant(value.name, data, TensorType(tuple(data.shape), quant))


def _fill_with_real_value(node: Node, quant: Quant, rewriter: Rewriter) -> None:
    """The number around a padded tensor, stored 0 where none is given, as a real value."""
    fill = constant_array(node.input(2))
    stored = np.zeros((), numerics.storage_dtype(quant.storage)) if fill is None else fill
    real = numerics.dequantize(stored.reshape(()), quant.scales, quant.zero_points)
    value = rewriter.constant(f"{node.label}_fill", np.asarray(real, np.float32).reshape(()))
    rewriter.set_inputs(node, [*node.inputs[:2], value, *node.inputs[3:]])


def _insert_behind(node: Node, value: Value, type: TensorType, rewriter: Rewriter) -> Node:
    graph = node.graph
    if graph is None:
        raise ValueError(f"node '{node.label}' is in no graph")
    following = graph.nodes[graph.nodes.index(node) + 1 :]
    rewriter.changes += 1
    return graph.create_node(
        "q.quantize",
        [value],
        [type],
        name=graph.fresh_name(f"{value.name}_stored"),
        before=following[0] if following else None,
    )


# -- constants -------------------------------------------------------------------------------------


def move_constants(graph: Graph, rewriter: Rewriter) -> None:
    """Transpose and reshape quantized constants now: ``DQ(w) -> Transpose`` becomes ``DQ(w')``.

    Changes ``graph`` (stage NUMBERED) and its subgraphs in place.
    """
    for node in tuple(graph.walk()):
        if node.op != "Transpose" and node.op not in RESHAPING:
            continue
        source = node.operand(0).producer
        if source is None or source.op != "q.dequantize" or not source.operand(0).is_constant:
            continue
        moved = _moved_constant(node, source.operand(0))
        if moved is None:
            continue
        data, type_ = moved
        constant = rewriter.constant(source.operand(0).name, data, type_)
        made = rewriter.insert(
            "q.dequantize",
            [constant],
            [TensorType(type_.shape, "float32")],
            name=node.name,
            before=node,
        )
        operands = node.inputs
        rewriter.replace(node, [made.output])
        for operand in operands:
            rewriter.erase_dead(operand)


def _moved_constant(node: Node, constant: Value) -> tuple[Array, TensorType] | None:
    """The stored integers behind ``node`` with their type; None where that is not known."""
    data, quant = np.asarray(constant.constant), constant.tensor.quant
    if quant is None:
        return None
    if node.op == "Transpose":
        order = [int(axis) for axis in attribute(node, "perm") or reversed(range(data.ndim))]
        axis = None if quant.axis is None else order.index(quant.axis)
        moved = np.ascontiguousarray(data.transpose(order))
    elif node.output.tensor.is_static:
        moved = data.reshape(node.output.tensor.static_shape)
        axis = None if quant.axis is None else _axis_behind(quant.axis, data.shape, moved.shape)
        if quant.axis is not None and axis is None:
            return None
    else:
        return None
    return moved, TensorType(tuple(moved.shape), quant.with_axis(axis))


def _axis_behind(axis: int, before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """Where an axis is after a reshaping; None where it was split or joined."""
    for index, size in enumerate(after):
        same = size == before[axis]
        if same and math.prod(after[:index]) == math.prod(before[:axis]):
            return index
    return None
