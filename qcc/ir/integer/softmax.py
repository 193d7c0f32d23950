"""Softmax of a quantized tensor, in fixed point so that the order of summation cannot matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcc.ir.core import Array, Node
from qcc.ir.integer.operands import quant_of, scalar, store
from qcc.ir.ops import OpDefinition, Operand, attribute, define
from qcc.numerics import F32

FRACTION_BITS = 30
"""exp(0) is 2^30 in the table; a row of up to 2^31 entries then sums without overflow in int64."""


def exponential_table(scale: float) -> Array:
    """``round(exp(-d * scale) * 2^30)`` for the distances d = 0..255 from the maximum, int64."""
    distance = np.arange(256, dtype=np.float64)
    return np.rint(np.exp(-distance * float(scale)) * 2.0**FRACTION_BITS).astype(np.int64)


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    s_x, _ = scalar(quant_of(node.operand(0)))
    axis = int(attribute(node, "axis"))
    x = np.asarray(arrays[0]).astype(np.int32)
    terms = exponential_table(float(s_x))[x.max(axis=axis, keepdims=True) - x]
    total = terms.sum(axis=axis, keepdims=True).astype(F32)
    return [store(node, terms.astype(F32) / total)]


SOFTMAX = define(
    OpDefinition(
        "q.softmax",
        (Operand("x"),),
        _evaluate,
        attributes={"axis": -1, "low": None, "high": None},
        doc="y = float32(t) / float32(sum t) with t = round(exp(-(max - x) * s_x) * 2^30) summed "
        "exactly in int64; float32 result, or quantized by contract 1.",
    )
)
