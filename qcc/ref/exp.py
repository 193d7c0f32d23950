"""The float32 exponential of any number (contract 20): numpy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.numerics import EXP_LEAST, EXP_POLYNOMIAL, EXP_ROUNDER, F32, LN2_HIGH, LN2_LOW, LOG2_E

MOST = F32(89.0)
"""From here on (and a little before) the exponential is infinite."""


def exp(x: Any) -> NDArray[np.float32]:
    """Contract 20: ``exp(x)`` of float32 ``x``; 0 below -87, inf above 88.7.

    The formula of contract 11; of positive ``x`` with half of the power of two, doubled at the end.
    Within 1.25 units in the last place; NaN is ``0x7fc00000``.
    """
    x = np.asarray(x, F32)
    with np.errstate(all="ignore"):
        d = np.where(x > MOST, MOST, x)
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
        return np.asarray(np.where(np.isnan(x), F32(np.nan), y), F32)
