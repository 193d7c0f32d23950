"""Contract 11 (float32 exponential, softmax, sigmoid) against float64."""

from __future__ import annotations

import numpy as np
import pytest

from qcc import numerics


def ulps(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance in units in the last place of the exact value."""
    distance = np.abs(found.astype(np.float64) - exact)
    return np.asarray(distance / np.spacing(exact.astype(np.float32)).astype(np.float64))


def exact_softmax(x: np.ndarray) -> np.ndarray:
    terms = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return np.asarray(terms / terms.sum(axis=-1, keepdims=True))


def test_exponential_is_accurate_down_to_its_end() -> None:
    # Every 997th float32 of [-87, 0], so that every exponent and every multiple of ln 2 is met.
    last = int(np.float32(87.0).view(np.uint32))
    d = -np.arange(0, last + 1, 997, dtype=np.uint32).view(np.float32)
    assert ulps(numerics.exponential(d), np.exp(d.astype(np.float64))).max() < 1.25


def test_exponential_at_its_edges() -> None:
    d = np.array([0.0, -0.0, -87.0, -87.00001, -1e30, -np.inf], np.float32)
    found = numerics.exponential(d)
    assert found[:2].tolist() == [1.0, 1.0]
    assert found[2] >= np.finfo(np.float32).tiny
    assert found[3:].tobytes() == np.zeros(3, np.float32).tobytes()
    assert np.isnan(numerics.exponential(np.float32(np.nan)))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 1000, 1001, 30000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_softmax_is_accurate(length: int, spread: float) -> None:
    x = np.random.default_rng(length).normal(0, spread, (-(-60000 // length), length))
    x = x.astype(np.float32)
    found, exact = numerics.softmax(x), exact_softmax(x)
    assert np.abs(found - exact).max() < 2e-7
    # x - max rounds, which costs a term up to a unit for each unit of its distance.
    distance = x.max(axis=-1, keepdims=True) - x
    assert (ulps(found, exact) < 4 + distance).all()
    assert np.allclose(found.sum(axis=-1, dtype=np.float64), 1, rtol=0, atol=1e-6)


def test_softmax_of_equal_terms_in_long_rows() -> None:
    # Partial sums in float32 would drift here.
    x = np.full((1, 100_000), -1.2, np.float32)
    x[0, 77] = 0
    assert ulps(numerics.softmax(x), exact_softmax(x)).max() < 5.2


def test_softmax_of_what_is_not_finite() -> None:
    inf, nan = np.inf, np.nan
    rows = [[nan, 1, 2], [1, inf, 2], [-inf, -inf, -inf], [-inf, 1, 1], [-3e38, 3e38, -inf]]
    found = numerics.softmax(np.array(rows, np.float32))
    assert (found[:3].view(np.uint32) == 0x7FC00000).all()
    assert found[3:].tolist() == [[0, 0.5, 0.5], [0, 1, 0]]
    assert numerics.softmax(np.zeros((2, 0), np.float32)).shape == (2, 0)


def test_sigmoid_is_accurate() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 8, 200_000), rng.uniform(-86, 30, 200_000)])
    x = x.astype(np.float32)
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    found = numerics.sigmoid(x)
    assert np.abs(found - exact).max() < 1e-7
    assert ulps(found, exact).max() < 3


def test_sigmoid_at_its_edges() -> None:
    x = np.array([np.inf, -np.inf, 0.0, -0.0, -1e-40, -88.0, np.nan], np.float32)
    found = numerics.sigmoid(x)
    assert found[:6].tolist() == [1.0, 0.0, 0.5, 0.5, 0.5, 0.0]
    assert found[6:].view(np.uint32) == 0x7FC00000
    assert numerics.sigmoid(np.float32(0)).shape == ()
