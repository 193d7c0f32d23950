"""Layers that TensorRT computes in float or rounds twice (rules W1, W2, W7)."""

from __future__ import annotations

from collections.abc import Iterator

from qcc.lint.attention import attention_products
from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex, Operation, Tensor
from qcc.lint.layers import (
    ACTIVATIONS,
    quantize_readers,
    variable_operands,
)
from qcc.lint.quantizers import (
    DEQUANTIZE,
    EIGHT_BITS,
    MOVES,
    QUANTIZE,
    Product,
    dequantizer,
    products,
)

LEAST_CHANNELS = 16
CHANNEL_STEP = 8
LEAST_DEPTHWISE_KERNEL = 3


# -- W1 --------------------------------------------------------------------------------------------


def half_quantized(index: ModelIndex) -> Iterator[Problem]:
    """A weighted op has both data operands quantized, or none.

    Weights of fp8 and int4 alone are a form of their own (they save memory), so they are silent.
    """
    attention = attention_products(index)
    for product in products(index):
        if product.operation in attention or product.is_quantized:
            continue
        if product.weight_place is None:
            yield from _one_of_two(product)
        elif product.weight is not None:
            yield from _weight_only(product)
        elif dequantizer(index, product.operation.input(1 - product.weight_place)) is not None:
            yield Problem(
                product.operation,
                "its activation is quantized and its weight is float, so it is computed in float "
                "on rounded values: quantize the weight too, or let it read the float value",
            )


def _one_of_two(product: Product) -> Iterator[Problem]:
    found = [q for q in product.quantized if q is not None]
    if len(found) == 1:
        yield Problem(
            product.operation,
            "one of its two operands is quantized, so it is computed in float on rounded values: "
            "quantize both, or neither",
        )


def _weight_only(product: Product) -> Iterator[Problem]:
    weight = product.weight
    if weight is not None and weight.storage in EIGHT_BITS and not weight.block_size:
        yield Problem(
            product.operation,
            "its weight is stored in 8 bits and its activation is float: that is legal and saves "
            "memory, but it is computed in float; quantize the activation too for int8 speed",
        )


# -- W2 --------------------------------------------------------------------------------------------


def early_quantization(index: ModelIndex) -> Iterator[Problem]:
    """No Q/DQ stands between a weighted op and its activation or BatchNormalization."""
    for product in products(index):
        result = _with_bias(index, product.operation.output)
        if result is None:
            continue
        for quantizer in quantize_readers(index, result):
            after = _activation_behind(index, quantizer.result)
            if after is not None:
                yield Problem(
                    quantizer.operation,
                    f"it stands between {product.operation.op} '{product.operation.label}' and "
                    f"{after.op} '{after.label}', which run as one kernel without it: quantize the "
                    f"result of {after.op} instead",
                )


def _with_bias(index: ModelIndex, tensor: Tensor | None) -> Tensor | None:
    """The value after the Add of a constant bias, where that is the only reader."""
    readers = [] if tensor is None else tensor.readers
    adds = len(readers) == 1 and readers[0].op == "Add"
    return readers[0].output if adds and len(variable_operands(index, readers[0])) == 1 else tensor


def _activation_behind(index: ModelIndex, stored: Tensor | None) -> Operation | None:
    for reader in [] if stored is None else stored.readers:
        if reader.op in DEQUANTIZE and reader.output is not None:
            for user in reader.output.readers:
                if user.op in ACTIVATIONS or user.op == "BatchNormalization":
                    return user
    return None


# -- W7 --------------------------------------------------------------------------------------------


def small_layers(index: ModelIndex) -> Iterator[Problem]:
    """Quantized convolutions have channels enough, and quantized products are no vectors."""
    for product in products(index):
        if not product.is_quantized:
            continue
        if product.operation.op == "Conv":
            yield from _narrow(product)
        elif product.operation.op in ("MatMul", "Gemm"):
            yield from _vector(product)


def _narrow(product: Product) -> Iterator[Problem]:
    shape = product.weight_shape
    if product.weight_place is None:
        yield Problem(
            product.operation,
            "its weight is no constant, so it is not faster in int8: leave it float",
        )
        return
    if shape is None or len(shape) < 3:
        return
    outputs, inputs, kernel = shape[0], shape[1], shape[2:]
    if min(outputs, inputs) >= LEAST_CHANNELS:
        return
    if int(product.operation.attribute("group", 1)) == 1:
        whole = outputs % CHANNEL_STEP == 0 or inputs % CHANNEL_STEP == 0
        wide = max(outputs, inputs) >= LEAST_CHANNELS or _is_first(product.operation)
        fits = whole and wide and len(set(kernel)) == 1
    else:
        fits = outputs % CHANNEL_STEP == 0 and min(kernel) >= LEAST_DEPTHWISE_KERNEL
    if not fits:
        yield Problem(
            product.operation,
            f"{inputs} input and {outputs} output channels a group are too few for int8 kernels to "
            "be faster than float ones: take its Q/DQ away",
        )


def _is_first(conv: Operation) -> bool:
    """Whether a Conv reads an input of the model, through Q/DQ and moves at most."""
    tensor = conv.input(0)
    while tensor is not None and tensor.producer is not None:
        if tensor.producer.op not in (*MOVES, *QUANTIZE, *DEQUANTIZE):
            return False
        tensor = tensor.producer.input(0)
    return tensor is not None and tensor.is_input


def _vector(product: Product) -> Iterator[Problem]:
    shape = product.index.shape(product.operation.output)
    if shape is not None and len(shape) == 2 and 1 in shape:
        yield Problem(
            product.operation,
            f"it is a product of a matrix and a vector (its result is {list(shape)}), which is not "
            "faster in int8: take its Q/DQ away",
        )
