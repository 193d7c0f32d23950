"""Write the QOperator form (QLinearConv, ...) as Q/DQ nodes around float ops.

The Q/DQ nodes of other domains (``com.microsoft``, AMD Quark's) become those of ONNX first, where
they say the same.  Images whose channels lie last (``channels_last``, ``NhwcMaxPool``) are
transposed around the op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Attribute, Graph, Node, Value, constant_array
from qcc.ir.infer import infer_shapes
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import UNKNOWN, TensorType
from qcc.passes.import_packed import PACKED_OP

Extra: TypeAlias = "Callable[[Node], Sequence[Array] | str]"


@dataclass(frozen=True)
class Data:
    """A quantized operand: where its value is; scale and zero point follow it.

    ``channel_axis`` is the axis of a scale of several entries; a ``plain`` operand is read as it is
    and has neither scale nor zero point.
    """

    at: int
    channel_axis: int | None = None
    plain: bool = False


@dataclass(frozen=True)
class QOperator:
    """How one QOperator is laid out.

    ``result`` is the index of the result's scale (its zero point follows); ``bias`` of an int32
    bias whose scale is that of the first two operands multiplied; ``triples_from`` starts a list of
    operands of any number.  ``keep`` names the attributes that the float op has too.  ``extra``
    gives constants that the float op has for the other attributes, or a sentence that says why
    there is no such op.
    """

    op: str
    data: tuple[Data, ...]
    result: int
    bias: int | None = None
    triples_from: int | None = None
    keep: frozenset[str] = field(default_factory=frozenset)
    extra: Extra | None = None


CONV = frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})
POOL = frozenset({"auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides"})
MAX_POOL = frozenset({"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides"})


def _reduced_axes(node: Node) -> Sequence[Array] | str:
    axes = node.attributes.get("axes")
    return [] if not axes else [np.asarray(axes, np.int64)]


def _softmax_axis(node: Node) -> Sequence[Array] | str:
    """Before opset 13 a Softmax ran over all axes from its own on."""
    axis, rank = int(node.attributes.get("axis", -1)), node.operand(0).tensor.rank
    if int(node.attributes.get("opset", 1)) >= 13 or axis == -1 or axis + 1 == rank:
        return []
    return f"'{node.label}' is a Softmax over several axes at once, as no ONNX op is"


QLINEAR_CONV = QOperator("Conv", (Data(0), Data(3, 0)), 6, bias=8, keep=CONV)

QOPERATORS: Mapping[str, QOperator] = {
    "QLinearConv": QLINEAR_CONV,
    "com.microsoft.QLinearConv": QLINEAR_CONV,
    "QLinearMatMul": QOperator("MatMul", (Data(0, -2), Data(3, -1)), 6),
    "com.microsoft.QGemm": QOperator(
        "Gemm", (Data(0), Data(3, 1)), 7, bias=6, keep=frozenset({"transA", "transB", "alpha"})
    ),
    "com.microsoft.QLinearAdd": QOperator("Add", (Data(0), Data(3)), 6),
    "com.microsoft.QLinearMul": QOperator("Mul", (Data(0), Data(3)), 6),
    "com.microsoft.QLinearWhere": QOperator("Where", (Data(0, plain=True), Data(1), Data(4)), 7),
    "com.microsoft.QLinearSigmoid": QOperator("Sigmoid", (Data(0),), 3),
    "com.microsoft.QLinearSoftmax": QOperator(
        "Softmax", (Data(0),), 3, keep=frozenset({"axis"}), extra=_softmax_axis
    ),
    "com.microsoft.QLinearReduceMean": QOperator(
        "ReduceMean", (Data(0),), 3, keep=frozenset({"keepdims"}), extra=_reduced_axes
    ),
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

OTHER_DOMAINS: Mapping[str, str] = {
    "com.microsoft.QuantizeLinear": "QuantizeLinear",
    "com.microsoft.DequantizeLinear": "DequantizeLinear",
    "com.amd.quark.ExtendedQuantizeLinear": "QuantizeLinear",
    "com.amd.quark.ExtendedDequantizeLinear": "DequantizeLinear",
    "com.vai.quantize.VitisQuantizeLinear": "QuantizeLinear",
    "com.vai.quantize.VitisDequantizeLinear": "DequantizeLinear",
}
"""Q/DQ of other domains to those of ONNX; operands and the attribute ``axis`` mean the same."""

POOL_OF_BYTES = "com.microsoft.NhwcMaxPool"


def speaks_of_numbers(node: Node) -> bool:
    """Whether a node of an ONNX model holds quantization parameters: Q/DQ, or a QOperator."""
    known = ("QuantizeLinear", "DequantizeLinear", POOL_OF_BYTES, PACKED_OP)
    return node.op in known or node.op in QOPERATORS or node.op in OTHER_DOMAINS


def expand_qoperators(graph: Graph, rewriter: Rewriter) -> int:
    """Expand every known QOperator of ``graph`` and its subgraphs; the number of them.

    Shapes are inferred in between: an op of a vendor's domain hides the shapes behind it.
    """
    count = 0
    while expanded := _expand_round(graph, rewriter):
        count += expanded
        infer_shapes(graph)
    for node in graph.walk():
        if _is_hidden(node):
            rewriter.refuse(
                node, f"'{node.label}' has its channels last and the rank of its input is not known"
            )
        elif (obstacle := _obstacle(node)) is not None:
            rewriter.refuse(node, obstacle)
    return count


def _expand_round(graph: Graph, rewriter: Rewriter) -> int:
    count = 0
    for node in tuple(graph.walk()):
        layout = QOPERATORS.get(node.op)
        if node.op in OTHER_DOMAINS and _speaks_of_integers(node):
            _rename(node, OTHER_DOMAINS[node.op], rewriter)
        elif _is_hidden(node) or _obstacle(node) is not None:
            continue
        elif node.op == POOL_OF_BYTES:
            _pool_bytes(node, rewriter)
        elif layout is not None:
            _expand(node, layout, rewriter)
        else:
            continue
        count += 1
    return count


def _obstacle(node: Node) -> str | None:
    """Why there is no float op for a QOperator, or None."""
    layout = QOPERATORS.get(node.op)
    found = None if layout is None or layout.extra is None else layout.extra(node)
    return found if isinstance(found, str) else None


def _is_hidden(node: Node) -> bool:
    """Whether ``node`` has its channels last and its input no known rank (yet)."""
    if node.op not in QOPERATORS and node.op != POOL_OF_BYTES:
        return False
    last = node.op == POOL_OF_BYTES or bool(node.attributes.get("channels_last"))
    return last and node.operand(0).tensor.rank is None


def _speaks_of_integers(node: Node) -> bool:
    """Whether the zero point, or without one the data, is of a dtype that ONNX quantizes to."""
    zero_point = node.input(2)
    integer = zero_point if zero_point is not None else node.operand(0)
    return zero_point is None or integer.tensor.storage in numerics.STORAGE_RANGE


def _rename(node: Node, op: str, rewriter: Rewriter) -> None:
    """The same node of ONNX's own domain."""
    axis = node.attributes.get("axis")
    zero_point = node.input(2)
    stored = "uint8" if zero_point is None else zero_point.tensor.storage
    element = stored if op == "QuantizeLinear" else "float32"
    made = rewriter.insert(
        op,
        node.inputs[:3],
        [TensorType(_shape(node.operand(0)), element)],
        attributes={} if axis is None else {"axis": axis},
        name=node.name,
        before=node,
    )
    rewriter.replace(node, [made.output])


def _expand(node: Node, layout: QOperator, rewriter: Rewriter) -> None:
    places = layout.data
    if layout.triples_from is not None:
        places = tuple(Data(at) for at in range(layout.triples_from, len(node.inputs), 3))
    operands: list[Value | None] = [_operand(node, place, rewriter) for place in places]
    bias = None if layout.bias is None else node.input(layout.bias)
    if bias is not None:
        operands.append(_dequantized_bias(node, bias, rewriter))
    extra = () if layout.extra is None else layout.extra(node)
    operands.extend(
        rewriter.constant(f"{node.label}_constant", data)
        for data in extra
        if isinstance(data, np.ndarray)
    )
    kept = {name: value for name, value in node.attributes.items() if name in layout.keep}
    rank = node.operand(0).tensor.rank if node.attributes.get("channels_last") else None
    result = _transposed_op(node, layout.op, operands, kept, rank, rewriter)
    if node.input(layout.result) is None:  # QGemm without a result scale gives float32
        rewriter.replace(node, [result])
        return
    scale, zero_point = _result_parameters(node, layout.result, rewriter)
    quantized = rewriter.insert(
        "QuantizeLinear",
        [result, scale, zero_point],
        [TensorType(_shape(node.output), zero_point.tensor.element)],
        attributes=_axis_of(scale, node.output, -2),
        name=rewriter.graph.fresh_name(f"{node.label}_quantize"),
        before=node,
    )
    rewriter.replace(node, [quantized.output])


def _pool_bytes(node: Node, rewriter: Rewriter) -> None:
    """A MaxPool of stored integers whose channels lie last."""
    kept = {name: value for name, value in node.attributes.items() if name in MAX_POOL}
    rank = node.operand(0).tensor.rank
    element = node.operand(0).tensor.element
    result = _transposed_op(node, "MaxPool", [node.operand(0)], kept, rank, rewriter, element)
    rewriter.replace(node, [result])


def _transposed_op(
    node: Node,
    op: str,
    operands: list[Value | None],
    attributes: dict[str, Attribute],
    rank: int | None,
    rewriter: Rewriter,
    element: object = "float32",
) -> Value:
    """``op`` in place of ``node``; with a ``rank`` its first operand and result are channels last.

    The result has an unknown shape where it is transposed; inference finds it.
    """
    assert isinstance(element, str)
    if rank is not None:
        inwards = [0, rank - 1, *range(1, rank - 1)]
        source = operands[0]
        assert source is not None
        operands = [_transpose(source, inwards, element, node, rewriter), *operands[1:]]
    shape = None if rank is not None else _shape(node.output)
    body = rewriter.insert(
        op,
        operands,
        [TensorType(shape, element)],
        attributes=attributes,
        name=node.name,
        before=node,
    )
    if rank is None:
        return body.output
    return _transpose(body.output, [0, *range(2, rank), 1], element, node, rewriter)


def _transpose(
    value: Value, order: list[int], element: str, before: Node, rewriter: Rewriter
) -> Value:
    return rewriter.insert(
        "Transpose",
        [value],
        [TensorType(None, element)],
        attributes={"perm": order},
        name=rewriter.graph.fresh_name(f"{value.name}_transposed"),
        before=before,
    ).output


def _shape(value: Value) -> tuple[int | str | None, ...] | None:
    return value.type.shape if isinstance(value.type, TensorType) else UNKNOWN.shape


def _result_parameters(node: Node, at: int, rewriter: Rewriter) -> tuple[Value, Value]:
    """Scale and zero point of the result; without a zero point it is 0 in the operands' dtype.

    (QuantizeLinear without one would give uint8.)
    """
    scale, zero_point = node.operand(at), node.input(at + 1)
    if zero_point is None:
        data = np.zeros((), node.operand(0).tensor.storage)
        zero_point = rewriter.constant(f"{node.label}_zero_point", data)
    return scale, zero_point


def _axis_of(scale: Value, value: Value, axis: int) -> dict[str, Attribute]:
    """The attribute ``axis`` where a scale has several entries."""
    sizes = scale.tensor.shape
    rank = value.tensor.rank
    if not sizes or sizes[-1] == 1 or rank is None:
        return {}
    return {"axis": axis % rank}


def _operand(node: Node, place: Data, rewriter: Rewriter) -> Value:
    source = node.operand(place.at)
    if place.plain:
        return source
    axis = place.channel_axis
    if node.op_type == "QGemm" and place.at == 3 and node.attributes.get("transB"):
        axis = 0
    scale, zero_point = node.operand(place.at + 1), node.input(place.at + 2)
    return rewriter.insert(
        "DequantizeLinear",
        [source, scale] if zero_point is None else [source, scale, zero_point],
        [TensorType(_shape(source), "float32")],
        attributes={} if axis is None else _axis_of(scale, source, axis),
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
        alpha = attribute(node, "alpha") or 1.0
        data = np.asarray(x_scale, np.float64) * np.asarray(w_scale, np.float64) * alpha
        data = data.reshape(()) if data.size == 1 else data.reshape(-1)
        scale = rewriter.constant(f"{bias.name}_scale", data.astype(np.float32))
    return rewriter.insert(
        "DequantizeLinear",
        [bias, scale],
        [bias.tensor.with_element("float32")],
        attributes=_axis_of(scale, bias, -1),
        name=rewriter.graph.fresh_name(f"{bias.name}_real"),
        before=node,
    ).output
