"""Read models whose activations are quantized while they run.

In such models (onnxruntime's ``quantize_dynamic``) only the weights hold numbers that were chosen
beforehand; the scales of activations are computed at each call.  They become float ops on the
unquantized activations, which is at least as accurate, and on weights behind DequantizeLinear:

* DynamicQuantizeLinear, ConvInteger or MatMulInteger, Cast, and the Muls by both scales;
* DynamicQuantizeLinear and DequantizeLinear without anything between;
* ``com.microsoft``'s MatMulIntegerToFloat, DynamicQuantizeMatMul and DynamicQuantizeLSTM.

A note in ``graph.info.notes`` says how many activations were meant to be quantized.  What does not
have these forms stays as it is, with a sentence in the rewriter's refusals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Array, Attribute, Graph, Node, Stage, Value, constant_array
from qcc.ir.infer import infer_shapes
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.import_movers import MOVERS, moved_operands
from qcc.passes.manager import Pass

DYNAMIC_OPS = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "com.microsoft.DynamicQuantizeLSTM",
        "com.microsoft.DynamicQuantizeMatMul",
        "com.microsoft.MatMulIntegerToFloat",
    }
)
"""Ops of models whose activations are quantized while they run."""

NOTE = (
    "the model quantizes the activations of {} while it runs: they are computed on float "
    "activations and its 8-bit weights; give sample inputs (--calib DATA, calibration=... in "
    "Python) to compute them in integers"
)

FLOAT = TensorType(None, "float32")


@dataclass(frozen=True)
class ImportDynamic(Pass):
    """Turn dynamic quantization into float ops on integer weights behind DequantizeLinear."""

    name: ClassVar[str] = "import-dynamic"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        count = 0
        for node in tuple(graph.walk()):
            if node.graph is None or node.op not in _READERS:
                continue
            runs = _quantizes_while_running(node)
            obstacle = _READERS[node.op](node, rewriter)
            if obstacle is not None:
                rewriter.refuse(node, f"'{node.label}' stays {node.op}: {obstacle}")
            else:
                count += runs
        for node in tuple(graph.walk()):
            if node.op == "DynamicQuantizeLinear" and node.graph is not None:
                rewriter.erase_dead(node.output)
        if rewriter.changes:
            infer_shapes(graph)
        if count:
            what = "one operation" if count == 1 else f"{count} operations"
            graph.info.notes.append(NOTE.format(what))


def is_dynamic(graph: Graph) -> bool:
    """Whether ``graph`` holds ops that quantize activations while they run."""
    return any(node.op in DYNAMIC_OPS for node in graph.walk())


def _quantizes_while_running(node: Node) -> bool:
    """Whether an operand is quantized by the op, or just in front of it, by computed numbers."""
    if "DynamicQuantize" in node.op_type:
        return True
    makers = [None if value is None else value.producer for value in node.inputs]
    return any(maker is not None and maker.op == "DynamicQuantizeLinear" for maker in makers)


# -- operands --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dynamic:
    """A value that a DynamicQuantizeLinear gave: what it quantized, and the scale."""

    real: Value
    scale: Value
    zero_point: Value | None


def _dynamic(value: Value, rewriter: Rewriter) -> _Dynamic | None:
    """What ``value`` was quantized from; movers in between are repeated on real values."""
    maker = value.producer
    if maker is None:
        return None
    if maker.op == "DynamicQuantizeLinear" and value is maker.output:
        return _Dynamic(maker.operand(0), maker.outputs[1], maker.outputs[2])
    if maker.op not in MOVERS or len(maker.outputs) != 1 or len(moved_operands(maker)) != 1:
        return None
    behind = _dynamic(maker.operand(0), rewriter)
    if behind is None or maker.op == "Pad":
        return None
    moved = rewriter.insert(
        maker.op,
        [behind.real, *maker.inputs[1:]],
        [maker.output.tensor.with_element("float32")],
        attributes=maker.attributes,
        before=maker,
    )
    return _Dynamic(moved.output, behind.scale, behind.zero_point)


def _weight(
    node: Node, stored: Value, scale: Array, zero_point: Value | None, axis: int, rewriter: Rewriter
) -> Value:
    """A DequantizeLinear of constant weights; ``axis`` is that of several scales."""
    rank = stored.tensor.rank or 1
    zeros = constant_array(zero_point)
    count = max(scale.size, 1 if zeros is None else zeros.size)
    scales = np.broadcast_to(scale.reshape(-1), count) if count > 1 else scale.reshape(())
    operands = [stored, rewriter.constant(f"{stored.name}_scale", scales.astype(np.float32))]
    if zeros is not None:
        spread = np.broadcast_to(zeros.reshape(-1), count) if count > 1 else zeros.reshape(())
        operands.append(
            rewriter.constant(f"{stored.name}_zero_point", np.ascontiguousarray(spread))
        )
    return rewriter.insert(
        "DequantizeLinear",
        operands,
        [stored.tensor.with_element("float32")],
        attributes={"axis": axis % rank} if count > 1 else {},
        name=rewriter.graph.fresh_name(f"{stored.name}_real"),
        before=node,
    ).output


def _constant_numbers(*values: Value | None) -> bool:
    return all(value is None or value.is_constant for value in values)


# -- ConvInteger and MatMulInteger -----------------------------------------------------------------


def _integer_product(node: Node, rewriter: Rewriter) -> str | None:
    """The op on integers with the Cast and Muls behind it, as one op on real values."""
    operands = [_dynamic(node.operand(index), rewriter) for index in (0, 1)]
    for index, found in enumerate(operands):
        given = node.input(index + 2)
        if found is not None and given is not found.zero_point:
            return f"the zero point of operand {index} is not the one that it was quantized by"
        if found is None and not _constant_numbers(node.operand(index), given):
            return f"operand {index} is neither constant nor quantized by DynamicQuantizeLinear"
    if operands[0] is None or (node.op == "ConvInteger" and operands[1] is not None):
        return "its data are constant" if operands[0] is None else "its weights are computed"
    casts = node.output.users
    if node.output.is_output or any(user.op != "Cast" for user in casts):
        return "its integers are read by other ops than Cast"
    scales = [found.scale for found in operands if found is not None]
    ends = [_end_of_scaling(cast, scales) for cast in casts]
    if not all(ends):
        return "what follows is not a product by the scales of its operands"
    for end in ends:
        assert end is not None
        _replace_product(node, operands[0].real, operands[1], end, rewriter)
    return None


@dataclass(frozen=True)
class _Scaled:
    """The last Mul behind an integer product, and the constant that it was multiplied with."""

    last: Node
    factor: Array


def _end_of_scaling(cast: Node, scales: Sequence[Value]) -> _Scaled | None:
    """Where all ``scales`` have been multiplied to what ``cast`` gives, and nothing but them."""
    value, wanted, factor = cast.output, list(scales), np.ones((), np.float32)
    if not value.tensor.is_float:
        return None
    while wanted or factor.size == 0:
        users = value.users
        if value.is_output or len(value.uses) != 1 or users[0].op != "Mul":
            return None
        others = [operand for operand in users[0].inputs if operand is not value]
        for part in _factors(others[0]):
            if part in wanted:
                wanted.remove(part)
            elif part.constant is not None and part.tensor.is_float:
                factor = factor * np.asarray(part.constant)
            else:
                return None
        value = users[0].output
    assert value.producer is not None
    return _Scaled(value.producer, np.asarray(factor, np.float32))


def _factors(value: Value | None) -> list[Value]:
    if value is None:
        return []
    if value.producer is not None and value.producer.op == "Mul":
        return [part for operand in value.producer.inputs for part in _factors(operand)]
    return [value]


def _replace_product(
    node: Node, data: Value, other: _Dynamic | None, scaled: _Scaled, rewriter: Rewriter
) -> None:
    last, op = scaled.last, node.op.removesuffix("Integer")
    factor = scaled.factor
    if other is None:
        channels = _by_channel(node, factor)
        own = channels if channels is not None else np.ones((), np.float32)
        axis = 0 if op == "Conv" else -1
        weight = _weight(last, node.operand(1), own, node.input(3), axis, rewriter)
        factor = np.ones((), np.float32) if channels is not None else factor
    else:
        weight = other.real
    product = rewriter.insert(
        op,
        [data, weight],
        [last.output.tensor],
        attributes=dict(node.attributes),
        name=node.name,
        before=last,
    )
    result = product.output
    if factor.size > 1 or factor != 1:
        multiplier = rewriter.constant(f"{last.label}_factor", factor)
        result = rewriter.insert("Mul", [result, multiplier], [FLOAT], before=last).output
    elif op == "Conv":
        last = _take_bias(product, last, rewriter)
    operands = last.inputs
    rewriter.replace(last, [result])
    for operand in operands:
        rewriter.erase_dead(operand)


def _by_channel(node: Node, factor: Array) -> Array | None:
    """The factor as one number, or one a channel of the weights; None where it is neither."""
    if factor.size == 1:
        return factor if factor.reshape(-1)[0] > 0 else None
    shape = node.operand(1).tensor.static_shape
    channels, trailing = (shape[0], len(shape) - 2) if node.op == "ConvInteger" else (shape[-1], 0)
    sizes = (1,) * (factor.ndim - 1 - trailing) + (channels,) + (1,) * trailing
    fits = factor.ndim > trailing and factor.shape == sizes and bool(np.all(factor > 0))
    return factor.reshape(-1) if fits else None


def _take_bias(conv: Node, last: Node, rewriter: Rewriter) -> Node:
    """A constant for each channel that alone is added behind ``last`` becomes the bias of ``conv``.

    Gives the node whose result ``conv`` computes then.
    """
    users = last.output.users
    if last.output.is_output or len(last.output.uses) != 1 or users[0].op != "Add":
        return last
    others = [operand for operand in users[0].inputs if operand is not last.output]
    added = constant_array(others[0]) if others else None
    shape = conv.operand(1).tensor.static_shape
    spatial = len(shape) - 2
    if added is None or added.shape[-spatial - 1 :] != (shape[0],) + (1,) * spatial:
        return last
    if added.size != shape[0] or added.ndim > len(shape):
        return last
    bias = rewriter.constant(f"{conv.label}_bias", added.reshape(-1))
    rewriter.set_inputs(conv, [*conv.inputs, bias])
    rewriter.move(conv, users[0])
    return users[0]


# -- what is between two boundaries, and Microsoft's ops -------------------------------------------


def _dequantize(node: Node, rewriter: Rewriter) -> str | None:
    """DequantizeLinear of what DynamicQuantizeLinear gave is what that read."""
    found = _dynamic(node.operand(0), rewriter)
    if found is None or node.input(1) is not found.scale or node.input(2) is not found.zero_point:
        return None
    _give(node, found.real, rewriter)
    return None


def _product_to_float(node: Node, rewriter: Rewriter) -> str | None:
    sides = []
    for at in (0, 1):
        stored, scale, zero_point = node.operand(at), node.operand(at + 2), node.input(at + 4)
        found = _dynamic(stored, rewriter)
        if found is not None and scale is found.scale:
            sides.append(found.real)
            continue
        operands = [stored, scale] if zero_point is None else [stored, scale, zero_point]
        by_channel = (scale.tensor.shape or (1,))[-1] != 1
        sides.append(
            rewriter.insert(
                "DequantizeLinear",
                operands,
                [stored.tensor.with_element("float32")],
                attributes={"axis": (stored.tensor.rank or 1) - 1} if by_channel else {},
                before=node,
            ).output
        )
    _multiply(node, sides, node.input(6), rewriter)
    return None


def _product_of_floats(node: Node, rewriter: Rewriter) -> str | None:
    scale = constant_array(node.operand(2))
    if scale is None or not _constant_numbers(node.operand(1), node.input(3)):
        return "its weights are computed by the model"
    weight = _weight(node, node.operand(1), scale, node.input(3), -1, rewriter)
    _multiply(node, [node.operand(0), weight], node.input(4), rewriter)
    return None


def _multiply(node: Node, sides: Sequence[Value], bias: Value | None, rewriter: Rewriter) -> None:
    result = rewriter.insert("MatMul", sides, [FLOAT], name=node.name, before=node).output
    if bias is not None:
        result = rewriter.insert("Add", [result, bias], [FLOAT], before=node).output
    _give(node, result, rewriter)


def _give(node: Node, value: Value, rewriter: Rewriter) -> None:
    operands = node.inputs
    rewriter.replace(node, [value])
    for operand in operands:
        rewriter.erase_dead(operand)


# -- LSTM ------------------------------------------------------------------------------------------


def _lstm(node: Node, rewriter: Rewriter) -> str | None:
    """DynamicQuantizeLSTM holds its weights transposed: inputs before gates."""
    weights: list[Value] = []
    for at, scale_at in ((1, 8), (2, 10)):
        stored = constant_array(node.operand(at))
        scale, zero_point = (constant_array(node.operand(scale_at + k)) for k in (0, 1))
        if stored is None or scale is None or zero_point is None:
            return "its weights are computed by the model"
        real = (stored.astype(np.int64) - _by_gate(zero_point)) * _by_gate(scale)
        transposed = np.ascontiguousarray(real.transpose(0, 2, 1).astype(np.float32))
        weights.append(rewriter.constant(f"{node.operand(at).name}_real", transposed))
    kept: dict[str, Attribute] = {
        name: value for name, value in node.attributes.items() if name in LSTM_ATTRIBUTES
    }
    kept.setdefault("hidden_size", int(weights[1].tensor.static_shape[2]))
    made = rewriter.insert(
        "LSTM",
        [node.operand(0), *weights, *(node.input(index) for index in range(3, 8))],
        [FLOAT for _ in node.outputs],
        attributes=kept,
        name=node.name,
        output_names=["" if not value.name else _fresh(rewriter, value) for value in node.outputs],
        before=node,
    )
    operands = node.inputs
    rewriter.replace(node, made.outputs)
    for operand in operands:
        rewriter.erase_dead(operand)
    return None


LSTM_ATTRIBUTES = frozenset(
    {
        "activation_alpha",
        "activation_beta",
        "activations",
        "clip",
        "direction",
        "hidden_size",
        "input_forget",
    }
)


def _fresh(rewriter: Rewriter, value: Value) -> str:
    return rewriter.graph.fresh_name(value.name)


def _by_gate(numbers: Array) -> Array:
    """Numbers for each direction, or each direction and gate row: [directions, 1, 1 or rows]."""
    wide = numbers.astype(np.float64 if numbers.dtype.kind == "f" else np.int64)
    return wide.reshape(wide.shape[0] if wide.ndim else 1, 1, -1)


_READERS = {
    "ConvInteger": _integer_product,
    "DequantizeLinear": _dequantize,
    "MatMulInteger": _integer_product,
    "com.microsoft.DynamicQuantizeLSTM": _lstm,
    "com.microsoft.DynamicQuantizeMatMul": _product_of_floats,
    "com.microsoft.MatMulIntegerToFloat": _product_to_float,
}
