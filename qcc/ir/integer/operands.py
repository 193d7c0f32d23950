"""How evaluations read scales: small accessors over a node's operand and result types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node, Value
from qcc.ir.types import Quant, TensorType


def quant_of(value: Value | None) -> Quant:
    """The quantization of a value; raises TypeError where it has none."""
    quant = value.type.quant if value is not None and isinstance(value.type, TensorType) else None
    if quant is None:
        name = "an absent operand" if value is None else f"'{value.name}'"
        raise TypeError(f"{name} is not quantized")
    return quant


def result_quant(node: Node, index: int = 0) -> Quant | None:
    """The quantization of a result, or None for a float result."""
    return node.outputs[index].tensor.quant


def scalar(quant: Quant) -> tuple[np.float32, int]:
    """Scale and zero point of a per-tensor quantization; raises TypeError for per-channel."""
    if not quant.per_tensor:
        raise TypeError("a per-tensor quantization is needed here")
    return np.float32(quant.scale[0]), quant.zero_point[0]


def real(node: Node, arrays: Sequence[Array | None], index: int) -> numerics.FloatArray:
    """Operand ``index`` dequantized (float32), or as it is when it is a float."""
    array = arrays[index]
    value = node.operand(index)
    quant = value.tensor.quant
    if quant is None:
        return np.asarray(array, np.float32)
    return numerics.dequantize(array, quant.scales, quant.zero_points, axis=quant.axis)


def clamp_bounds(node: Node, quant: Quant) -> tuple[int, int]:
    """The ``low``/``high`` attributes of a node, intersected with the result's own range."""
    bottom, top = quant.range
    low, high = node.attributes.get("low"), node.attributes.get("high")
    return (
        bottom if low is None else max(bottom, int(low)),
        top if high is None else min(top, int(high)),
    )


def store(node: Node, x: Array, index: int = 0) -> Array:
    """Quantize a float32 result by contract 1 into result ``index`` (or give it back as float)."""
    quant = result_quant(node, index)
    if quant is None:
        return np.asarray(x, np.float32)
    low, high = clamp_bounds(node, quant)
    return numerics.quantize(
        x, quant.scales, quant.zero_points, quant.storage, axis=quant.axis, low=low, high=high
    )
