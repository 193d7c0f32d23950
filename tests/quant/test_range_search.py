"""The observers that choose a range: each against a direct statement of what it promises."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcc.quant.fake_quantize import fake_quantize
from qcc.quant.observers import (
    EntropyObserver,
    HistogramObserver,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
)
from qcc.quant.observers.entropy import SMOOTHING, best_threshold
from qcc.quant.observers.grid import GridObserver
from qcc.quant.qparams import QuantParams

SYMMETRIC: dict[str, Any] = {"dtype": "int8", "qscheme": "per_tensor_symmetric"}
Data = NDArray[np.float32]


def sample(kind: str, size: int = 50000, seed: int = 0) -> Data:
    random = np.random.RandomState(seed)
    normal = random.normal(size=size)
    table = {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": random.standard_t(3, size),
        "silu": 3 * normal / (1 + np.exp(-3 * normal)),
        "shifted": normal - 2,
    }
    data: Data = table[kind].astype(np.float32)
    return data


KINDS = ["normal", "relu", "heavy", "silu", "shifted"]


def grid(observer: type[GridObserver], data: Data, **arguments: Any) -> GridObserver:
    made = observer.with_args(**arguments)()
    made.update(data)
    assert isinstance(made, GridObserver)
    return made


def squared_error(data: Data, params: QuantParams) -> float:
    difference = fake_quantize(data, params).astype(np.float64) - data
    return float((difference**2).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.99, 100.0])
def test_percentile_clips_the_stated_share(kind: str, percentile: float) -> None:
    data = sample(kind)
    low, high = grid(PercentileObserver, data, percentile=percentile).best_range()
    resolution = float(max(-data.min(), data.max())) / 1024
    half = (100 - percentile) / 2
    assert low == pytest.approx(min(0, -order_statistic(-data, half)), abs=resolution)
    assert high == pytest.approx(max(0, order_statistic(data, half)), abs=resolution)
    assert (data < low).mean() <= half / 100
    assert (data > high).mean() <= half / 100
    low, high = grid(PercentileObserver, data, percentile=percentile, **SYMMETRIC).best_range()
    bound = max(-low, high)
    assert bound == pytest.approx(order_statistic(np.abs(data), 2 * half), abs=resolution)


def order_statistic(data: Data, cut: float) -> float:
    """The least value with at most ``cut`` percent of the values above it."""
    above = int(cut / 100 * data.size + 1e-6)
    return float(np.sort(data)[-1 - above])


def test_percentile_100_is_minmax() -> None:
    data = sample("heavy")
    minmax = MinMaxObserver.with_args()()
    minmax.update(data)
    assert grid(PercentileObserver, data, percentile=100.0).qparams() == minmax.qparams()


def divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
    """KL(P || Q) for one threshold, written as the definition says."""
    p, q = counts[:kept].copy(), np.zeros(kept)
    p[-1] += counts[kept:].sum()
    borders = [kept * group // levels for group in range(levels + 1)]
    for begin, end in pairwise(borders):
        used = counts[begin:end] > 0
        if used.any():
            q[begin:end][used] = counts[begin:end].sum() / used.sum()
    if not q.any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    q[(q == 0) & (p > 0)] = SMOOTHING
    used = p > 0
    return float((p[used] * np.log(p[used] / q[used])).sum())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(20, 300),
    levels=st.sampled_from([8, 16]),
    sparse=st.booleans(),
)
def test_entropy_search_finds_the_least_divergence(
    seed: int, size: int, levels: int, sparse: bool
) -> None:
    random = np.random.RandomState(seed)
    shape = np.exp(-np.arange(size) / random.uniform(5, 60))
    counts = random.poisson(shape * (3 if sparse else 1000)).astype(np.float64)
    counts[-1] += 1
    counts[1] += 1
    best = best_threshold(counts, levels)
    counts[0] = counts[1]
    divergences = {kept: divergence(counts, kept, levels) for kept in range(levels, size + 1)}
    assert divergences[best] == pytest.approx(min(divergences.values()), rel=1e-9, abs=1e-12)


def test_entropy_keeps_all_when_there_is_nothing_to_choose() -> None:
    assert best_threshold(np.ones(7), 128) == 7
    spike = np.zeros(300)
    spike[0] = 5
    assert best_threshold(spike, 128) == 300


def test_entropy_clips_outliers_and_keeps_a_uniform_range() -> None:
    data = sample("normal")
    data[:3] = 40.0
    low, high = grid(EntropyObserver, data, **SYMMETRIC).best_range()
    assert -low == pytest.approx(4.2, abs=1.0)
    assert high < 8
    uniform = np.random.RandomState(1).uniform(-1, 1, 50000).astype(np.float32)
    assert grid(EntropyObserver, uniform, **SYMMETRIC).best_range()[1] > 0.95


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [{}, SYMMETRIC, {"dtype": "int4"}], ids=repr)
def test_mse_is_the_best_of_all(kind: str, arguments: dict[str, Any]) -> None:
    data = sample(kind)
    best = squared_error(data, grid(MSEObserver, data, **arguments).qparams())
    for other in (MinMaxObserver, HistogramObserver, PercentileObserver):
        observer = other.with_args(**arguments)()
        observer.update(data)
        assert best <= 1.01 * squared_error(data, observer.qparams()), other.__name__


@pytest.mark.parametrize("observer", [PercentileObserver, EntropyObserver, MSEObserver])
@pytest.mark.parametrize("arguments", [{}, SYMMETRIC], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_ranges_stay_within_what_was_seen(
    observer: type[GridObserver], arguments: dict[str, Any], kind: str
) -> None:
    data = sample(kind, 5000)
    low, high = grid(observer, data, **arguments).best_range()
    assert min(data.min(), 0) <= low <= 0 <= high <= max(data.max(), 0)


@given(data=st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_grid_counts_every_value_in_its_bin(data: list[float]) -> None:
    observer = grid(PercentileObserver, np.asarray(data, np.float32))
    counts = np.zeros_like(observer.counts)
    for value in data:
        counts[int(value < 0), int(abs(value) / observer.width)] += 1
    np.testing.assert_array_equal(observer.counts, counts)


@pytest.mark.parametrize("power", [-60, -20, 20, 60, 120])
def test_the_histogram_search_does_not_depend_on_the_unit(power: int) -> None:
    data = sample("heavy", 20000)
    plain = HistogramObserver.with_args(eps=2.0**-126)()
    scaled = HistogramObserver.with_args(eps=2.0**-126)()
    plain.update(data)
    scaled.update(np.ldexp(data, power))
    factor = scaled.qparams().scale[0] / plain.qparams().scale[0]
    assert factor == pytest.approx(2.0**power, rel=1e-5)


def test_a_masked_tensor_is_no_trouble() -> None:
    data = sample("normal", 1000)
    data[::2] = -3.0e38
    for observer in (HistogramObserver, PercentileObserver, EntropyObserver, MSEObserver):
        made = observer.with_args()()
        made.update(data)
        made.update(2 * data[1::2])
        assert np.isfinite(made.qparams().scale[0])
