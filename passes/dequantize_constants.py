"""The real values of constants behind a dequantize node, in every form that ONNX has."""

from __future__ import annotations

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node, constant_array
from qcc.ir.ops import attribute


def dequantized_constant(node: Node) -> Array | None:
    """What a q.dequantize or DequantizeLinear of constants gives, as float32.

    Scales may be per tensor, per channel or per block; stored values are integers or floats of few
    bits.  None for another node, where something is computed by the model, and where the result is
    no float32 tensor.
    """
    data = constant_array(node.input(0))
    if data is None:
        return None
    if node.op == "q.dequantize":
        quant = node.operand(0).tensor.quant
        if quant is None:
            return None
        return numerics.dequantize(data, quant.scales, quant.zero_points, axis=quant.axis)
    if node.op != "DequantizeLinear" or not node.output.tensor.is_float:
        return None
    scale, zero_point = constant_array(node.input(1)), constant_array(node.input(2))
    if scale is None or (node.input(2) is not None and zero_point is None):
        return None
    spread = [
        None if numbers is None else _spread(node, numbers, data.shape)
        for numbers in (scale, zero_point)
    ]
    if spread[0] is None or (zero_point is not None and spread[1] is None):
        return None
    stored = data.astype(np.float32)
    zeros = np.float32(0) if spread[1] is None else spread[1].astype(np.float32)
    return np.asarray((stored - zeros) * spread[0].astype(np.float32), np.float32)


def _spread(node: Node, numbers: Array, shape: tuple[int, ...]) -> Array | None:
    """Scales or zero points so that they broadcast to ``shape``; None where they do not fit."""
    if numbers.size == 1:
        return numbers.reshape(())
    axis = int(attribute(node, "axis"))
    if not -len(shape) <= axis < len(shape):
        return None
    block = int(attribute(node, "block_size") or 0)
    if block:
        if numbers.ndim != len(shape):
            return None
        wide = np.repeat(numbers, block, axis=axis)
        cut = [slice(0, size) for size in shape]
        return wide[tuple(cut)] if wide[tuple(cut)].shape == shape else None
    if numbers.ndim != 1 or numbers.size != shape[axis]:
        return None
    sizes = [1] * len(shape)
    sizes[axis] = numbers.size
    return numbers.reshape(sizes)
