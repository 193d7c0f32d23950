"""Contracts 11 to 15 (float32 softmax, layer norm, products, curves) against float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from qcc import curves, numerics


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


def test_tanh_and_erf_are_accurate() -> None:
    x = np.concatenate([np.linspace(-12, 12, 40_001), np.geomspace(1e-38, 1, 2000)])
    x = x.astype(np.float32)
    for function, exact in ((curves.tanh, math.tanh), (curves.erf, math.erf)):
        wanted = np.array([exact(float(value)) for value in x])
        assert ulps(function(x), wanted).max() < 7
        assert np.array_equal(function(-x), -function(x))


def test_gelu_is_accurate() -> None:
    x = np.linspace(-12, 12, 40_001).astype(np.float32)
    wide = x.astype(np.float64)
    gate = np.array([math.erf(value / math.sqrt(2)) for value in wide])
    bound = 5e-7 * np.maximum(np.abs(x), 1)
    assert (np.abs(curves.gelu(x) - wide * (1 + gate) / 2) < bound).all()
    gate = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
    assert (np.abs(curves.gelu_tanh(x) - wide * (1 + gate) / 2) < bound).all()
    ends = np.array([-3e38, 3e38, np.inf, -0.0], np.float32)
    for function in (curves.gelu, curves.gelu_tanh):
        assert np.array_equal(function(ends), np.maximum(ends, 0))
        assert function(np.float32(np.nan)).view(np.uint32) == 0x7FC00000


def exact_layer_norm(x: np.ndarray, epsilon: float) -> np.ndarray:
    x = x.astype(np.float64)
    variance = x.var(axis=-1, keepdims=True)
    return np.asarray((x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + epsilon))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 384, 4097])
@pytest.mark.parametrize("mean", [0.0, 3.0, -20.0])
def test_layer_norm_is_accurate(length: int, mean: float) -> None:
    rng = np.random.default_rng(length)
    x = rng.normal(mean, 2, (64, length)).astype(np.float32)
    scale, bias = rng.normal(1, 0.1, (2, length)).astype(np.float32)
    epsilon = 2.0**-17
    exact = exact_layer_norm(x, epsilon) * scale.astype(np.float64) + bias
    # The mean is rounded to float32, which costs half a unit of the mean times the factor.
    deviation = np.sqrt(x.astype(np.float64).var(axis=-1, keepdims=True) + epsilon)
    bound = 4 * np.spacing(np.float32(4)) + np.spacing(np.float32(32)) / deviation
    assert (np.abs(numerics.layer_norm(x, scale, bias, epsilon) - exact) < bound).all()


def test_layer_norm_of_what_is_not_finite_or_equal() -> None:
    one = np.float32(1)
    rows = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [7, 7, 7], [-0.0, -0.0, -0.0]], np.float32)
    found = numerics.layer_norm(rows, one, None, 1e-5)
    assert (found[:2].view(np.uint32) == 0x7FC00000).all()
    assert not found[2:].any()
    assert np.isnan(numerics.layer_norm(rows[2:], one, None, 0.0)).all()
    huge = np.array([[3e38, -1e38, 1e38]], np.float32)
    assert np.allclose(numerics.layer_norm(huge, one, one, 0.0), 1 + exact_layer_norm(huge, 0.0))
    assert numerics.layer_norm(np.zeros((2, 0), np.float32), one, None, 0.0).shape == (2, 0)


def test_matmul_adds_in_ascending_order() -> None:
    a = np.array([[1e8, 1.0, -1e8, 1.0]], np.float32)
    assert numerics.matmul(a, np.ones((4, 1), np.float32)) == 1.0
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 1, 7, 64)).astype(np.float32)
    b = rng.normal(size=(3, 64, 5)).astype(np.float32)
    found = numerics.matmul(a, b)
    assert found.shape == (2, 3, 7, 5)
    assert np.abs(found - a.astype(np.float64) @ b).max() < 64 * 2.0**-24 * 16
    wrong = numerics.matmul(np.array([[np.inf]], np.float32), np.zeros((1, 1), np.float32))
    assert wrong.view(np.uint32) == 0x7FC00000


@pytest.mark.parametrize("storage", ["int8", "uint8", "int16", "uint16", "int32", "int4", "uint4"])
def test_dequantize_takes_every_difference(storage: str) -> None:
    low, high = numerics.STORAGE_RANGE[storage]
    stored = np.asarray([low, low + 1, 0, high - 1, high], numerics.storage_dtype(storage))
    for zero_point in (low, 0, high):
        found = numerics.dequantize(stored, np.float32(0.5), zero_point)
        wanted = (stored.astype(np.float64) - zero_point).astype(np.float32) * np.float32(0.5)
        np.testing.assert_array_equal(found, wanted)


BOUNDS = [
    (0, 255),
    (-127, 127),
    (-8, 7),
    (-32768, 32767),
    (0, 65535),
    (5, 5),
    (-(2**31), 2**31 - 1),
]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
@pytest.mark.parametrize("zero_point", [0, 7, -128, 65535, np.asarray([[3], [0], [-9]])])
def test_rounding_saturates_as_written_with_64_bits(low: int, high: int, zero_point: Any) -> None:
    random = np.random.default_rng(0)
    drawn = [random.normal(size=500) * spread for spread in (1, 100, 1e5, 1e12)]
    edges = [np.nan, np.inf, -np.inf, -0.0, 2.0**31, -(2.0**31), 3e38, *np.arange(-700, 700) / 2]
    value = np.concatenate([*drawn, edges]).astype(np.float32)
    rounded = np.rint(np.clip(np.nan_to_num(value, nan=-(2.0**30)), -(2.0**30), 2.0**30))
    wanted = np.clip(rounded.astype(np.int64) + zero_point, low, high)
    found = numerics.round_saturate(value, zero_point, low, high)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)
