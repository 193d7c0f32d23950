"""Cheaper formulas for elementwise ops (contract 5), each proved by trying all operands.

Two 8-bit operands have 65,536 pairs of values, so that a formula gives the contract's bytes is not
argued but checked.  The contract dequantizes both operands, applies the op and divides; the cheap
formulas do with one or two multiplications.  They round differently, so a few pairs that fall close
to a rounding boundary may come out wrong; coefficients a few units in the last place aside are then
tried.  Where none fits, kernels follow the contract to the letter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.kernels.rounding import (
    REACH,
    Division,
    division_for,
    exact_fused_multiply_add,
)
from qcc.errors import ConfigError

Op = Literal["add", "sub", "mul"]
ConstantOp = Literal["add", "sub", "reversed_sub", "mul"]
Kind = Literal["affine", "product", "exact"]
FloatArray = NDArray[np.float32]

OPS: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "reversed_sub": lambda a, b: b - a,
    "mul": lambda a, b: a * b,
}
"""The float op of each name, on numpy arrays."""

NEAR = 1e-3
"""Only quotients this close to a rounding boundary can be rounded differently by a good formula."""

MOST_CONSTANTS = 4096
"""With more distinct constants than this the contract's own formula is used without a search."""


@dataclass(frozen=True)
class Numbers:
    """Scales and zero points (uint8 units) of both operands and the result, and its bounds."""

    a: tuple[float, int]
    b: tuple[float, int]
    y: tuple[float, int]
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class Formula:
    """How a kernel computes the quotient ``op(a, b) / s_y`` before it is rounded.

    ``affine``: ``fma(a, factor_a, fma(b, factor_b, offset))`` of the stored values.
    ``product``: ``((a - z_a) * (b - z_b)) * factor_a``.
    ``exact``: contract 5, dividing as ``division`` says; ``bounded`` where no quotient passes
    ``rounding.REACH``, so that it need not be clamped.
    """

    kind: Kind
    division: Division
    bounded: bool
    factor_a: float = 0.0
    factor_b: float = 0.0
    offset: float = 0.0


def _quotients(op: str, a: FloatArray, b: FloatArray, scale: float) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        value = OPS[op](a.astype(np.float64), b.astype(np.float64))
        return np.asarray(value / np.float64(np.float32(scale)))


def _is_near(quotient: NDArray[np.float64]) -> NDArray[np.bool_]:
    near = np.abs(quotient - np.floor(quotient) - 0.5) < NEAR
    return np.asarray(near & (np.abs(quotient) < 512))


def _steps(value: float, steps: int) -> float:
    """``value`` as float32, moved by ``steps`` units in the last place."""
    x = np.float32(value)
    unit = np.spacing(np.abs(x))
    return float(np.float32(x + np.float32(steps) * unit))


def _by_distance(reach: int) -> list[int]:
    return sorted(range(-reach, reach + 1), key=abs)


def affine(formula: Formula, a: FloatArray, b: FloatArray) -> FloatArray:
    """The quotient of an ``affine`` formula for stored values as float32 arrays."""
    full = np.full_like
    inner = exact_fused_multiply_add(b, full(b, formula.factor_b), full(b, formula.offset))
    return exact_fused_multiply_add(a, full(a, formula.factor_a), inner)


def _product(formula: Formula, a: FloatArray, b: FloatArray, numbers: Numbers) -> FloatArray:
    centred = (a - np.float32(numbers.a[1])) * (b - np.float32(numbers.b[1]))
    return np.asarray(centred * np.float32(formula.factor_a), np.float32)


def _candidates(op: Op, numbers: Numbers, division: Division) -> Iterator[Formula]:
    (s_a, z_a), (s_b, z_b), (s_y, _) = numbers.a, numbers.b, numbers.y
    if op == "mul":
        for steps in _by_distance(4):
            yield Formula("product", division, True, _steps(s_a * s_b / s_y, steps))
        return
    sign = 1.0 if op == "add" else -1.0
    m_a, m_b = s_a / s_y, sign * s_b / s_y
    # Quotients that matter are below 256, where a float32's unit is 2^-16 or less.
    for i in _by_distance(1):
        for j in _by_distance(1):
            a, b = _steps(m_a, i), _steps(m_b, j)
            for shift in _by_distance(8):
                offset = float(np.float32(-(z_a * a + z_b * b) + shift * 2.0**-18))
                yield Formula("affine", division, True, a, b, offset)


@functools.lru_cache(maxsize=1024)
def binary_formula(op: Op, numbers: Numbers) -> Formula:
    """The cheapest formula that gives contract 5's result for all 65,536 pairs."""
    (s_a, z_a), (s_b, z_b), (s_y, z_y) = numbers.a, numbers.b, numbers.y
    stored = np.arange(256, dtype=np.float32)
    a, b = (grid.ravel() for grid in np.meshgrid(stored, stored, indexing="ij"))
    real_a, real_b = numerics.dequantize(a, s_a, z_a), numerics.dequantize(b, s_b, z_b)
    with np.errstate(all="ignore"):
        value = OPS[op](real_a, real_b)
        bounded = bool(np.all(np.abs(value / np.float32(s_y)) < REACH))
    division = division_for(s_y)
    exact = Formula("exact", division, bounded)
    if not bounded:
        return exact
    want = numerics.quantize(value, s_y, z_y, "uint8", low=numbers.low, high=numbers.high)
    near = np.flatnonzero(_is_near(_quotients(op, real_a, real_b, s_y)))

    def gives(formula: Formula, picked: Any) -> bool:
        x, y = a[picked], b[picked]
        with np.errstate(all="ignore"):
            affine_kind = formula.kind == "affine"
            q = affine(formula, x, y) if affine_kind else _product(formula, x, y, numbers)
        got = numerics.round_saturate(q, z_y, numbers.low, numbers.high)
        return bool(np.array_equal(got, want[picked]) and np.all(np.abs(q) < 2 * REACH))

    everything = slice(None)
    for formula in _candidates(op, numbers, division):
        if gives(formula, near) and gives(formula, everything):
            return formula
    return exact


@dataclass(frozen=True)
class ConstantFormula:
    """The quotient ``op(a, constant) / s_y`` with a constant float32 tensor.

    ``affine``: ``fma(a, factor, offset)`` with a factor and an offset for each constant.
    ``exact``: contract 5 with the constant as it is.
    """

    kind: Literal["affine", "exact"]
    division: Division
    bounded: bool


Coefficients = tuple[FloatArray, FloatArray]
"""``(factors, offsets)``, each of the constant's shape."""


def constant_formula(
    op: ConstantOp,
    constant: Any,
    a: tuple[float, int],
    y: tuple[float, int],
    low: int = 0,
    high: int = 255,
) -> tuple[ConstantFormula, Coefficients | None]:
    """The cheapest formula, proved for every stored value with every constant.

    ``constant`` float32 of any shape; ``a`` and ``y`` are ``(scale, zero point)``.
    """
    values = np.asarray(constant, np.float32)
    if values.size == 0:
        raise ConfigError("An elementwise op with an empty constant has nothing to compute.")
    distinct, inverse = np.unique(values.ravel(), return_inverse=True)
    stored = np.arange(256, dtype=np.float32)[:, None]
    division = division_for(y[0])
    if len(distinct) > MOST_CONSTANTS or not np.all(np.isfinite(distinct)):
        return ConstantFormula("exact", division, False), None
    real = numerics.dequantize(stored, *a)
    with np.errstate(all="ignore"):
        value = np.asarray(OPS[op](real, distinct[None, :]), np.float32)
        bounded = bool(np.all(np.abs(value / np.float32(y[0])) < REACH))
    exact = ConstantFormula("exact", division, bounded)
    if not bounded:
        return exact, None
    want = numerics.quantize(value, *y, "uint8", low=low, high=high)
    found = _search_constants(op, distinct, a, y, (low, high), want)
    if found is None:
        return exact, None
    factors, offsets = (part[inverse].reshape(values.shape) for part in found)
    return ConstantFormula("affine", division, True), (factors, offsets)


def _search_constants(
    op: ConstantOp,
    constants: FloatArray,
    a: tuple[float, int],
    y: tuple[float, int],
    bounds: tuple[int, int],
    want: NDArray[Any],
) -> Coefficients | None:
    """A factor and an offset for each constant that give its column of ``want``, or None."""
    s_a, z_a = a
    c = constants.astype(np.float64)
    slopes = {
        "add": np.full_like(c, s_a),
        "sub": np.full_like(c, s_a),
        "reversed_sub": np.full_like(c, -s_a),
        "mul": s_a * c,
    }[op] / y[0]
    shifts = {"add": c, "sub": -c, "reversed_sub": c, "mul": np.zeros_like(c)}[op] / y[0]
    stored = np.arange(256, dtype=np.float32)[:, None]
    factors, offsets = np.zeros_like(constants), np.zeros_like(constants)
    open_ = np.ones(len(constants), bool)
    for i in _by_distance(2):
        for shift in _by_distance(8):
            m = slopes[open_].astype(np.float32)
            m = m + np.float32(i) * np.spacing(np.abs(m))
            k = (shifts[open_] - z_a * m.astype(np.float64) + shift * 2.0**-18).astype(np.float32)
            ones = np.ones_like(stored)
            q = exact_fused_multiply_add(stored * np.ones_like(m), ones * m, ones * k)
            good = np.all(numerics.round_saturate(q, y[1], *bounds) == want[:, open_], axis=0)
            where = np.flatnonzero(open_)[good]
            factors[where], offsets[where] = m[good], k[good]
            open_[where] = False
            if not open_.any():
                return factors, offsets
    return None
