"""What onnxruntime's CPU provider computes wrongly or in float (rules R1 to R12).

It replaces DequantizeLinear → op → QuantizeLinear by an integer op under the conditions of
``qdq_selectors.cc`` (onnxruntime 1.31).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcc.lint.axes import misplaced
from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex, Operation, Tensor
from qcc.lint.layers import quantize_readers
from qcc.lint.quantizers import (
    EIGHT_BITS,
    Product,
    Quantizer,
    dequantizer,
    groups,
)
from qcc.lint.repairs import WriteZeroPoint
from qcc.lint.symmetry import float_bias

PRODUCTS = ("Conv", "Gemm", "MatMul")

FUNCTIONS = frozenset(
    (
        *("Add", "Mul", "Concat", "Where"),
        *("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax"),
    )
)
"""Other ops that it has integer kernels of."""

MOVED = frozenset(
    (
        *("Expand", "Flatten", "Gather", "GatherElements", "Reshape", "Slice", "Squeeze", "Tile"),
        *("Transpose", "Unsqueeze", "Split", "MaxPool", "ReduceMax", "ReduceMin"),
    )
)
"""Ops that run on stored values where both sides have the same scale and zero point."""

TAKEN = frozenset({*PRODUCTS, *FUNCTIONS, *MOVED, "Resize", "DepthToSpace", "Identity", "ArgMax"})
"""Ops at which Q/DQ nodes may turn into something faster."""

CLAMPS = ("Relu", "Clip")

BIAS = 2

SCALE_TOLERANCE = 1e-4
"""How far the scale of a bias may lie from the product of scales that the integer kernel means."""


def operands_of(operation: Operation) -> tuple[Tensor | None, ...]:
    """The operands that an integer kernel reads as stored values; a bias is not among them."""
    if operation.op == "Concat":
        return operation.inputs
    if operation.op == "Where":
        return operation.inputs[1:3]
    count = 2 if operation.op in (*PRODUCTS, "Add", "Mul") else 1
    return tuple(operation.input(place) for place in range(count))


def units(index: ModelIndex, *ops: str) -> Iterator[tuple[Operation, list[Quantizer]]]:
    """The nodes of some ops whose operands are all dequantized, with what dequantizes them."""
    for operation in index.of(*(ops or (*PRODUCTS, *FUNCTIONS))):
        found = [dequantizer(index, operand) for operand in operands_of(operation)]
        known = [q for q in found if q is not None]
        if found and len(known) == len(found):
            yield operation, known


def quantized_behind(index: ModelIndex, tensor: Tensor | None) -> list[Quantizer]:
    """The quantize nodes that read a value, at once or behind one Relu or Clip."""
    if tensor is None:
        return []
    found = quantize_readers(index, tensor)
    clamp = clamp_behind(tensor)
    if not found and clamp is not None and clamp.output is not None:
        return quantize_readers(index, clamp.output)
    return found


def clamp_behind(tensor: Tensor) -> Operation | None:
    """The Relu or Clip that is the only reader of a value."""
    readers = tensor.readers
    return readers[0] if len(readers) == 1 and readers[0].op in CLAMPS else None


# -- R1, R7, R11: where results go -----------------------------------------------------------------


def unquantized_convolutions(index: ModelIndex) -> Iterator[Problem]:
    """R1: the result of a quantized Conv is quantized."""
    for operation, _ in units(index, "Conv"):
        result = operation.output
        if result is None or result.is_output or quantized_behind(index, result):
            continue
        yield Problem(
            operation,
            "no QuantizeLinear follows, and onnxruntime has no integer Conv with a float result, "
            "so it runs in float: quantize and dequantize its result",
        )


def outputs_of_the_model(index: ModelIndex) -> Iterator[Problem]:
    """R7: no result that integers give is an output of the model itself."""
    for operation, _ in units(index):
        result = operation.output
        if result is None or not result.is_output:
            continue
        if operation.op == "Conv" or quantize_readers(index, result):
            yield Problem(
                operation,
                f"its result '{result.name}' is an output of the model, so it runs in float: "
                "quantize and dequantize it in front of the output",
            )


def shared_results(index: ModelIndex) -> Iterator[Problem]:
    """R11: the result of a quantized op has one reader, its QuantizeLinear."""
    for operation, _ in units(index):
        result = operation.output
        found = [] if result is None else quantize_readers(index, result)
        if result is None or not found or len(result.readers) == 1:
            continue
        others = len(result.readers) - len(found)
        what = (
            f"{len(found)} QuantizeLinear nodes" if others == 0 else "a QuantizeLinear and others"
        )
        yield Problem(
            operation,
            f"{what} read its result '{result.name}', so it runs in float: let one QuantizeLinear "
            "read it, and dequantize that for each reader",
        )


# -- R2: activations -------------------------------------------------------------------------------


def clamps(index: ModelIndex) -> Iterator[Problem]:
    """R2: a Relu or Clip in front of a QuantizeLinear is one that its saturation implies."""
    for operation, _ in units(index, *PRODUCTS, "Add", "Mul"):
        clamp = None if operation.output is None else clamp_behind(operation.output)
        if clamp is None or clamp.output is None:
            continue
        for quantizer in quantize_readers(index, clamp.output):
            reason = _not_implied(index, clamp, quantizer)
            if reason is not None:
                yield Problem(
                    clamp,
                    f"{reason}, so {operation.op} '{operation.label}' in front of it runs in float",
                )


def _not_implied(index: ModelIndex, clamp: Operation, q: Quantizer) -> str | None:
    if q.scale is None or q.zeros is None or q.storage not in EIGHT_BITS or q.scale.size != 1:
        return None
    limits = np.iinfo(q.storage)
    scale, zero = float(q.scale.reshape(-1)[0]), int(q.zeros[0])
    bottom, top = (limits.min - zero) * scale, (limits.max - zero) * scale
    low, high = _bounds(index, clamp)
    if low is not None and bottom < low - scale * 1e-3:
        return (
            f"it cuts at {low:g} and the quantized range behind it begins at {bottom:.4g} (write "
            f"zero point {limits.min})"
        )
    if high is not None and top > high + scale * 1e-3:
        return (
            f"it cuts at {high:g} and the quantized range behind it ends at {top:.4g} (quantize "
            "the range that it leaves)"
        )
    return None


def _bounds(index: ModelIndex, clamp: Operation) -> tuple[float | None, float | None]:
    if clamp.op == "Relu":
        return 0.0, None
    found: list[float | None] = [clamp.attribute("min"), clamp.attribute("max")]
    for place, at in enumerate((1, 2)):
        data = index.constant(clamp.input(at))
        if data is not None and data.size == 1:
            found[place] = float(data.reshape(-1)[0])
    return found[0], found[1]


# -- R3: types -------------------------------------------------------------------------------------


def operand_types(index: ModelIndex) -> Iterator[Problem]:
    """R3: values have 8 bits, int8 activations int8 weights, results the activation's type."""
    for operation, (first, *others) in units(index):
        storages = [q.storage for q in (first, *others)]
        wide = [storage for storage in storages if storage not in (*EIGHT_BITS, None)]
        if wide:
            yield Problem(
                operation,
                f"it reads values stored as {wide[0]}, and integer kernels read 8 bits, so it runs "
                "in float: store 8 bits",
            )
        elif operation.op in PRODUCTS:
            if storages == ["int8", "uint8"]:
                yield Problem(
                    operation,
                    "its activation is int8 and its weight uint8, for which there is no integer "
                    "kernel: store the weight as int8 (or the activation as uint8)",
                )
        elif len(set(storages)) > 1:
            yield Problem(
                operation,
                f"its operands are stored as {' and '.join(sorted(map(str, set(storages))))}, so "
                "it runs in float: store all as one type",
            )
        for result in quantized_behind(index, operation.output):
            if None not in (result.storage, first.storage) and result.storage != first.storage:
                yield Problem(
                    operation,
                    f"it reads {first.storage} and its result is stored as {result.storage}, so it "
                    "runs in float: store both as one type",
                )


# -- R4, R5, R12: biases ---------------------------------------------------------------------------


def wrong_biases(index: ModelIndex) -> Iterator[Problem]:
    """R4: an int32 bias has the scale of the products that it is added to.

    The integer Gemm adds the stored bias to its sums whatever scale the file says, and so does the
    Conv of onnxruntime 1.23; that of 1.31 runs in float then.
    """
    for operation, bias, written, meant in _foreign_scales(index):
        fused = bool(quantized_behind(index, operation.output))
        yield Problem(
            bias.operation,
            f"the scale of the bias is {written:.4g} where that of activation times weight is "
            f"{meant:.4g}, which {_whose(operation)} instead, so the bias is wrong by that factor: "
            "store it with the product's scale, or as float32",
            float_bias(bias) if fused else None,
        )


def _whose(operation: Operation) -> str:
    old = "onnxruntime's Conv takes (up to 1.23 at least; newer ones run in float)"
    return old if operation.op == "Conv" else "onnxruntime's Gemm takes"


def _foreign_scales(
    index: ModelIndex,
) -> Iterator[tuple[Operation, Quantizer, float, float]]:
    """Quantized nodes, their int32 biases, and the first scale that is not what it must be."""
    for operation, (first, weight) in units(index, "Conv", "Gemm"):
        bias = dequantizer(index, operation.input(BIAS))
        if bias is None or bias.storage != "int32" or bias.scale is None:
            continue
        if first.scale is None or weight.scale is None:
            continue
        meant = np.asarray(first.scale, np.float64).reshape(-1) * np.ravel(weight.scale)
        written = np.asarray(bias.scale, np.float64).reshape(-1)
        if 1 not in (written.size, meant.size) and written.size != meant.size:
            continue
        written, meant = np.broadcast_arrays(written, meant)
        wrong = ~np.isclose(written, meant, rtol=SCALE_TOLERANCE, atol=0)
        if wrong.any():
            yield operation, bias, float(written[wrong][0]), float(meant[wrong][0])


def bias_types(index: ModelIndex) -> Iterator[Problem]:
    """R4: a dequantized bias is int32."""
    for operation, _ in units(index, "Conv", "Gemm"):
        bias = dequantizer(index, operation.input(BIAS))
        if bias is not None and bias.storage not in ("int32", None):
            yield Problem(
                operation,
                f"its bias is stored as {bias.storage}, so it runs in float: store it as int32 "
                "with the scale of activation times weight, or leave it float",
            )


def factors(index: ModelIndex) -> Iterator[Problem]:
    """R5: a quantized Gemm has beta 1."""
    for operation, _ in units(index, "Gemm"):
        beta = float(operation.attribute("beta", 1.0))
        if beta != 1 and operation.input(BIAS) is not None:
            yield Problem(
                operation,
                f"it has beta {beta:g}, which no integer kernel knows, so it runs in float: "
                "multiply the bias by it and write beta=1",
            )


def last_biases(index: ModelIndex) -> Iterator[Problem]:
    """R12: a quantized Gemm whose result stays float has an int32 bias."""
    for operation, _ in units(index, "Gemm"):
        bias = operation.input(BIAS)
        if bias is None or quantized_behind(index, operation.output):
            continue
        if dequantizer(index, bias) is None:
            yield Problem(
                operation,
                "its bias is float and its result is not quantized, so it runs in float: store the "
                "bias as int32 with the scale of activation times weight, or quantize the result",
            )


# -- R6: movement ----------------------------------------------------------------------------------


def moved_values(index: ModelIndex) -> Iterator[Problem]:
    """R6: ops that move values have one scale and one written zero point on both sides."""
    for operation, (source, *_) in units(index, *sorted(MOVED)):
        for result in operation.outputs:
            found = [] if result is None else quantize_readers(index, result)
            for quantizer in found:
                yield from _moved(operation, source, quantizer)


def _moved(operation: Operation, source: Quantizer, result: Quantizer) -> Iterator[Problem]:
    for q in (source, result):
        if not q.has_zero_point:
            repair = None
            if q.scale is not None and q.storage in EIGHT_BITS:
                repair = WriteZeroPoint(q.operation, str(q.storage))
            yield Problem(
                q.operation,
                f"it has no zero point, so {operation.op} '{operation.label}' runs in float: write "
                "the zero point that is meant",
                repair,
            )
    pairs = ((source.scale, result.scale), (source.zeros, result.zeros))
    same = all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)
    if source.storage != result.storage or not same:
        yield Problem(
            operation,
            "it moves values from one scale to another, so it runs in float and its values are "
            "rounded again: quantize its result with the scale and zero point of its operand",
        )


# -- R8: islands -----------------------------------------------------------------------------------


def islands(index: ModelIndex) -> Iterator[Problem]:
    """R8: a Q/DQ pair has an integer op on one of its sides, else it only rounds."""
    for group in groups(index):
        quantize = group.quantize
        if quantize is None or group.is_weight or group.others or not group.dequantize:
            continue
        if _made_by_integers(quantize.data):
            continue
        readers = [o for q in group.dequantize if q.result is not None for o in q.result.readers]
        if any(reader.op in TAKEN for reader in readers):
            continue
        given = any(q.result is not None and q.result.is_output for q in group.dequantize)
        around = [*sorted({r.op for r in readers}), *(["an output of the model"] if given else [])]
        around = around or ["nobody"]
        yield Problem(
            quantize.operation,
            f"no integer kernel makes or reads its values (they go to {', '.join(around)}), so it "
            "rounds them for nothing: take this Q/DQ away",
        )


def _made_by_integers(tensor: Tensor | None) -> bool:
    """Whether a value comes out of an op that onnxruntime has an integer kernel of."""
    producer = None if tensor is None else tensor.producer
    if producer is not None and producer.op in CLAMPS:
        source = producer.input(0)
        producer = None if source is None else source.producer
    return producer is not None and producer.op in TAKEN


# -- R10: axes -------------------------------------------------------------------------------------


def weight_axes(index: ModelIndex) -> Iterator[Problem]:
    """R10: scales of weights lie along the output channels: integer kernels do not ask the axis."""
    for operation, _ in units(index, *PRODUCTS):
        found = misplaced(
            Product(index, operation),
            ", which is the axis that onnxruntime takes whatever is written",
        )
        if found is not None:
            yield found
