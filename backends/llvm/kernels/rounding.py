"""Quantization of float lanes (contract 1), without a division where that is proved to be the same.

``round(x / s)`` is a monotone step function of ``x``, and so is ``round(fma(x, r, x * e))`` with
``r + e`` the reciprocal of ``s`` in double length (Dekker, "A floating-point technique for
extending the available precision", 1971).  Two monotone step functions are equal when they agree on
both sides of every step, so 512 evaluations prove the equality for all floats.  Where it fails,
kernels divide.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import LoopBuilder, Value
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.lanes import Scalars, fused_multiply_add, narrow
from qcc.errors import ConfigError

Division = Literal["reciprocal", "divide"]
FloatArray = NDArray[np.float32]

STEPS = 256
"""Quotients are compared up to this: ``|q - z|`` of 8-bit storage cannot pass it."""

REACH = 4096.0
"""Quotients beyond this saturate to either bound whatever the zero point, and fit int16."""

OUTPUT_FIELDS = (
    ("scale", "f32"),
    ("reciprocal", "f32"),
    ("reciprocal_error", "f32"),
    ("bound", "f32"),
    ("zero_point", "i16"),
    ("low", "u8"),
    ("high", "u8"),
)
"""The scalars that :class:`Quantizer` reads."""


def exact_fused_multiply_add(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """``a * b + c`` in float32 with one rounding, computed in numpy.

    The product is exact in float64; the sum is rounded to odd there, which the final rounding to
    float32 cannot tell from the exact sum (Boldo and Melquiond, "Emulation of FMA and correctly
    rounded sums: proved algorithms using rounding to odd", 2008).
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    toward = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & even, np.nextafter(total, toward), total)
    return np.asarray(odd, np.float32)


def reciprocal_parts(scale: float) -> tuple[np.float32, np.float32]:
    """``(r, e)``: the float32 nearest to ``1 / scale`` and the float32 nearest to the rest."""
    s = float(np.float32(scale))
    with np.errstate(over="ignore", divide="ignore"):
        r = np.float32(1.0 / s)
        # 1 - r * s is exact in float64: r * s has 48 bits.
        return r, np.float32((1.0 - float(r) * s) / s)


def _by_reciprocal(x: FloatArray, scale: float) -> FloatArray:
    r, e = reciprocal_parts(scale)
    return exact_fused_multiply_add(x, np.full_like(x, r), x * e)


def _steps_of_division(scale: np.float32) -> FloatArray:
    """The least positive float32 whose quotient rounds to ``n``, for ``n`` in ``1..STEPS``."""
    wanted = np.arange(1, STEPS + 1)
    low = np.zeros(STEPS, np.int64)
    high = np.full(STEPS, 0x7F7FFFFF, np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        x = middle.astype(np.int32).view(np.float32)
        reached = np.rint(x / scale) >= wanted
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return high.astype(np.int32).view(np.float32)


@functools.lru_cache(maxsize=4096)
def division_for(scale: float) -> Division:
    """``reciprocal`` where multiplying gives what dividing by ``scale`` gives for every float32.

    Both formulas are odd functions, so only positive arguments are compared.  Scales whose
    reciprocal, bound or products leave the normal range are divided by.
    """
    s = np.float32(scale)
    if not np.float32(2.0**-60) < s < np.float32(2.0**60):
        return "divide"
    steps = _steps_of_division(s)
    wanted = np.arange(1, STEPS + 1)
    before = (steps.view(np.int32) - 1).view(np.float32)
    same = np.all(np.rint(_by_reciprocal(steps, scale)) == wanted) and np.all(
        np.rint(_by_reciprocal(before, scale)) == wanted - 1
    )
    return "reciprocal" if same else "divide"


def output_scalars(
    scale: float, zero_point: int, low: int, high: int, division: Division
) -> dict[str, float]:
    """Values of ``OUTPUT_FIELDS``; :class:`ConfigError` when ``division`` is not proved."""
    if division == "reciprocal" and division_for(float(scale)) != division:
        raise ConfigError(f"Dividing by {scale} cannot be replaced; make the kernel with 'divide'.")
    if not 0 <= low <= high <= 255 or not 0 <= zero_point <= 255:
        raise ConfigError(
            f"Zero point {zero_point} and bounds [{low}, {high}] must be uint8 values in order."
        )
    r, e = reciprocal_parts(scale) if division == "reciprocal" else (0.0, 0.0)
    bound = min(float(np.float32(scale)) * REACH, float(np.finfo(np.float32).max))
    return {
        "scale": float(np.float32(scale)),
        "reciprocal": float(r),
        "reciprocal_error": float(e),
        "bound": float(np.float32(bound)),
        "zero_point": zero_point,
        "low": low,
        "high": high,
    }


class Quantizer:
    """Writes ``clamp(round_half_even(x / scale) + zero_point)`` of float vectors.

    ``scalars`` are the loaded ``OUTPUT_FIELDS``; ``bounded`` promises ``|x / scale| < REACH`` and
    no NaN.
    """

    def __init__(
        self,
        k: LoopBuilder,
        isa: InstructionSet,
        scalars: dict[str, Value],
        division: Division,
        *,
        bounded: bool = False,
    ) -> None:
        self.k, self.isa, self.scalars = k, isa, scalars
        self.division, self.bounded = division, bounded

    def octets(self, values: Sequence[Value]) -> Value:
        """Up to four float vectors to bytes in memory order."""
        return self.narrow([self._quotient(value) for value in values])

    def narrow(self, quotients: Sequence[Value]) -> Value:
        """Up to four float vectors, already divided and within ``REACH``, to bytes."""
        k, isa, scalars = self.k, self.isa, self.scalars
        words = [primitives.call(k, isa, "round_to_int", value) for value in quotients]
        return narrow(k, isa, words, scalars["zero_point"], scalars["low"], scalars["high"])

    def _quotient(self, value: Value) -> Value:
        k, scalars = self.k, self.scalars
        if not self.bounded:
            # NaN becomes the lower bound, as numerics.round_saturate has it.
            low, high = k.ir.fneg(scalars["bound"]), scalars["bound"]
            value = primitives.clamp_or_low(k, self.isa, value, low, high)
        if self.division == "divide":
            return k.ir.fdiv(value, scalars["scale"])
        small = k.ir.fmul(value, scalars["reciprocal_error"])
        return fused_multiply_add(k, value, scalars["reciprocal"], small)


def output_block(extra: tuple[tuple[str, str], ...] = ()) -> Scalars:
    """``OUTPUT_FIELDS`` and the scalars of a kernel's own."""
    return Scalars(OUTPUT_FIELDS + extra)
