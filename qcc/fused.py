"""Fused multiply-add on float32 arrays: the sums of products of contracts 13 and 16.

numpy has no fused multiply-add, so it is made of float64 operations.  The product of two float32 is
exact in float64.  Adding the sum so far rounds to 53 bits, and rounding that to float32 gives what
one rounding gives unless the 53 bits lie exactly half-way between two float32 (or, for results
below the least normal float32, there are fewer bits).  In these cases the error of the addition,
which Knuth's TwoSum gives exactly, decides: the 53 bits are rounded to odd instead (Boldo and
Melquiond, "Emulation of a FMA and Correctly Rounded Sums: Proved Algorithms Using Rounding to Odd",
2008).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64Array = NDArray[np.float64]

_EXTRA_BITS = np.int64((1 << 29) - 1)
"""The bits of a float64 below those of a float32."""
_HALF = np.int64(1 << 28)
_LEAST_NORMAL = 2.0**-126
_LEAST_EXPONENT = -103
"""Where the exponents of two factors add up to this, their product is a multiple of 2^-149."""
_CHUNK = 1 << 14
"""Elements of one step: two float64 arrays of so many fit the second-level cache."""


def sums_of_products(a: Any, b: Any, start: Any) -> NDArray[np.float32]:
    """``start + sum over k of a[m, g, k] * b[g, k, n]`` with one rounding a product.

    ``a`` is float32 ``[M, G, K]``, ``b`` float32 ``[G, K, N]`` and ``start`` broadcasts to the
    result, ``[M, G, N]``.  For ``k`` in ascending order ``total = fma(a, b, total)``; every NaN of
    the result is ``0x7fc00000``.
    """
    left = np.asarray(a, np.float32)
    factors = np.asarray(b, np.float64).transpose(1, 0, 2)
    shape = (left.shape[0], factors.shape[1], factors.shape[2])
    begin = np.broadcast_to(np.asarray(start, np.float32), shape)
    total = np.empty(shape, np.float32)
    tiny = _has_tiny_products(left, factors)
    rows = max(1, _CHUNK // max(1, shape[1] * shape[2]))
    with np.errstate(all="ignore"):
        for first in range(0, shape[0], rows):
            part = slice(first, first + rows)
            columns = np.asarray(left[part].transpose(2, 0, 1)[..., None], np.float64, order="C")
            total[part] = _accumulate(columns, factors, begin[part], tiny)
    return np.where(np.isnan(total), np.float32(np.nan), total)


def _accumulate(
    columns: F64Array, factors: F64Array, start: NDArray[np.float32], tiny: bool
) -> NDArray[np.float32]:
    """The sums of one chunk: ``columns`` [K, M, G, 1] and ``factors`` [K, G, N]."""
    narrow = np.array(start)
    total, product = narrow.astype(np.float64), np.empty(narrow.shape)
    exact = np.empty_like(product)
    bits, doubtful = np.empty(narrow.shape, np.int64), np.empty(narrow.shape, np.bool_)
    for column, row in zip(columns, factors, strict=True):
        np.multiply(column, row, out=product)
        np.add(total, product, out=exact)
        np.bitwise_and(exact.view(np.int64), _EXTRA_BITS, out=bits)
        np.equal(bits, _HALF, out=doubtful)
        if tiny:
            doubtful |= np.abs(exact) < _LEAST_NORMAL
        if doubtful.any():
            _round_to_odd(total, product, exact, np.nonzero(doubtful))
        narrow[...] = exact
        total[...] = narrow
    return narrow


def _round_to_odd(total: F64Array, product: F64Array, exact: F64Array, at: Any) -> None:
    """Where the sum was inexact and its last bit is 0, go to the neighbour on the error's side."""
    a, b, s = total[at], product[at], exact[at]
    part = s - a
    error = (a - (s - part)) + (b - part)
    even = (s.view(np.int64) & 1) == 0
    moved = np.nextafter(s, np.where(error > 0, np.inf, -np.inf))
    exact[at] = np.where((error != 0) & np.isfinite(error) & even, moved, s)


def _has_tiny_products(a: NDArray[np.float32], b: F64Array) -> bool:
    """Whether products may have bits below 2^-149, where sums below 2^-126 would lose some."""
    lowest = [_least_exponent(values) for values in (a, b)]
    return lowest[0] + lowest[1] < _LEAST_EXPONENT


def _least_exponent(values: NDArray[Any]) -> int:
    """Of the numbers that are not 0; large where there is none."""
    sizes = np.abs(values)
    found = np.min(sizes, where=sizes > 0, initial=np.inf)
    return int(np.frexp(found)[1]) - 1 if np.isfinite(found) else 1024
