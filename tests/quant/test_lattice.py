"""Values that already lie on a grid are found, and others are not taken for such."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc import numerics
from qcc.quant.lattice import LIMIT, DistinctValues, Lattice, lattice_of, step_of
from qcc.quant.observers import MSEObserver

steps = st.floats(1e-6, 1e3)


@given(steps, st.integers(0, 10_000), st.integers(-200, 0), st.integers(30, 255))
def test_the_step_of_bytes_is_found(step: float, seed: int, low: int, width: int) -> None:
    codes = np.random.default_rng(seed).integers(low, low + width + 1, 4000)
    codes[:2] = (1 if low + width > 1 else -1, low)
    found = lattice_of((codes * np.float32(step)).astype(np.float32))
    assert found is not None
    assert found.step == pytest.approx(np.float32(step), rel=1e-5)
    assert (found.low, found.high) == (min(codes.min(), 0), max(codes.max(), 0))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(100),
        np.random.default_rng(0).normal(size=500),
        np.append(np.random.default_rng(0).normal(size=50), -3.4e38),
        np.arange(5000) * 0.1,
        np.array([1.0, 1.0001, 2.0]),
    ],
)
def test_what_is_no_grid(values: object) -> None:
    assert lattice_of(values) is None


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=200), st.integers(1, 7))
def test_distinct_values_do_not_depend_on_grouping(codes: list[int], parts: int) -> None:
    values = (np.asarray(codes) * 0.37).astype(np.float32)
    whole, merged = DistinctValues(), DistinctValues()
    whole.add(values)
    for part in np.array_split(values[::-1], parts):
        one = DistinctValues()
        one.add(part)
        merged.merge(one)
    np.testing.assert_array_equal(whole.state()["distinct"], merged.state()["distinct"])


def test_too_many_values_are_no_grid_and_state_stays_bounded() -> None:
    seen = DistinctValues()
    size = seen.state()["distinct"].nbytes
    seen.add(np.linspace(0, 1, LIMIT + 1, dtype=np.float32))
    assert seen.values is None
    assert seen.lattice is None
    assert seen.state()["distinct"].nbytes == size
    again = DistinctValues()
    again.load_state(seen.state())
    assert again.values is None


def test_few_values_may_be_chance() -> None:
    seen = DistinctValues()
    seen.add(np.asarray([0.0, 3.7, 7.4], np.float32))
    assert seen.lattice is None
    assert lattice_of([0.0, 3.7, 7.4]) == Lattice(3.7, 0, 2, 3)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("low", "high"), [(0, 255), (-128, 60), (-100, 100), (3, 90)])
def test_bytes_are_quantized_without_error(
    dtype: str, symmetric: bool, low: int, high: int
) -> None:
    scheme = "per_tensor_symmetric" if symmetric else "per_tensor_affine"
    observer = MSEObserver.with_args(dtype=dtype, qscheme=scheme, norm=2.4)("x")
    codes = np.random.default_rng(1).integers(low, high + 1, 20_000)
    data = (codes * np.float32(0.3367)).astype(np.float32)
    for part in np.array_split(data, 7):
        observer.update(part)
    p = observer.qparams()
    q = numerics.quantize(
        data, p.scales, p.zero_points, p.storage, low=p.quant_min, high=p.quant_max
    )
    back = numerics.dequantize(q, p.scales, p.zero_points)
    exact = not symmetric or max(-low, high) <= 127
    error = float(np.abs(back - data).max())
    assert (error < 1e-4 * 0.3367) == exact
    assert error < 0.3367 * 2 or not exact


@given(steps, st.lists(st.integers(-127, 127), min_size=3, max_size=20), st.integers(0, 1000))
def test_the_step_of_a_few_weights_is_found(step: float, codes: list[int], seed: int) -> None:
    values = (np.asarray(codes) * np.float32(step)).astype(np.float32)
    found = step_of(values, 127)
    if not any(codes):
        assert found is None
        return
    assert found is not None
    whole = values.astype(np.float64) / found
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-3)
    assert np.abs(whole).max() <= 127.001
    other = np.random.default_rng(seed).normal(size=9)
    assert step_of(other, 127) is None
