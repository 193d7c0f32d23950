"""Add, Sub, Mul, unary chains and Softmax on quantized tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcc import numerics
from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType, float32
from qcc.passes.lower.group import (
    Group,
    activation,
    bounds,
    clamp_of,
    eight_bit,
    float_constant,
    result_type,
)

BINARY = {"Add": "q.add", "Sub": "q.sub", "Mul": "q.mul"}
"""Float op to integer op."""


def lower_binary(group: Group, rewriter: Rewriter) -> str | None:
    """Add, Sub or Mul (+ Relu or Clip); one operand may be a constant, taken as float32."""
    node, quant = group.nodes[0], group.quant
    if node.op not in BINARY:
        return f"'{node.label}' is neither Add, Sub nor Mul"
    if quant is None or not eight_bit(quant):
        return "the result is not quantized in 8 bits per tensor"
    clamp = clamp_of(group.nodes[1:], quant)
    if isinstance(clamp, str):
        return clamp
    operands = [_operand(value, rewriter) for value in node.inputs]
    if any(value is None for value in operands):
        return f"an operand of '{node.label}' is neither quantized in 8 bits nor constant"
    if not any(value is not None and value.tensor.quant for value in operands):
        return f"no operand of '{node.label}' is quantized"
    made = rewriter.insert(
        BINARY[node.op],
        operands,
        [result_type(group)],
        attributes=bounds(*clamp),
        name=node.name,
        before=group.root,
    )
    group.finish(rewriter, made.output)
    return None


def _operand(value: Value | None, rewriter: Rewriter) -> Value | None:
    found = activation(value)
    if found is not None:
        return found if eight_bit(found.tensor.quant) else None
    data = float_constant(value)
    if value is None or data is None:
        return None
    if value.is_constant and value.tensor.is_float:
        return value
    return rewriter.constant(f"{value.name}_f32", np.asarray(data, np.float32))


def lower_lut(group: Group, rewriter: Rewriter) -> str | None:
    """A function of one quantized tensor becomes a 256-entry table (contract 6)."""
    source = _single_source(group)
    if isinstance(source, str):
        return source
    x, quant = activation(source), group.quant
    if x is None or not eight_bit(x.tensor.quant):
        return f"the input of '{group.label}' is not quantized in 8 bits per tensor"
    if quant is None or not eight_bit(quant):
        return "the result is not quantized in 8 bits per tensor"
    if group.result.tensor.shape != x.tensor.shape:
        return f"'{group.label}' changes the shape"
    table = table_of(group.nodes, source, group.result, x.tensor.quant, quant)
    if isinstance(table, str):
        return table
    entries = rewriter.constant(f"{group.label}_table", table)
    made = rewriter.insert(
        "q.lut", [x, entries], [result_type(group)], name=group.root.name, before=group.root
    )
    group.finish(rewriter, made.output)
    return None


def _single_source(group: Group) -> Value | str:
    inside = {output for node in group.nodes for output in node.outputs}
    sources: dict[Value, None] = {}
    for node in group.nodes:
        for value in node.inputs:
            if value is None or value in inside:
                continue
            data = float_constant(value)
            if data is None:
                sources[value] = None
            elif data.size != 1:
                return f"a constant of '{node.label}' is not a single number"
    if len(sources) != 1:
        return f"'{group.label}' does not have exactly one input that is not a constant"
    return next(iter(sources))


def table_of(
    nodes: Sequence[Node], source: Value, result: Value, x: Quant | None, y: Quant
) -> numerics.IntArray | str:
    """Evaluate float ``nodes`` on the 256 values of ``x`` and quantize by ``y``; dtype of y."""
    assert x is not None
    body = _function_graph(nodes, source, result)
    from qcc.ref.evaluate import evaluate

    def function(values: numerics.FloatArray) -> numerics.FloatArray:
        given = evaluate(body, {body.inputs[0].name: values.reshape(256)})
        return np.asarray(next(iter(given.values())), np.float32).reshape(-1)

    table = numerics.unary_table(
        function, x.scale[0], x.zero_point[0], x.storage, y.scale[0], y.zero_point[0], y.storage
    )
    if table.shape != (256,):
        return f"'{nodes[-1].label}' does not give one element for each of its input"
    low, high = y.range
    return np.clip(table, low, high).astype(table.dtype)


def _function_graph(nodes: Sequence[Node], source: Value, result: Value) -> Graph:
    """The nodes as a graph of their own from [256] to [256]; constants become scalars."""
    graph = Graph("table")
    mapping = {source: graph.add_input("x", float32(256))}
    for node in nodes:
        operands: list[Value | None] = []
        for value in node.inputs:
            if value is not None and value not in mapping:
                data = float_constant(value)
                mapping[value] = graph.add_constant(
                    graph.fresh_name(f"c_{value.name}"), np.asarray(data).reshape(())
                )
            operands.append(None if value is None else mapping[value])
        made = graph.create_node(
            node.op, operands, [float32(256)] * len(node.outputs), attributes=node.attributes
        )
        mapping.update(zip(node.outputs, made.outputs, strict=True))
    graph.set_outputs([mapping[result]])
    return graph


def lower_softmax(group: Group, rewriter: Rewriter) -> str | None:
    """Softmax of a quantized tensor, to float32 or a quantized result."""
    node = group.root
    x, quant = activation(node.input(0)), group.quant
    if x is None or not eight_bit(x.tensor.quant):
        return f"the input of '{node.label}' is not quantized in 8 bits per tensor"
    if quant is not None and not eight_bit(quant):
        return "the result is not quantized in 8 bits per tensor"
    made = rewriter.insert(
        "q.softmax",
        [x],
        [result_type(group)],
        attributes={"axis": int(attribute(node, "axis"))},
        name=node.name,
        before=node,
    )
    group.finish(rewriter, made.output)
    return None


def lower_concat(group: Group, rewriter: Rewriter) -> str | None:
    """Concat of quantized tensors; operands of another scale are requantized by the op."""
    node, quant = group.root, group.quant
    if quant is None or not eight_bit(quant):
        return "the result is not quantized in 8 bits per tensor"
    operands: list[Value] = []
    for value in node.inputs:
        found = activation(value)
        if found is None:
            found = _stored_constant(value, quant, rewriter)
        if found is None or not eight_bit(found.tensor.quant):
            return f"an operand of '{node.label}' is not quantized in 8 bits per tensor"
        operands.append(found)
    rank = len(node.output.tensor.shape or ())
    made = rewriter.insert(
        "q.concat",
        operands,
        [result_type(group)],
        attributes={"axis": int(attribute(node, "axis")) % rank},
        name=node.name,
        before=node,
    )
    group.finish(rewriter, made.output)
    return None


def _stored_constant(value: Value | None, quant: Quant, rewriter: Rewriter) -> Value | None:
    """A constant operand, quantized like the result."""
    data = float_constant(value)
    if value is None or data is None:
        return None
    low, high = quant.range
    given = numerics.quantize(
        data, quant.scales, quant.zero_points, quant.storage, low=low, high=high
    )
    return rewriter.constant(f"{value.name}_q", given, TensorType(given.shape, quant))
