"""Functions of one float32: exponential, tanh, GELU and piecewise linear ones (contracts 15, 20).

Part of the numerics contract (:mod:`qcc.numerics`): every operation rounds separately, in exactly
this order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.numerics import (
    EXP_LEAST,
    EXP_POLYNOMIAL,
    EXP_ROUNDER,
    F32,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    FloatArray,
    larger,
    one_nan,
    smaller,
)

# -- exponential (contract 20) ---------------------------------------------------------------------

EXP_MOST = F32(89.0)
"""From here on (and a little before) the exponential is infinite."""


def exp(x: Any) -> FloatArray:
    """Contract 20: ``exp(x)`` of float32 ``x``; 0 below -87, inf above 88.7.

    The formula of contract 11; of positive ``x`` with half of the power of two, doubled at the end.
    Within 1.25 units in the last place; NaN is ``0x7fc00000``.
    """
    x = np.asarray(x, F32)
    with np.errstate(all="ignore"):
        d = np.where(x > EXP_MOST, EXP_MOST, x)
        shifted = np.asarray(d * LOG2_E + EXP_ROUNDER)
        n = shifted - EXP_ROUNDER
        r = d - n * LN2_HIGH - n * LN2_LOW
        p = np.full_like(r, EXP_POLYNOMIAL[0])
        for coefficient in EXP_POLYNOMIAL[1:]:
            p = p * r + coefficient
        above = d > 0
        exponent = np.where(above, shifted.view(np.uint32) - np.uint32(1), shifted.view(np.uint32))
        y = p * (exponent << np.uint32(23)).view(F32) * np.where(above, F32(2), F32(1))
        y = np.where(d < EXP_LEAST, F32(0), y)
        return one_nan(np.where(np.isnan(x), x, y))


# -- piecewise linear functions of float32: one operation after the other --------------------------

HARD_SWISH = (float(F32(1 / 6)), 0.5)
"""Slope and shift of the hard sigmoid in a hard swish."""


def hard_sigmoid(x: Any, alpha: float, beta: float) -> FloatArray:
    """``min(max(alpha x + beta, 0), 1)`` of float32 ``x``, two operations and two bounds."""
    with np.errstate(all="ignore"):
        line = np.asarray(x, F32) * F32(alpha) + F32(beta)
        return one_nan(smaller(larger(line, F32(0)), F32(1)))


def hard_swish(x: Any) -> FloatArray:
    """``x`` times its hard sigmoid of slope 1/6 and shift 1/2, float32."""
    with np.errstate(all="ignore"):
        return one_nan(np.asarray(x, F32) * hard_sigmoid(x, *HARD_SWISH))


def leaky_relu(x: Any, alpha: float) -> FloatArray:
    """``x``, or ``alpha x`` where it is negative, float32."""
    x = np.asarray(x, F32)
    with np.errstate(all="ignore"):
        return one_nan(np.where(x < 0, x * F32(alpha), x))


# -- float32 tanh and GELU (contract 15) ---------------------------------------------------------


def _hexadecimal(*texts: str) -> tuple[np.float32, ...]:
    return tuple(F32(float.fromhex(text)) for text in texts)


@dataclass(frozen=True)
class OddCurve:
    """An odd function that tends to 1: ``z * P(z^2) / Q(z^2)`` for ``|z| <= limit``.

    Coefficients are those of P and Q, highest power first.  They minimize the relative error, found
    by reweighted least squares and rounded one after the other from the lowest power on.
    """

    limit: np.float32
    numerator: tuple[np.float32, ...]
    denominator: tuple[np.float32, ...]


ERF = OddCurve(
    F32(4.0),
    _hexadecimal(
        "0x1.487eeep-26",
        "-0x1.045c48p-19",
        "0x1.339c9cp-13",
        "0x1.03e7b8p-8",
        "0x1.a5729cp-5",
        "0x1.a70444p-3",
        "0x1.20dd74p+0",
    ),
    _hexadecimal(
        "0x1.0a197cp-10",
        "0x1.e87f7ep-7",
        "0x1.e23a00p-4",
        "0x1.08634ap-1",
        "0x1p+0",
    ),
)
"""The error function; the formula's own relative error is below 7e-8."""
TANH = OddCurve(
    F32(9.0),
    _hexadecimal(
        "-0x1.810848p-44",
        "0x1.d2d674p-35",
        "-0x1.5cb99ep-26",
        "0x1.76f8d6p-17",
        "0x1.971fb0p-9",
        "0x1.0c004ap-3",
        "0x1p+0",
    ),
    _hexadecimal(
        "0x1.0b4ce2p-12",
        "0x1.9178e4p-6",
        "0x1.db5578p-2",
        "0x1p+0",
    ),
)
"""The hyperbolic tangent; the formula's own relative error is below 8e-9."""
ROOT_HALF = F32(math.sqrt(0.5))
GELU_TANH = (F32(math.sqrt(2 / math.pi)), F32(math.sqrt(2 / math.pi) * 0.044715))
"""What tanh is applied to in GELU's approximation: weights of x and of x^3."""


def _within(x: FloatArray, limit: np.float32) -> FloatArray:
    """``x`` in ``[-limit, limit]``; NaN stays."""
    return np.asarray(np.where(x > limit, limit, np.where(x < -limit, -limit, x)), F32)


def _polynomial(t: FloatArray, coefficients: tuple[np.float32, ...]) -> FloatArray:
    p = np.full_like(t, coefficients[0])
    for coefficient in coefficients[1:]:
        p = p * t + coefficient
    return p


def _odd(x: FloatArray, curve: OddCurve) -> FloatArray:
    z = _within(x, curve.limit)
    t = z * z
    y = z * _polynomial(t, curve.numerator) / _polynomial(t, curve.denominator)
    return _within(y, F32(1))


def erf(x: Any) -> FloatArray:
    """The error function of contract 15, by which :func:`gelu` is defined."""
    with np.errstate(all="ignore"):
        return one_nan(_odd(np.asarray(x, F32), ERF))


def tanh(x: Any) -> FloatArray:
    """Contract 15: the hyperbolic tangent of float32 ``x``."""
    with np.errstate(all="ignore"):
        return one_nan(_odd(np.asarray(x, F32), TANH))


def gelu(x: Any) -> FloatArray:
    """Contract 15: ``x / 2 * (1 + erf(x / sqrt 2))`` of float32 ``x``."""
    x = np.asarray(x, F32)
    with np.errstate(all="ignore"):
        return one_nan(x * F32(0.5) * (_odd(x * ROOT_HALF, ERF) + F32(1)))


def gelu_tanh(x: Any) -> FloatArray:
    """Contract 15: GELU by tanh, of float32 ``x``."""
    x, (low, high) = np.asarray(x, F32), GELU_TANH
    with np.errstate(all="ignore"):
        inner = x * (x * x * high + low)
        return one_nan(x * F32(0.5) * (_odd(inner, TANH) + F32(1)))
