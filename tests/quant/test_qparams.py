from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.errors import ConfigError, DataError
from qcc.ir.types import Quant
from qcc.quant.qparams import DEFAULT_EPS, QuantParams, affine_qparams

finite = st.floats(-(2.0**100), 2.0**100, width=32)


@given(a=finite, b=finite, storage=st.sampled_from(["uint8", "int8", "int16", "uint4"]))
def test_affine_covers_the_range_and_zero(a: float, b: float, storage: str) -> None:
    params = affine_qparams(min(a, b), max(a, b), storage)
    low, high = (bound[0] for bound in params.real_range)
    step = params.scale[0]
    assert low - step <= min(a, b, 0.0)
    assert high + step >= max(a, b, 0.0)
    assert params.quant_min <= params.zero_point[0] <= params.quant_max
    assert params.scale[0] >= DEFAULT_EPS
    assert params.scale[0] == float(np.float32(params.scale[0]))


@given(a=finite)
def test_symmetric_int8_divides_by_127(a: float) -> None:
    params = affine_qparams(min(a, 0.0), max(a, 0.0), "int8", symmetric=True)
    assert (params.quant_min, params.quant_max) == (-127, 127)
    expected = max(np.float32(abs(a)) / np.float32(127), np.float32(DEFAULT_EPS))
    assert params.scale == (float(expected),)
    assert params.zero_point == (0,)


def test_torch_full_symmetric_range_divides_by_127_5() -> None:
    params = affine_qparams(-1.0, 0.5, "int8", symmetric=True, quant_min=-128, quant_max=127)
    assert params.scale == (float(np.float32(1) / np.float32(127.5)),)


@pytest.mark.parametrize(
    ("storage", "bounds", "zero_point"),
    [
        ("uint8", {}, 128),
        ("uint8", {"quant_min": 0, "quant_max": 127}, 63),
        ("uint16", {}, 32768),
        ("int16", {}, 0),
        ("int8", {"quant_min": -64, "quant_max": 63}, 0),
    ],
)
def test_symmetric_zero_points(storage: str, bounds: dict[str, int], zero_point: int) -> None:
    assert affine_qparams(-1, 2, storage, symmetric=True, **bounds).zero_point == (zero_point,)


def test_a_range_of_no_width_has_a_positive_scale() -> None:
    params = affine_qparams([0.0, 0.0], [0.0, 1.0], "uint8", axis=0)
    assert params.scale[0] == DEFAULT_EPS
    assert params.scale[1] == float(np.float32(1) / np.float32(255))


@pytest.mark.parametrize(("low", "high"), [(0, np.inf), (np.nan, 1), (-3.4e38, 3.4e38)])
def test_a_range_that_float32_cannot_hold_is_refused(low: float, high: float) -> None:
    with pytest.raises(DataError, match="wider than float32"):
        affine_qparams(low, high, "uint8")


def test_bad_parts_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot hold quantized values"):
        QuantParams.make(1.0, 0, "float32")
    with pytest.raises(ConfigError, match="one zero point for each scale"):
        QuantParams((1.0, 2.0), (0,), "uint8", 0)
    with pytest.raises(ConfigError, match="give an axis"):
        QuantParams.make([1.0, 2.0], 0, "uint8")
    with pytest.raises(ConfigError, match="positive finite"):
        QuantParams.make(0.0, 0, "uint8")
    with pytest.raises(ConfigError, match="zero point must lie"):
        QuantParams.make(1.0, 300, "uint8")
    with pytest.raises(ConfigError, match="no range within int8"):
        QuantParams.make(1.0, 0, "int8", quant_min=-128, quant_max=200)


def test_value_semantics_and_conversions() -> None:
    params = QuantParams.make([0.1, 0.2], [3, 4], "uint8", axis=1, quant_max=127)
    assert hash(params) == hash(eval(repr(params)))
    assert params == eval(repr(params))
    assert params.to_quant() == Quant.make("uint8", [0.1, 0.2], [3, 4], 1, 0, 127)
    assert QuantParams.from_quant(params.to_quant()) == params
    scale, zero = params.to_arrays()
    assert scale.dtype == np.float32
    assert zero.dtype == np.uint8
    assert zero.tolist() == [3, 4]
    scalar, zero = QuantParams.make(0.5, -7, "int4").to_arrays()
    assert scalar.shape == zero.shape == ()
    assert zero.dtype == np.int8
