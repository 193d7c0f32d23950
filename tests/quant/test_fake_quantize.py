from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcc.errors import DataError
from qcc.quant.fake_quantize import FakeQuantize, dequantize_with, fake_quantize, quantize_with
from qcc.quant.observers import MinMaxObserver, MovingAverageMinMaxObserver
from qcc.quant.qparams import QuantParams

tensors = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=0, max_dims=4, max_side=5),
    elements=st.floats(-1000, 1000, width=32),
)


def made(**arguments: object) -> FakeQuantize:
    observer = FakeQuantize.with_args(**arguments)("activation")
    assert isinstance(observer, FakeQuantize)
    return observer


@given(x=tensors, scale=st.floats(0.0009765625, 8, width=32), zero=st.integers(0, 255))
def test_fake_quantize_is_a_projection(x: np.ndarray, scale: float, zero: int) -> None:
    params = QuantParams.make(scale, zero, "uint8")
    y = fake_quantize(x, params)
    assert y.dtype == np.float32
    assert y.shape == x.shape
    np.testing.assert_array_equal(fake_quantize(y, params), y)
    low, high = (bound[0] for bound in params.real_range)
    np.testing.assert_array_less(
        np.abs(y - np.clip(x, low, high)), scale / 2 * (1 + 1e-4) + np.abs(x) * 1e-6 + 1e-9
    )


def test_bounds_and_axis_are_kept() -> None:
    params = QuantParams.make([0.5, 1.0], [0, 0], "int8", axis=0, quant_min=-127, quant_max=127)
    x = np.array([[-500.0, 0.25, 0.75], [-500.0, 0.5, 1.5]], np.float32)
    stored = quantize_with(x, params)
    assert stored.dtype == np.int8
    assert stored.tolist() == [[-127, 0, 2], [-127, 0, 2]]
    assert dequantize_with(stored, params).tolist() == [[-63.5, 0.0, 1.0], [-127.0, 0.0, 2.0]]


def test_flags() -> None:
    module = made(observer=MinMaxObserver.with_args())
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    first = module(x)
    assert np.abs(first - x).max() <= module.qparams().scale[0] / 2
    params = module.qparams()
    module.disable_observer()
    assert module(10 * x).max() <= 1.01
    assert module.qparams() == params
    module.enable_observer()
    module.disable_fake_quant()
    np.testing.assert_array_equal(module(10 * x), 10 * x)
    assert module.qparams().scale[0] == pytest.approx(10 * params.scale[0], rel=1e-6)
    module.enable_fake_quant()
    assert module(10 * x).max() == pytest.approx(10, rel=0.01)


def test_state_holds_the_flags() -> None:
    module = made()
    assert module.observer.spec == MovingAverageMinMaxObserver.with_args()
    module.forward([1.0, -3.0, np.inf])
    module.disable_observer()
    back = module.spec.from_state(module.state())
    assert isinstance(back, FakeQuantize)
    assert (back.observer_enabled, back.fake_quant_enabled, back.infinite) == (False, True, 1)
    assert back.qparams() == module.qparams()


def test_merge_and_nothing_seen() -> None:
    one, other = made(), made()
    with pytest.raises(DataError, match="MovingAverageMinMaxObserver of 'activation' has seen no"):
        one.forward(np.zeros((0, 2)))
    other.forward([2.0])
    one.merge(other)
    assert one.qparams() == other.qparams()


def test_a_spec_states_what_its_observer_states() -> None:
    inner = MinMaxObserver.with_args(dtype="int8", quant_min=-127, quant_max=127, eps=2.0**-12)
    spec = FakeQuantize.with_args(observer=inner)
    for fact in ("dtype", "qscheme", "quant_range", "eps", "ch_axis", "is_dynamic", "fixed"):
        assert getattr(spec, fact) == getattr(inner, fact)
