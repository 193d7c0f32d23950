"""What ONNX itself says of Q/DQ nodes, and most runtimes want (rules G1 to G8)."""

from __future__ import annotations

from collections.abc import Iterator

from qcc.lint.axes import misplaced
from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex
from qcc.lint.quantizers import MICROSOFT, Quantizer, groups, products, quantizers
from qcc.lint.repairs import WriteZeroPoint
from qcc.lint.scales import bad_scale
from qcc.lint.symmetry import onnx_domain

SINCE = {
    **dict.fromkeys(("int8", "uint8", "int32"), 10),
    **dict.fromkeys(("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"), 19),
    **dict.fromkeys(("int16", "uint16", "int4", "uint4"), 21),
    "float4_e2m1fn": 23,
    **dict.fromkeys(("int2", "uint2"), 25),
}
"""The first opset whose QuantizeLinear and DequantizeLinear know a type."""

WIDE = ("int16", "uint16", "int32")


def types(index: ModelIndex) -> Iterator[Problem]:
    """Stored types are ones that Q/DQ of the model's opset know."""
    for group in groups(index):
        lead, storage = group.lead, group.lead.storage
        if storage is None or lead.operation.proto.domain not in ("", "ai.onnx"):
            continue
        since = SINCE.get(storage)
        if since is None or (lead.quantizes and storage == "int32"):
            yield Problem(
                lead.operation,
                f"{lead.operation.op} of ONNX does not know {storage}: store 8-bit values",
            )
        elif index.opset < since:
            yield Problem(
                lead.operation,
                f"it stores values as {storage}, which needs opset {since}, and the model uses "
                f"{index.opset}: export it with a newer opset",
            )


def scales(index: ModelIndex) -> Iterator[Problem]:
    """Constant scales are positive and finite."""
    for group in groups(index):
        for member in group.own:
            if member.scale is not None:
                yield from bad_scale(group, member)


def zero_points(index: ModelIndex) -> Iterator[Problem]:
    """Zero points are of the type of the stored values, and those of int32 are 0."""
    for q in quantizers(index):
        if q.storage == "int32" and q.zeros is not None and q.zeros.any():
            yield Problem(
                q.operation, "it dequantizes int32 with a zero point, which must be 0: correct it"
            )
        elif q.zero_point is not None and not q.quantizes and _differs(q):
            yield Problem(
                q.operation,
                f"its zero point is {q.zero_point.dtype} and its data are {q.storage}: give the "
                "zero point the type of the data",
            )


def _differs(q: Quantizer) -> bool:
    return q.storage is not None and str(getattr(q.zero_point, "dtype", "")) != q.storage


def missing_zero_points(index: ModelIndex) -> Iterator[Problem]:
    """QuantizeLinear says its type: by a zero point, or by output_dtype."""
    for q in quantizers(index):
        if not q.states_storage:
            repair = None if q.scale is None else WriteZeroPoint(q.operation, "uint8")
            yield Problem(
                q.operation,
                "it has no zero point, which means uint8 to ONNX and int8 to others: write a zero "
                "point of the type that is meant",
                repair,
            )


def foreign_ops(index: ModelIndex) -> Iterator[Problem]:
    """No op is one of com.microsoft, which few runtimes besides onnxruntime know."""
    for operation in index.operations:
        if not operation.op.startswith(MICROSOFT):
            continue
        if operation.proto.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield Problem(
                operation,
                f"it is an op of com.microsoft: use ONNX's own {operation.proto.op_type}, which "
                "means the same",
                onnx_domain(Quantizer(index, operation)),
            )
        else:
            yield Problem(
                operation,
                f"{operation.op} is no op of ONNX, and few runtimes besides onnxruntime have it: "
                "export the model as Q/DQ around ops of ONNX",
            )


def weight_axes(index: ModelIndex) -> Iterator[Problem]:
    """Scales of weights lie along the output channels, as every integer kernel wants them."""
    for product in products(index):
        found = misplaced(product, ", so runtimes compute it in float, or wrongly")
        if found is not None:
            yield found


def wide_operands(index: ModelIndex) -> Iterator[Problem]:
    """Weighted ops read values of 8 bits or less, of which there are integer kernels."""
    for product in products(index):
        wide = [q.storage for q in product.quantized if q is not None and q.storage in WIDE]
        if wide:
            yield Problem(
                product.operation,
                f"it reads values stored as {wide[0]}, of which there is no integer kernel, so it "
                "runs in float: store 8 bits",
            )
