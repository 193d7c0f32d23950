"""Where float meets integer: quantize, dequantize, requantize, observe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node, Stage
from qcc.ir.integer.operands import quant_of, real, store
from qcc.ir.ops import LATE, OpDefinition, Operand, define
from qcc.ir.types import Quant

REAL_TYPES = ("float32", "float16")
"""Types of the float side; float16 only in graphs that are written for another runtime."""


def _evaluate_quantize(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    quant = quant_of(node.output)
    low, high = quant.range
    return [
        numerics.quantize(
            arrays[0],
            quant.scales,
            quant.zero_points,
            quant.storage,
            axis=quant.axis,
            low=low,
            high=high,
        )
    ]


def _check_quantize(node: Node) -> str | None:
    if node.operand(0).tensor.element not in REAL_TYPES:
        return f"the operand must be float32 or float16, not {node.operand(0).tensor.element}"
    if node.output.tensor.quant is None:
        return "the result must have a quantized type"
    return None


def _check_dequantize(node: Node) -> str | None:
    if node.operand(0).tensor.quant is None:
        return "the operand must have a quantized type"
    if node.output.tensor.element not in REAL_TYPES:
        return f"the result must be float32 or float16, not {node.output.tensor.element}"
    return None


def _evaluate_dequantize(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [real(node, arrays, 0).astype(node.output.tensor.storage)]


def _check_requantize(node: Node) -> str | None:
    for value in (node.operand(0), node.output):
        if value.tensor.quant is None or not isinstance(value.tensor.element, Quant):
            return f"'{value.name}' must have a quantized type"
        if not value.tensor.element.per_tensor:
            return f"'{value.name}' must be quantized per tensor"
    return None


QUANTIZE = define(
    OpDefinition(
        "q.quantize",
        (Operand("x"),),
        _evaluate_quantize,
        stages=LATE,
        check=_check_quantize,
        doc="Contract 1: saturate(round_half_even(x / scale) + zero_point).",
    )
)

DEQUANTIZE = define(
    OpDefinition(
        "q.dequantize",
        (Operand("x"),),
        _evaluate_dequantize,
        stages=LATE,
        check=_check_dequantize,
        doc="Contract 1: float32(q - zero_point) * scale, rounded where the result is float16.",
    )
)

REQUANTIZE = define(
    OpDefinition(
        "q.requantize",
        (Operand("x"),),
        lambda node, arrays: [store(node, real(node, arrays, 0))],
        check=_check_requantize,
        doc="Another scale: quantize(dequantize(x)); a 256-entry table on 8-bit operands.",
    )
)

OBSERVE = define(
    OpDefinition(
        "q.observe",
        (Operand("x"),),
        lambda node, arrays: [np.asarray(arrays[0])],
        attributes={"observer": None, "share": None},
        stages=frozenset({Stage.OBSERVED}),
        doc="Identity; marks a float value whose range `observer` measures during calibration.",
    )
)
