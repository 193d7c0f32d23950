"""Convolution and matrix product with exact int32 accumulation (contracts 2 to 4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from qcc import numerics
from qcc.ir.core import Array, Node
from qcc.ir.integer.operands import clamp_bounds, quant_of, result_quant, scalar
from qcc.ir.ops import OpDefinition, Operand, attribute, define
from qcc.ir.types import Quant

CONV_ATTRIBUTES = {
    "strides": None,
    "pads": None,
    "dilations": None,
    "group": 1,
    "layout": "nchw",
    "low": None,
    "high": None,
}


def spatial_attributes(node: Node, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, pads (begins then ends) and dilations with ONNX's defaults for ``rank`` axes."""
    strides = attribute(node, "strides") or [1] * rank
    pads = attribute(node, "pads") or [0] * (2 * rank)
    dilations = attribute(node, "dilations") or [1] * rank
    return list(strides), list(pads), list(dilations)


def to_channels_first(x: Array, layout: str) -> Array:
    """``x`` with the channel axis second."""
    return x if layout == "nchw" else np.moveaxis(x, -1, 1)


def from_channels_first(x: Array, layout: str) -> Array:
    """The inverse of :func:`to_channels_first`, contiguous."""
    return np.ascontiguousarray(x if layout == "nchw" else np.moveaxis(x, 1, -1))


def windows_of(
    x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """A view [N, C, *out, *kernel] of every window of ``x`` [N, C, *spatial]."""
    rank = len(kernel)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, extent, axis=tuple(range(2, 2 + rank)))
    picks = [slice(None), slice(None)]
    picks += [slice(None, None, s) for s in strides] + [slice(None, None, d) for d in dilations]
    picked: Array = view[tuple(picks)]
    return picked


def convolve(
    x: Array,
    weight: Array,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
) -> Array:
    """Exact integer convolution, int64: ``x`` [N, C, *spatial], ``weight`` [O, C/group, *kernel].

    Zero points are already removed, so padding is with 0.  Dense groups go through a float64 matrix
    product, which is exact: 2^53 is far above any int32 accumulator.
    """
    rank = weight.ndim - 2
    padding = [(0, 0), (0, 0)] + [(pads[i], pads[i + rank]) for i in range(rank)]
    windows = windows_of(np.pad(x, padding), weight.shape[2:], strides, dilations)
    if group == x.shape[1] and weight.shape[1] == 1:
        return _depthwise(windows, weight, group)
    per_in, per_out = x.shape[1] // group, weight.shape[0] // group
    parts = []
    for g in range(group):
        columns = np.moveaxis(windows[:, g * per_in : (g + 1) * per_in], 1, 1 + rank)
        kernel = weight[g * per_out : (g + 1) * per_out].reshape(per_out, -1)
        size = columns.shape[: 1 + rank]
        flat = columns.reshape(int(np.prod(size)), -1).astype(np.float64)
        product = flat @ kernel.T.astype(np.float64)
        parts.append(np.moveaxis(product.reshape(*size, per_out), -1, 1))
    return np.concatenate(parts, 1).astype(np.int64)


def _depthwise(windows: Array, weight: Array, group: int) -> Array:
    rank = weight.ndim - 2
    multiplier = weight.shape[0] // group
    repeated = np.repeat(windows, multiplier, axis=1) if multiplier > 1 else windows
    shape = repeated.shape[: 2 + rank]
    result = np.zeros(shape, np.int64)
    for tap in np.ndindex(*weight.shape[2:]):
        index = (slice(None), 0, *tap)
        window = (Ellipsis, *tap)
        factor = weight[index].reshape((1, -1) + (1,) * rank)
        result += repeated[window].astype(np.int64) * factor
    return result


def _finish(
    node: Node,
    acc: Array,
    s_x: np.float32,
    weight: Quant,
    channel_axis: int,
    residual: Array | None,
) -> list[Array]:
    """The epilogue: contract 4, or float32(acc) * m for a float result."""
    if np.abs(acc).max(initial=0) >= 2**31:
        raise OverflowError(f"the accumulator of '{node.label}' passes 2^31")
    out = result_quant(node)
    s_y = 1.0 if out is None else out.scales[0]
    multiplier = numerics.requantize_multiplier(s_x, weight.scales, s_y)
    axis = None if multiplier.size == 1 else channel_axis
    m = numerics.per_axis(multiplier if axis is not None else multiplier[0], acc.ndim, axis)
    if out is None:
        return [numerics.dequantize_accumulator(acc, m)]
    low, high = clamp_bounds(node, out)
    extra: dict[str, object] = {}
    if residual is not None:
        s_r, z_r = scalar(quant_of(node.operand(3)))
        extra = {
            "residual": residual,
            "residual_multiplier": float(numerics.requantize_multiplier(s_r, 1.0, s_y)),
            "residual_zero_point": z_r,
        }
    y = numerics.requantize(acc, m, out.zero_point[0], low, high, **extra)  # type: ignore[arg-type]
    return [y.astype(numerics.storage_dtype(out.storage))]


def _evaluate_conv(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = str(attribute(node, "layout"))
    w_quant = quant_of(node.operand(1))
    s_x, z_x = scalar(quant_of(node.operand(0)))
    x = to_channels_first(np.asarray(arrays[0]), layout).astype(np.int32) - z_x
    weight = np.asarray(arrays[1]).astype(np.int32)
    weight = weight - numerics.per_axis(w_quant.zero_points, weight.ndim, w_quant.axis)
    strides, pads, dilations = spatial_attributes(node, weight.ndim - 2)
    acc = convolve(x, weight, strides, pads, dilations, int(attribute(node, "group")))
    bias = arrays[2] if len(arrays) > 2 else None
    if bias is not None:
        acc = acc + numerics.per_axis(np.asarray(bias, np.int64), acc.ndim, 1)
    residual = arrays[3] if len(arrays) > 3 else None
    if residual is not None:
        residual = to_channels_first(np.asarray(residual), layout)
    (y,) = _finish(node, acc, s_x, w_quant, 1, residual)
    return [from_channels_first(y, layout)]


def _evaluate_matmul(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    a_quant, b_quant = quant_of(node.operand(0)), quant_of(node.operand(1))
    s_a, z_a = scalar(a_quant)
    a = np.asarray(arrays[0]).astype(np.int32) - z_a
    b = np.asarray(arrays[1]).astype(np.int32)
    b = b - numerics.per_axis(b_quant.zero_points, b.ndim, b_quant.axis)
    acc = np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    bias = arrays[2] if len(arrays) > 2 else None
    if bias is not None:
        acc = acc + np.asarray(bias, np.int64)
    residual = arrays[3] if len(arrays) > 3 else None
    return _finish(node, acc, s_a, b_quant, -1, residual)


def _check_linear(node: Node) -> str | None:
    x, w = node.operand(0).tensor.quant, node.operand(1).tensor.quant
    if x is None or w is None:
        return "the first two operands must be quantized"
    if not x.per_tensor:
        return "the activation must be quantized per tensor"
    out = node.output.tensor.quant
    if out is not None and not out.per_tensor:
        return "the result must be quantized per tensor"
    bias = node.input(2)
    if bias is None:
        return None
    b = bias.tensor.quant
    if b is None or b.storage != "int32" or any(b.zero_point):
        return "the bias must be int32 with zero point 0"
    expected = numerics.bias_scale(x.scales[0], w.scales)
    if not np.allclose(b.scales, expected, rtol=1e-6, atol=0.0):
        return "the bias scale must be the product of the operand scales"
    return None


CONV = define(
    OpDefinition(
        "q.conv",
        (Operand("x"), Operand("w"), Operand("bias", True), Operand("residual", True)),
        _evaluate_conv,
        attributes=CONV_ATTRIBUTES,
        check=_check_linear,
        doc="Convolution: x, w [O, I/group, *kernel], int32 bias [O], residual like the result. "
        "Padding is with x's zero point; [low, high] carry Relu and Clip; a float32 result is "
        "float32(acc) * (s_x * s_w).",
    )
)

MATMUL = define(
    OpDefinition(
        "q.matmul",
        (Operand("a"), Operand("b"), Operand("bias", True), Operand("residual", True)),
        _evaluate_matmul,
        attributes={"low": None, "high": None},
        check=_check_linear,
        doc="Matrix product a [..., M, K] by b [..., K, N] (constant per column, or a second "
        "activation per tensor), int32 bias [N]; same epilogue as q.conv.",
    )
)
