"""Pooling and spatial means on quantized tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node
from qcc.ir.integer.linear import (
    from_channels_first,
    spatial_attributes,
    to_channels_first,
    windows_of,
)
from qcc.ir.integer.operands import clamp_bounds, quant_of, scalar
from qcc.ir.ops import OpDefinition, Operand, attribute, define

POOL_ATTRIBUTES = {
    "kernel_shape": None,
    "strides": None,
    "pads": None,
    "dilations": None,
    "ceil_mode": 0,
    "layout": "nchw",
}


def pooled_size(node: Node, spatial: Sequence[int]) -> list[int]:
    """Output spatial sizes by ONNX's rule (with ceil_mode, no window starts in the end pad)."""
    rank = len(spatial)
    kernel = attribute(node, "kernel_shape")
    strides, pads, dilations = spatial_attributes(node, rank)
    sizes = []
    for i in range(rank):
        span = spatial[i] + pads[i] + pads[i + rank] - ((kernel[i] - 1) * dilations[i] + 1)
        size = span // strides[i] + 1
        if attribute(node, "ceil_mode"):
            size = -(-span // strides[i]) + 1
            if (size - 1) * strides[i] >= spatial[i] + pads[i]:
                size -= 1
        sizes.append(size)
    return sizes


def pool_windows(node: Node, x: Array, fill: float) -> Array:
    """Windows [N, C, *out, *kernel] of ``x`` padded with ``fill``."""
    rank = x.ndim - 2
    kernel = list(attribute(node, "kernel_shape"))
    strides, pads, dilations = spatial_attributes(node, rank)
    sizes = pooled_size(node, x.shape[2:])
    padding = [(0, 0), (0, 0)]
    for i in range(rank):
        needed = (sizes[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        padding.append((pads[i], max(0, needed - x.shape[2 + i] - pads[i])))
    padded = np.pad(x, padding, constant_values=fill)
    windows = windows_of(padded, kernel, strides, dilations)
    trim = (slice(None), slice(None), *(slice(0, n) for n in sizes))
    trimmed: Array = windows[trim]
    return trimmed


def _evaluate_max(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = str(attribute(node, "layout"))
    x = to_channels_first(np.asarray(arrays[0]), layout)
    low = numerics.STORAGE_RANGE[node.operand(0).tensor.storage][0]
    windows = pool_windows(node, x, low)
    rank = x.ndim - 2
    return [from_channels_first(windows.max(axis=tuple(range(-rank, 0))), layout)]


def average_counts(node: Node, spatial: Sequence[int]) -> Array:
    """How many elements each window averages over, int64 [*out]."""
    rank = len(spatial)
    _, pads, _ = spatial_attributes(node, rank)
    include = bool(attribute(node, "count_include_pad"))
    ones = np.ones((1, 1, *spatial), np.int64)
    if include:
        # Padding that the attribute asks for counts; what ceil_mode adds beyond it never does.
        border = [(0, 0), (0, 0)] + [(pads[i], pads[i + rank]) for i in range(rank)]
        windows = _pool_windows_of_padded(node, np.pad(ones, border, constant_values=1), spatial)
    else:
        windows = pool_windows(node, ones, 0)
    counts: Array = windows.sum(axis=tuple(range(-rank, 0)))[0, 0]
    return counts


def _pool_windows_of_padded(node: Node, padded: Array, spatial: Sequence[int]) -> Array:
    rank = len(spatial)
    kernel = list(attribute(node, "kernel_shape"))
    strides, _, dilations = spatial_attributes(node, rank)
    sizes = pooled_size(node, spatial)
    extra = [(0, 0), (0, 0)]
    for i in range(rank):
        needed = (sizes[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        extra.append((0, max(0, needed - padded.shape[2 + i])))
    windows = windows_of(np.pad(padded, extra), kernel, strides, dilations)
    trim = (slice(None), slice(None), *(slice(0, n) for n in sizes))
    trimmed: Array = windows[trim]
    return trimmed


def _mean(node: Node, total: Array, count: Array | int) -> Array:
    """Requantize a sum of centred values over ``count`` elements: m = float32(s_x / (s_y * n))."""
    s_x, _ = scalar(quant_of(node.operand(0)))
    out = node.output.tensor.quant
    if out is None:
        factor = numerics.requantize_multiplier(s_x, 1.0, np.asarray(count, np.float64))
        return numerics.dequantize_accumulator(total, factor)
    s_y, z_y = scalar(out)
    factor = numerics.requantize_multiplier(s_x, 1.0, np.float64(s_y) * np.asarray(count))
    low, high = clamp_bounds(node, out)
    y = numerics.requantize(total, factor, z_y, low, high)
    return y.astype(numerics.storage_dtype(out.storage))


def _evaluate_average(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = str(attribute(node, "layout"))
    _, z_x = scalar(quant_of(node.operand(0)))
    x = to_channels_first(np.asarray(arrays[0]), layout).astype(np.int32) - z_x
    rank = x.ndim - 2
    total = pool_windows(node, x, 0).sum(axis=tuple(range(-rank, 0)))
    y = _mean(node, total, average_counts(node, x.shape[2:]))
    return [from_channels_first(y, layout)]


def _evaluate_reduce_mean(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    _, z_x = scalar(quant_of(node.operand(0)))
    x = np.asarray(arrays[0]).astype(np.int32) - z_x
    axes = tuple(int(a) % x.ndim for a in attribute(node, "axes"))
    keep = bool(attribute(node, "keepdims"))
    count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    total = x.sum(axis=axes, keepdims=keep, dtype=np.int64)
    return [np.ascontiguousarray(_mean(node, total, count))]


def _check_same_quant(node: Node) -> str | None:
    if node.operand(0).tensor.element != node.output.tensor.element:
        return "the operand and the result must have the same quantization"
    return None


def _check_average(node: Node) -> str | None:
    x = node.operand(0).tensor.quant
    if x is None or not x.per_tensor:
        return "the operand must be quantized per tensor"
    return None


MAX_POOL = define(
    OpDefinition(
        "q.max_pool",
        (Operand("x"),),
        _evaluate_max,
        attributes=POOL_ATTRIBUTES,
        check=_check_same_quant,
        doc="Maximum over windows; padding never wins.  Operand and result share one quantization.",
    )
)

AVERAGE_POOL = define(
    OpDefinition(
        "q.average_pool",
        (Operand("x"),),
        _evaluate_average,
        attributes={**POOL_ATTRIBUTES, "count_include_pad": 0, "low": None, "high": None},
        check=_check_average,
        doc="Mean over windows: the int32 sum of x - z_x is requantized with s_x / (s_y * count).",
    )
)

REDUCE_MEAN = define(
    OpDefinition(
        "q.reduce_mean",
        (Operand("x"),),
        _evaluate_reduce_mean,
        attributes={"axes": None, "keepdims": 1, "low": None, "high": None},
        check=_check_average,
        doc="Mean over `axes` (global average pooling): the int32 sum requantized by "
        "s_x / (s_y * n).",
    )
)
