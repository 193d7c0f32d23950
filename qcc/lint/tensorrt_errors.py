"""What TensorRT refuses, or takes in silence and computes wrongly (rules E1 to E8)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcc.lint.axes import misplaced, unfitting
from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex, Operation, Tensor
from qcc.lint.quantizers import (
    DEQUANTIZE,
    MICROSOFT,
    MOVES,
    QUANTIZE,
    Group,
    Quantizer,
    groups,
    products,
    quantizers,
)
from qcc.lint.repairs import StoreSigned
from qcc.lint.scales import bad_scale
from qcc.lint.symmetry import dequantize_first, float_bias, onnx_domain, symmetric

LARGEST_INT8 = 127

ALLOWED = ("int8", "float8_e4m3fn", "float4_e2m1fn")
WEIGHT_ONLY = ("int4",)
SMALL_FLOATS = ("float8_e4m3fn", "float4_e2m1fn")

INTEGER_OPS = ("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")

QUANTIZED_ELEMENTS = ("int8", "int4", "float8_e4m3fn")
"""Elements whose constants TensorRT takes for quantized weights."""


# -- E1: types -------------------------------------------------------------------------------------


def types(index: ModelIndex) -> Iterator[Problem]:
    """Values are stored as int8, float8_e4m3fn or float4_e2m1, weights also as int4."""
    for group in groups(index):
        storage = group.lead.storage
        if storage in (None, "int32", *ALLOWED) or _defaults(group):
            continue
        if storage in WEIGHT_ONLY:
            if not group.is_weight:
                yield Problem(
                    group.lead.operation,
                    "it stores activations as int4, which TensorRT has for weights only: use int8",
                )
        elif storage != "uint8":
            yield Problem(
                group.lead.operation,
                f"it stores values as {storage}, which TensorRT does not take: use int8, "
                "float8_e4m3fn, or int4 for weights",
            )
        elif not harmless(group):
            yield _unsigned(group)


def _defaults(group: Group) -> bool:
    """Whether uint8 is only what ONNX means where nothing is written (E2 speaks of that)."""
    return not group.lead.states_storage


def _unsigned(group: Group) -> Problem:
    repair, how = symmetric(group)
    return Problem(
        group.lead.operation,
        "it stores values as uint8, which TensorRT refuses or reads as int8 (128 to 255 become "
        f"127); {how}",
        repair,
    )


def harmless(group: Group) -> bool:
    """Whether uint8 data are the same numbers as int8: constants up to 127, zero point 0."""
    data = group.lead.index.constant(group.stored)
    zeros = group.lead.zeros
    if data is None or zeros is None or data.dtype != np.uint8:
        return False
    return not zeros.any() and int(data.max(initial=0)) <= LARGEST_INT8


def small_unsigned(index: ModelIndex) -> Iterator[Problem]:
    """Constants are stored as int8 even where uint8 means the same numbers."""
    for group in groups(index):
        if group.lead.storage == "uint8" and harmless(group):
            nodes = tuple(member.operation for member in group.members)
            yield Problem(
                group.lead.operation,
                "its constant is stored as uint8, which TensorRT takes for int8 with a warning (no "
                "value is above 127, so the numbers are right): store it as int8",
                None if group.others else StoreSigned(nodes, group.values, 0),
            )


# -- E2: zero points -------------------------------------------------------------------------------


def zero_points(index: ModelIndex) -> Iterator[Problem]:
    """Every zero point is written, 0, and of the type of the stored values."""
    for group in groups(index):
        if group.lead.storage not in (*ALLOWED, *WEIGHT_ONLY, None) and not _defaults(group):
            continue  # E1 and E4 speak of these
        for member in group.own:
            yield from _zero_point(group, member)


def _zero_point(group: Group, member: Quantizer) -> Iterator[Problem]:
    if not member.states_storage:
        repair, how = symmetric(group)
        yield Problem(
            member.operation,
            "it has no zero point, which means uint8 to ONNX and int8 to TensorRT, so the numbers "
            f"differ; {how}",
            repair,
        )
    elif member.zeros is None:
        yield Problem(
            member.operation, "its zero point is computed: make it an initializer of zeros"
        )
    elif member.zeros.any():
        repair, how = symmetric(group)
        worst = int(member.zeros[np.abs(member.zeros).argmax()])
        yield Problem(
            member.operation,
            f"its zero point is {worst}, and TensorRT takes symmetric quantization only; {how}",
            repair,
        )
    elif _other_type(member):
        yield Problem(
            member.operation,
            f"its zero point is {member.zero_point.dtype} and its data are {member.storage}: give "  # type: ignore[union-attr]
            "the zero point the type of the data",
        )


def _other_type(member: Quantizer) -> bool:
    if member.zero_point is None or member.quantizes or member.storage is None:
        return False
    return str(member.zero_point.dtype) != member.storage


# -- E3: scales ------------------------------------------------------------------------------------


def scales(index: ModelIndex) -> Iterator[Problem]:
    """Every scale is an initializer or a Constant, positive and finite."""
    for group in groups(index):
        for member in group.own:
            if member.scale is not None:
                yield from bad_scale(group, member)
            elif not _known_otherwise(member):
                yield Problem(member.operation, "its scale is computed: make it an initializer")


def _known_otherwise(member: Quantizer) -> bool:
    """Whether a scale is one that other rules speak of, or a stored scale of a scale.

    E7 speaks of DynamicQuantizeLinear; blocks of fp4 have scales in fp8 that have one themselves.
    """
    scale = member.operation.input(1)
    made = None if scale is None else scale.producer
    if made is None:
        return False
    if made.op == "DynamicQuantizeLinear":
        return True
    return made.op in DEQUANTIZE and member.index.is_constant(scale)


# -- E4: biases ------------------------------------------------------------------------------------


def biases(index: ModelIndex) -> Iterator[Problem]:
    """No DequantizeLinear reads int32: biases stay float32."""
    for found in quantizers(index):
        if found.quantizes or found.storage != "int32":
            continue
        yield Problem(
            found.operation,
            "it dequantizes int32, which TensorRT refuses: store the bias as float32 (its product "
            "with the scale)",
            float_bias(found),
        )


# -- E5 and E6: granularity ------------------------------------------------------------------------


def activations(index: ModelIndex) -> Iterator[Problem]:
    """Activations have one scale for the whole tensor."""
    for group in groups(index):
        if group.is_weight or group.lead.is_per_tensor or _small_float_blocks(group):
            continue
        what = "blocks" if group.lead.block_size else "channels"
        yield Problem(
            group.lead.operation,
            f"it quantizes an activation with scales of {what}, and only weights may have these: "
            "quantize it with one scale",
        )


def _small_float_blocks(group: Group) -> bool:
    """Blocks of fp8 and fp4, which activations may have too."""
    return bool(group.lead.block_size) and group.lead.storage in SMALL_FLOATS


def weight_axes(index: ModelIndex) -> Iterator[Problem]:
    """Scales of weights lie along the output channels, blocks in the last two dimensions."""
    refused = {problem.operation: problem for problem in unfitting(index)}
    for product in products(index):
        found = misplaced(product, ", so TensorRT computes it in float and does not say so")
        if found is not None:
            refused.pop(found.operation, None)
            yield found
    yield from refused.values()
    for found_quantizer in quantizers(index):
        rank = found_quantizer.rank
        if found_quantizer.block_size and rank is not None and rank != 2:
            yield Problem(
                found_quantizer.operation,
                f"it has scales of blocks on a tensor of rank {rank}, and TensorRT takes them for "
                "matrices only: use one scale a channel",
            )


# -- E7: ops ---------------------------------------------------------------------------------------


def integer_ops(index: ModelIndex) -> Iterator[Problem]:
    """Quantization is written as Q/DQ around float ops of ONNX."""
    for operation in index.operations:
        if operation.op in (*QUANTIZE[1:], *DEQUANTIZE[1:]):
            repair = onnx_domain(Quantizer(index, operation))
            yield Problem(
                operation,
                "it is an op of com.microsoft: use ONNX's own "
                f"{operation.proto.op_type}, which means the same",
                repair,
            )
        elif operation.op.startswith(MICROSOFT):
            yield Problem(
                operation,
                f"TensorRT has no {operation.op}: export the model as Q/DQ around ops of ONNX",
            )
        elif operation.op.startswith("QLinear") or operation.op in INTEGER_OPS:
            yield Problem(
                operation,
                f"TensorRT has no {operation.op}: export the model in Q/DQ form (`qcc compile` "
                "with target tensorrt writes it)",
            )


# -- E8: constants ---------------------------------------------------------------------------------


def constants(index: ModelIndex) -> Iterator[Problem]:
    """What is stored quantized is read by a DequantizeLinear and nothing else."""
    moved = {group.stored: group for group in groups(index) if group.quantize is None}
    for tensor in index.tensors:
        for reader, place in tensor.users:
            if not _reads_as_data(reader, place) or not index.is_constant(tensor):
                continue
            if tensor.producer is not None and tensor.producer.op != "Constant":
                continue
            if _quantized_constant(index, tensor, reader):
                yield Problem(
                    reader,
                    f"it reads '{tensor.name}', which is stored as {index.element(tensor)}, and "
                    "only DequantizeLinear may: dequantize the constant first and let "
                    f"{reader.op} read the result",
                    dequantize_first(moved.get(tensor)),
                )


def _reads_as_data(reader: Operation, place: int) -> bool:
    """Whether an operand is data of the op: not of a Q/DQ or integer op, which take any type."""
    if reader.op in QUANTIZE or reader.op in DEQUANTIZE:
        return False
    return not (reader.op.startswith(("QLinear", MICROSOFT)) or reader.op in INTEGER_OPS)


def _quantized_constant(index: ModelIndex, tensor: Tensor, reader: Operation) -> bool:
    element = index.element(tensor)
    if element in QUANTIZED_ELEMENTS:
        return reader.op not in ("Identity", "Cast") or _reaches_dequantize(reader)
    return element == "uint8" and _reaches_dequantize(reader)


def _reaches_dequantize(reader: Operation) -> bool:
    """Whether the result, moved or not, is dequantized later (and is no zero point)."""
    while reader.op in MOVES and reader.output is not None:
        users = reader.output.users
        if any(user.op in DEQUANTIZE and place == 0 for user, place in users):
            return True
        if len(users) != 1:
            return False
        reader = users[0][0]
    return False
