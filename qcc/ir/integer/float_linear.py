"""Float32 convolution and matrix product with constant weights (contract 16)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qcc import numerics
from qcc.fused import sums_of_products
from qcc.ir.core import Array, Node
from qcc.ir.integer.linear import (
    CONV_ATTRIBUTES,
    from_channels_first,
    spatial_attributes,
    to_channels_first,
    windows_of,
)
from qcc.ir.ops import OpDefinition, Operand, attribute, define

BLOCK = 1 << 22
"""Elements of the windows that are laid out at once."""


def grouped_weight(weight: Array, group: int) -> Array:
    """``[O, I/group, *kernel]`` as ``[group, K, O/group]`` in the order of summation.

    The inner index counts kernel rows, then kernel columns, then input channels.
    """
    per_out = weight.shape[0] // group
    split = weight.reshape(group, per_out, *weight.shape[1:])
    rows: Array = np.moveaxis(split, 2, -1).reshape(group, per_out, -1)
    return np.swapaxes(rows, 1, 2)


def _evaluate_conv(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = str(attribute(node, "layout"))
    x = to_channels_first(np.asarray(arrays[0], np.float32), layout)
    weight = np.asarray(arrays[1], np.float32)
    group, rank = int(attribute(node, "group")), weight.ndim - 2
    strides, pads, dilations = spatial_attributes(node, rank)
    padding = [(0, 0), (0, 0)] + [(pads[i], pads[i + rank]) for i in range(rank)]
    windows = windows_of(np.pad(x, padding), weight.shape[2:], strides, dilations)
    sizes = windows.shape[2 : 2 + rank]
    # [image, *out, group, *kernel, channel of the group]
    split = windows.reshape(len(x), group, -1, *windows.shape[2:])
    ordered = np.moveaxis(np.moveaxis(split, 2, -1), 1, 1 + rank)
    factors = grouped_weight(weight, group)
    start = _start(arrays, weight.shape[0]).reshape(group, -1)
    y = np.empty((len(x), *sizes, weight.shape[0]), np.float32)
    for part in _blocks(ordered.shape, rank):
        rows = ordered[part]
        flat = rows.reshape(int(np.prod(rows.shape[:rank])), group, factors.shape[1])
        y[part] = sums_of_products(flat, factors, start).reshape(*rows.shape[:rank], -1)
    residual = arrays[3] if len(arrays) > 3 else None
    if residual is not None:
        residual = to_channels_first(np.asarray(residual), layout)
    return [from_channels_first(_finish(node, np.moveaxis(y, -1, 1), residual), layout)]


def _blocks(shape: Sequence[int], rank: int) -> Iterator[tuple[int, slice]]:
    """Images, each in blocks of rows of moderate size."""
    row = int(np.prod(shape[2:], dtype=np.int64))
    count = max(1, BLOCK // max(1, row))
    for image in range(shape[0]):
        for first in range(0, shape[1], count):
            yield image, slice(first, first + count)


def _start(arrays: Sequence[Array | None], channels: int) -> Array:
    bias = arrays[2] if len(arrays) > 2 else None
    return np.zeros(channels, np.float32) if bias is None else np.asarray(bias, np.float32)


def _finish(node: Node, y: Array, residual: Array | None) -> Array:
    return numerics.finished(y, residual, attribute(node, "low"), attribute(node, "high"))


def _evaluate_matmul(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    a, b = (np.asarray(arrays[i], np.float32) for i in range(2))
    rows = a.reshape(-1, 1, a.shape[-1])
    y = sums_of_products(rows, b[None], _start(arrays, b.shape[-1]))
    residual = arrays[3] if len(arrays) > 3 else None
    return [_finish(node, y.reshape(*a.shape[:-1], b.shape[-1]), residual)]


def _check(node: Node) -> str | None:
    values = [value for value in (*node.inputs, node.output) if value is not None]
    if any(value.tensor.element != "float32" for value in values):
        return "operands and result must be float32"
    if node.input(3) is not None and node.operand(3).tensor.shape != node.output.tensor.shape:
        return "the residual must have the shape of the result"
    return None


_OPERANDS = (Operand("x"), Operand("w"), Operand("bias", True), Operand("residual", True))

FLOAT_CONV = define(
    OpDefinition(
        "q.float_conv",
        _OPERANDS,
        _evaluate_conv,
        attributes=CONV_ATTRIBUTES,
        check=_check,
        doc="Float32 convolution: x, w [O, I/group, *kernel], bias [O], residual like the result. "
        "Fused multiply-adds from the bias on, by kernel rows, kernel columns, input channels; "
        "padding is +0. Then the residual is added, and the result clamped to [low, high].",
    )
)

FLOAT_MATMUL = define(
    OpDefinition(
        "q.float_matmul",
        _OPERANDS,
        _evaluate_matmul,
        attributes={"low": None, "high": None},
        check=_check,
        doc="Float32 matrix product x [..., K] by w [K, N], bias [N]; otherwise as q.float_conv.",
    )
)
