"""Functions of float32 vectors: error function, tanh, GELU (contract 15), hard sigmoids and others.

Operation for operation the formulas of :mod:`qcc.curves`; nothing is fused, so that every
instruction set gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qcc import curves
from qcc.backends.llvm.builder import LoopBuilder, Value, constant
from qcc.backends.llvm.kernels.exponential import exp, nan_where_unordered, sigmoid


def _polynomial(k: LoopBuilder, t: Value, coefficients: Sequence[np.float32]) -> Value:
    p = constant(t.type, float(coefficients[0]))
    for coefficient in coefficients[1:]:
        p = k.ir.fadd(k.ir.fmul(p, t), constant(t.type, float(coefficient)))
    return p


def _within(k: LoopBuilder, x: Value, limit: float) -> Value:
    """``x`` in ``[-limit, limit]``; the compares are false of NaN, which so stays."""
    for sign, bound in ((">", limit), ("<", -limit)):
        edge = constant(x.type, bound)
        x = k.ir.select(k.ir.fcmp_ordered(sign, x, edge), edge, x)
    return x


def _odd(k: LoopBuilder, x: Value, curve: curves.OddCurve) -> Value:
    z = _within(k, x, float(curve.limit))
    t = k.ir.fmul(z, z)
    above = k.ir.fmul(z, _polynomial(k, t, curve.numerator))
    return _within(k, k.ir.fdiv(above, _polynomial(k, t, curve.denominator)), 1.0)


def tanh(k: LoopBuilder, x: Value) -> Value:
    """The hyperbolic tangent, as :func:`qcc.curves.tanh` has it."""
    y = _odd(k, x, curves.TANH)
    return nan_where_unordered(k, y, y)


def gelu(k: LoopBuilder, x: Value) -> Value:
    """GELU by the error function, as :func:`qcc.curves.gelu` has it."""
    inner = k.ir.fmul(x, constant(x.type, float(curves.ROOT_HALF)))
    return _gated(k, x, _odd(k, inner, curves.ERF))


def gelu_tanh(k: LoopBuilder, x: Value) -> Value:
    """GELU by tanh, as :func:`qcc.curves.gelu_tanh` has it."""
    low, high = (constant(x.type, float(weight)) for weight in curves.GELU_TANH)
    inner = k.ir.fmul(x, k.ir.fadd(k.ir.fmul(k.ir.fmul(x, x), high), low))
    return _gated(k, x, _odd(k, inner, curves.TANH))


def _gated(k: LoopBuilder, x: Value, gate: Value) -> Value:
    half = k.ir.fmul(x, constant(x.type, 0.5))
    y = k.ir.fmul(half, k.ir.fadd(gate, constant(x.type, 1.0)))
    return nan_where_unordered(k, y, y)


def hard_sigmoid(k: LoopBuilder, x: Value, alpha: float, beta: float) -> Value:
    """:func:`qcc.curves.hard_sigmoid` of a float32 vector."""
    zero, one = constant(x.type, 0.0), constant(x.type, 1.0)
    line = k.ir.fadd(k.ir.fmul(x, _single(x, alpha)), _single(x, beta))
    y = k.ir.select(k.ir.fcmp_ordered(">", line, zero), line, zero)
    y = k.ir.select(k.ir.fcmp_ordered("<", y, one), y, one)
    return nan_where_unordered(k, line, y)


def hard_swish(k: LoopBuilder, x: Value) -> Value:
    """:func:`qcc.curves.hard_swish` of a float32 vector."""
    y = k.ir.fmul(x, hard_sigmoid(k, x, *curves.HARD_SWISH))
    return nan_where_unordered(k, y, y)


def leaky_relu(k: LoopBuilder, x: Value, alpha: float) -> Value:
    """:func:`qcc.curves.leaky_relu` of a float32 vector."""
    negative = k.ir.fcmp_ordered("<", x, constant(x.type, 0.0))
    y = k.ir.select(negative, k.ir.fmul(x, _single(x, alpha)), x)
    return nan_where_unordered(k, y, y)


def silu(k: LoopBuilder, x: Value) -> Value:
    """``x`` times its sigmoid, two operations, of a float32 vector."""
    return k.ir.fmul(x, sigmoid(k, x))


def _single(like: Value, number: float) -> Value:
    return constant(like.type, float(np.float32(number)))


@dataclass(frozen=True)
class Curve:
    """A function of one float32 by name, with its numbers."""

    name: str
    numbers: tuple[float, ...] = ()

    def __call__(self, k: LoopBuilder, x: Value) -> Value:
        """The function of a float32 vector."""
        return _CURVES[self.name](k, x, *self.numbers)


_CURVES: dict[str, Callable[..., Value]] = {
    "sigmoid": sigmoid,
    "tanh": tanh,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "exp": exp,
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": hard_swish,
    "leaky_relu": leaky_relu,
}
CURVES = frozenset(_CURVES)
"""Names of all curves."""
