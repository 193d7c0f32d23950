"""Sums of fused products against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.fused import sums_of_products

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45, -1e-45, 1.0]


def rounded(value: Fraction) -> float:
    """``value`` as the nearest float32, half to even (below the largest)."""
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    unit = Fraction(2) ** max(exponent - 23, -149)
    return float(round(size / unit) * unit) * (1 if value > 0 else -1)


def exact_sum(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> float:
    total = float(start)
    for x, y in zip(a, b, strict=True):
        total = rounded(Fraction(float(x)) * Fraction(float(y)) + Fraction(total))
    return total


@st.composite
def numbers(draw: st.DrawFn, exponent: int, count: int) -> np.ndarray:
    bits = draw(st.integers(1, 24))
    mantissas = draw(st.lists(st.integers(-(2**bits), 2**bits), min_size=count, max_size=count))
    powers = draw(st.lists(st.integers(-20, 20), min_size=count, max_size=count))
    values = np.ldexp(np.array(mantissas, np.float64), np.array(powers) + exponent)
    return np.asarray(values, np.float32)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), exponent=st.sampled_from([0, 20, -50, -65, -75]))
def test_every_step_rounds_once(data: st.DataObject, exponent: int) -> None:
    a, b = (data.draw(numbers(exponent, 5)) for _ in range(2))
    (start,) = data.draw(numbers(2 * exponent, 1))
    found = sums_of_products(a[None, None], b[None, :, None], start)
    assert found.shape == (1, 1, 1)
    assert float(found[0, 0, 0]) == exact_sum(a, b, start)


def test_a_half_is_decided_by_what_was_lost() -> None:
    # 1 + 2^-24 lies half-way; the product's last bit, far below, decides.
    small = np.float32(2.0**-12 * (1 + 2.0**-23))
    up = sums_of_products([[[small]]], [[[np.float32(2.0**-12)]]], np.float32(1))
    down = sums_of_products([[[np.float32(2.0**-12)]]], [[[np.float32(2.0**-12)]]], np.float32(1))
    assert float(up[0, 0, 0]) == 1 + 2.0**-23
    assert float(down[0, 0, 0]) == 1.0


def test_groups_chunks_and_starts() -> None:
    rng = np.random.default_rng(5)
    a = rng.integers(-8, 8, (700, 3, 6)).astype(np.float32)
    b = rng.integers(-8, 8, (3, 6, 11)).astype(np.float32)
    start = rng.integers(-8, 8, (3, 11)).astype(np.float32)
    found = sums_of_products(a, b, start)
    wanted = np.einsum("mgk,gkn->mgn", a.astype(np.int64), b.astype(np.int64)) + start
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(SPECIAL), min_size=3, max_size=3))
def test_what_is_not_finite(values: list[float]) -> None:
    a, b, start = np.array(values, np.float32)
    found = sums_of_products([[[a]]], [[[b]]], start)[0, 0, 0]
    with np.errstate(all="ignore"):
        wanted = np.float32(np.float64(a) * np.float64(b) + np.float64(start))
    if np.isnan(wanted):
        assert found.view(np.uint32) == 0x7FC00000
    else:
        assert found == wanted
        assert np.signbit(found) == np.signbit(wanted)


def test_no_products() -> None:
    found = sums_of_products(np.zeros((2, 1, 0)), np.zeros((1, 0, 3)), np.float32(4))
    assert found.tolist() == [[[4, 4, 4]], [[4, 4, 4]]]
