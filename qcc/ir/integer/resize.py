"""Resize of images, quantized or float32: nearest and linear, with source indices known early."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcc.ir.core import Array, Node
from qcc.ir.integer.linear import from_channels_first, to_channels_first
from qcc.ir.integer.operands import real, store
from qcc.ir.ops import OpDefinition, Operand, attribute, define
from qcc.numerics import F32, FloatArray


def source_coordinates(node: Node, axis: int, size_in: int, size_out: int) -> FloatArray:
    """Where each output index of spatial axis ``axis`` reads, float32, by ONNX's transforms."""
    mode = str(attribute(node, "coordinate_transformation_mode"))
    scale = F32(attribute(node, "scales")[axis])
    out = np.arange(size_out, dtype=F32)
    if mode == "asymmetric":
        return np.asarray(out / scale, F32)
    if mode == "align_corners":
        factor = F32(size_in - 1) / F32(size_out - 1) if size_out > 1 else F32(0)
        return np.asarray(out * factor, F32)
    if mode == "pytorch_half_pixel" and size_out <= 1:
        return np.zeros(size_out, F32)
    return np.asarray((out + F32(0.5)) / scale - F32(0.5), F32)


_ROUNDING: dict[str, Callable[[FloatArray], FloatArray]] = {
    "round_prefer_floor": lambda c: np.ceil(c - F32(0.5)),
    "round_prefer_ceil": lambda c: np.floor(c + F32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}


def nearest_indices(node: Node, axis: int, size_in: int, size_out: int) -> Array:
    """The source index of each output index of a spatial axis, int64."""
    coordinates = source_coordinates(node, axis, size_in, size_out)
    rounded = _ROUNDING[str(attribute(node, "nearest_mode"))](coordinates)
    return np.asarray(np.clip(rounded, 0, size_in - 1), np.int64)


def linear_taps(
    node: Node, axis: int, size_in: int, size_out: int
) -> tuple[Array, Array, FloatArray]:
    """Lower and upper index (int64) and weight of the upper tap (float32) of each output index."""
    coordinates = np.clip(source_coordinates(node, axis, size_in, size_out), 0, size_in - 1)
    lower = np.floor(coordinates).astype(np.int64)
    upper = np.minimum(lower + 1, size_in - 1)
    return lower, upper, (coordinates - lower.astype(F32)).astype(F32)


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = str(attribute(node, "layout"))
    sizes = [int(d) for d in attribute(node, "sizes")]
    nearest = attribute(node, "mode") == "nearest"
    x = np.asarray(arrays[0]) if nearest else real(node, arrays, 0)
    x = to_channels_first(x, layout)
    for axis, size in enumerate(sizes):
        extent = x.shape[2 + axis]
        if nearest:
            x = np.take(x, nearest_indices(node, axis, extent, size), axis=2 + axis)
            continue
        lower, upper, weight = linear_taps(node, axis, extent, size)
        factor = weight.reshape([-1 if d == 2 + axis else 1 for d in range(x.ndim)])
        low, high = np.take(x, lower, axis=2 + axis), np.take(x, upper, axis=2 + axis)
        x = low * (F32(1) - factor) + high * factor
    if not nearest:
        floats = node.output.tensor.quant is None
        x = np.where(np.isnan(x), F32(np.nan), x) if floats else store(node, x)
    return [from_channels_first(x, layout)]


def _check(node: Node) -> str | None:
    nearest = attribute(node, "mode") == "nearest"
    if nearest and node.operand(0).tensor.element != node.output.tensor.element:
        return "nearest resizing keeps the quantization"
    return None


RESIZE = define(
    OpDefinition(
        "q.resize",
        (Operand("x"),),
        _evaluate,
        attributes={
            "sizes": None,
            "scales": None,
            "mode": "nearest",
            "coordinate_transformation_mode": "half_pixel",
            "nearest_mode": "round_prefer_floor",
            "layout": "nchw",
            "low": None,
            "high": None,
        },
        check=_check,
        doc="Resize the spatial axes to `sizes` with float32 `scales`.  Linear: dequantize, then "
        "axis by axis (rows first) low * (1 - t) + high * t, each product and sum rounded, then "
        "quantize.  Float32 images are neither dequantized nor quantized.",
    )
)
