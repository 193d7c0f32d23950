"""q.quantize and q.dequantize as QuantizeLinear and DequantizeLinear.

Zero points are always explicit: without one ONNX means uint8.  A quantized range that is narrower
than its storage becomes a clamp in front, on the float side, whose bounds are the dequantized
bounds: ``fl((low - z) * s) / s`` rounds back to ``low - z``, so the file gives the stored values
that :func:`qcc.numerics.quantize` gives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, helper

from qcc.errors import ConfigError
from qcc.ir.core import Node, Value
from qcc.ir.types import Quant
from qcc.numerics import STORAGE_RANGE
from qcc.onnxio.elements import element_dtype
from qcc.onnxio.emit import Emitter, quant_of

QUANTIZED_SINCE = {"int8": 10, "uint8": 10, "int32": 10} | dict.fromkeys(
    ("int16", "uint16", "int4", "uint4"), 21
)
"""The first opset whose Q/DQ ops know a storage type."""

PER_AXIS_SINCE = 13

FLOAT16_SINCE = 19
"""The first opset whose Q/DQ ops take float16."""

Writer = Callable[[Emitter, Node], list[NodeProto]]


def _write_quantize(emitter: Emitter, node: Node) -> list[NodeProto]:
    value, result = node.operand(0), node.output
    quant = quant_of(result)
    _check(emitter.opset, quant, result)
    if quant.storage == "int32":
        raise ConfigError(
            f"'{result.name}' is quantized to int32, which QuantizeLinear cannot give; store it as "
            "a constant.",
            node=node.label,
        )
    nodes, clamped = _clamp(emitter, node, value, quant)
    nodes.append(_linear(emitter, "QuantizeLinear", node, clamped, result, quant))
    return nodes


def _write_dequantize(emitter: Emitter, node: Node) -> list[NodeProto]:
    value = node.operand(0)
    quant = quant_of(value)
    _check(emitter.opset, quant, value)
    if quant.storage == "int32" and any(quant.zero_point):
        raise ConfigError(
            f"'{value.name}' is int32 with a zero point, which DequantizeLinear does not allow; "
            "use zero point 0.",
            node=node.label,
        )
    return [_linear(emitter, "DequantizeLinear", node, value.name, node.output, quant)]


def _write_observe(emitter: Emitter, node: Node) -> list[NodeProto]:
    """An observer only looks."""
    return [
        helper.make_node("Identity", [node.operand(0).name], [output.name], name=node.name)
        for output in node.outputs
    ]


def _linear(
    emitter: Emitter, op: str, node: Node, source: str, result: Value, quant: Quant
) -> NodeProto:
    shape = () if quant.axis is None else (len(quant.scale),)
    base = result.name if op == "QuantizeLinear" else source
    real = (node.operand(0) if op == "QuantizeLinear" else node.output).tensor.storage
    _check_real(emitter.opset, real, node)
    scales = quant.scales.reshape(shape).astype(element_dtype(real))
    scale = emitter.share(f"{base}_scale", scales, real)
    zeros = quant.zero_points.astype(element_dtype(quant.storage)).reshape(shape)
    # onnxruntime rewrites the zero point of a weight in place (``session.x64quantprecision``), and
    # refuses where another tensor uses the same initializer.
    zero_point = emitter.share(f"{base}_zero_point", zeros, quant.storage, owner=base)
    proto = helper.make_node(op, [source, scale, zero_point], [result.name], name=node.name)
    if quant.axis is not None:
        proto.attribute.append(helper.make_attribute("axis", quant.axis))
    return proto


def _check_real(opset: int, real: str, node: Node) -> None:
    if real != "float32" and opset < FLOAT16_SINCE:
        raise ConfigError(
            f"'{node.label}' converts {real}, which needs opset {FLOAT16_SINCE}; write with opset "
            f"{FLOAT16_SINCE} or newer, not {opset}."
        )


def _check(opset: int, quant: Quant, value: Value) -> None:
    since = QUANTIZED_SINCE[quant.storage]
    if opset < since:
        raise ConfigError(
            f"'{value.name}' is quantized to {quant.storage}, which needs opset {since}; write "
            f"with opset {since} or newer, not {opset}."
        )
    if quant.axis is not None and opset < PER_AXIS_SINCE:
        raise ConfigError(
            f"'{value.name}' is quantized per channel, which needs opset {PER_AXIS_SINCE}; write "
            f"with opset {PER_AXIS_SINCE} or newer, not {opset}, or quantize per tensor."
        )


def _clamp(emitter: Emitter, node: Node, value: Value, quant: Quant) -> tuple[list[NodeProto], str]:
    """The nodes that narrow the float range to the quantized one, and the name of their result."""
    low, high = quant.range
    if (low, high) == STORAGE_RANGE[quant.storage]:
        return [], value.name
    bounds = [
        (np.asarray([b - z for z in quant.zero_point], np.float32) * quant.scales)
        for b in (low, high)
    ]
    clamped = emitter.fresh(f"{node.output.name}_clamped")
    if quant.axis is None and emitter.opset >= 11:
        names = [
            emitter.share(f"{clamped}_{role}", bound.reshape(()), "float32")
            for role, bound in zip(("low", "high"), bounds, strict=True)
        ]
        return [helper.make_node("Clip", [value.name, *names], [clamped])], clamped
    shape = _bound_shape(value, quant)
    bottom = emitter.share(f"{clamped}_low", bounds[0].reshape(shape), "float32")
    top = emitter.share(f"{clamped}_high", bounds[1].reshape(shape), "float32")
    raised = emitter.fresh(f"{clamped}_raised")
    return [
        helper.make_node("Max", [value.name, bottom], [raised]),
        helper.make_node("Min", [raised, top], [clamped]),
    ], clamped


def _bound_shape(value: Value, quant: Quant) -> tuple[int, ...]:
    if quant.axis is None:
        return ()
    rank = value.tensor.rank
    if rank is None:
        raise ConfigError(
            f"'{value.name}' is quantized per channel to a narrowed range and its rank is unknown; "
            "give the model's inputs shapes."
        )
    shape = [1] * rank
    shape[quant.axis] = -1
    return tuple(shape)


WRITERS: dict[str, Writer] = {
    "q.quantize": _write_quantize,
    "q.dequantize": _write_dequantize,
    "q.observe": _write_observe,
}
"""How the ops that ONNX can say are written."""
