"""Write the QOperator form (QLinearConv, ...) as Q/DQ nodes around float ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcc.ir.core import Attribute, Graph, Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType


@dataclass(frozen=True)
class Data:
    """A quantized operand: where its value is; scale and zero point follow it.

    ``weight_axis`` is the axis of a scale of several entries.
    """

    at: int
    weight_axis: int | None = None


@dataclass(frozen=True)
class QOperator:
    """How one QOperator is laid out.

    ``result`` is the index of the result's scale (its zero point follows); ``bias`` of an int32
    bias whose scale is that of the first two operands multiplied; ``triples_from`` starts a list of
    operands of any number.  ``keep`` names the attributes that the float op has too.
    """

    op: str
    data: tuple[Data, ...]
    result: int
    bias: int | None = None
    triples_from: int | None = None
    keep: frozenset[str] = field(default_factory=frozenset)


CONV = frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})
POOL = frozenset({"auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"})

QOPERATORS: Mapping[str, QOperator] = {
    "QLinearConv": QOperator("Conv", (Data(0), Data(3, 0)), 6, bias=8, keep=CONV),
    "QLinearMatMul": QOperator("MatMul", (Data(0), Data(3, -1)), 6),
    "com.microsoft.QGemm": QOperator(
        "Gemm", (Data(0), Data(3, 1)), 7, bias=6, keep=frozenset({"transA", "transB", "alpha"})
    ),
    "com.microsoft.QLinearAdd": QOperator("Add", (Data(0), Data(3)), 6),
    "com.microsoft.QLinearMul": QOperator("Mul", (Data(0), Data(3)), 6),
    "com.microsoft.QLinearSigmoid": QOperator("Sigmoid", (Data(0),), 3),
    "com.microsoft.QLinearLeakyRelu": QOperator(
        "LeakyRelu", (Data(0),), 3, keep=frozenset({"alpha"})
    ),
    "com.microsoft.QLinearGlobalAveragePool": QOperator("GlobalAveragePool", (Data(0),), 3),
    "com.microsoft.QLinearAveragePool": QOperator("AveragePool", (Data(0),), 3, keep=POOL),
    "com.microsoft.QLinearConcat": QOperator(
        "Concat", (), 0, triples_from=2, keep=frozenset({"axis"})
    ),
}
"""Op to its layout."""


def expand_qoperators(graph: Graph, rewriter: Rewriter) -> int:
    """Expand every known QOperator of ``graph`` and its subgraphs; the number of them."""
    count = 0
    for node in tuple(graph.walk()):
        layout = QOPERATORS.get(node.op)
        if layout is None:
            continue
        if attribute(node, "channels_last"):
            rewriter.refuse(node, f"'{node.label}' pools the last dimension, as no ONNX op does")
            continue
        _expand(node, layout, rewriter)
        count += 1
    return count


def _expand(node: Node, layout: QOperator, rewriter: Rewriter) -> None:
    places = layout.data
    if layout.triples_from is not None:
        places = tuple(Data(at) for at in range(layout.triples_from, len(node.inputs), 3))
    operands: list[Value | None] = [_dequantized(node, place, rewriter) for place in places]
    bias = None if layout.bias is None else node.input(layout.bias)
    if bias is not None and layout.bias is not None:
        operands.append(_dequantized_bias(node, bias, rewriter))
    kept = {name: value for name, value in node.attributes.items() if name in layout.keep}
    attributes: dict[str, Attribute] = dict(kept)
    result = node.output.type
    shape = result.shape if isinstance(result, TensorType) else None
    if node.input(layout.result) is None:  # QGemm without a result scale gives float32
        only = rewriter.insert(
            layout.op, operands, [result], attributes=attributes, name=node.name, before=node
        )
        rewriter.replace(node, [only.output])
        return
    body = rewriter.insert(
        layout.op,
        operands,
        [TensorType(shape, "float32")],
        attributes=attributes,
        name=node.name,
        before=node,
    )
    quantized = rewriter.insert(
        "QuantizeLinear",
        [body.output, *_parameters(node, layout.result)],
        [result],
        name=rewriter.graph.fresh_name(f"{node.label}_quantize"),
        output_names=[node.output.name],
        before=node,
    )
    rewriter.replace_uses(node.output, quantized.output)
    rewriter.erase(node)


def _parameters(node: Node, at: int) -> Sequence[Value | None]:
    """Scale and, if present, zero point at operand ``at``."""
    found = [node.input(at), node.input(at + 1)]
    return found if found[1] is not None else found[:1]


def _dequantized(node: Node, place: Data, rewriter: Rewriter) -> Value:
    source = node.operand(place.at)
    axis = place.weight_axis
    if node.op_type == "QGemm" and place.at == 3 and attribute(node, "transB"):
        axis = 0
    rank = source.tensor.rank or 1
    attributes = {} if axis is None else {"axis": axis % rank}
    return rewriter.insert(
        "DequantizeLinear",
        [source, *_parameters(node, place.at + 1)],
        [source.tensor.with_element("float32")],
        attributes=attributes,
        name=rewriter.graph.fresh_name(f"{source.name}_real"),
        before=node,
    ).output


def _dequantized_bias(node: Node, bias: Value, rewriter: Rewriter) -> Value:
    """An int32 bias has the scale of the accumulator."""
    x_scale, w_scale = constant_array(node.input(1)), constant_array(node.input(4))
    if x_scale is None or w_scale is None:
        scale = rewriter.insert(
            "Mul", [node.input(1), node.input(4)], [node.operand(4).tensor], before=node
        ).output
    else:
        alpha = node.attributes.get("alpha", 1.0)
        data = np.asarray(x_scale, np.float64) * np.asarray(w_scale, np.float64) * alpha
        data = data.reshape(()) if data.size == 1 else data.reshape(-1)
        scale = rewriter.constant(f"{bias.name}_scale", data.astype(np.float32))
    return rewriter.insert(
        "DequantizeLinear",
        [bias, scale],
        [bias.tensor.with_element("float32")],
        attributes={"axis": 0},
        name=rewriter.graph.fresh_name(f"{bias.name}_real"),
        before=node,
    ).output
