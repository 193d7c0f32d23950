from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import qcc.quant as quant
from qcc.errors import ConfigError, DataError
from qcc.quant.observers import (
    OBSERVERS,
    EntropyObserver,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    Observer,
    ObserverSpec,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    RecordingObserver,
    ReuseInputObserver,
    observer_spec_from_dict,
    register_observer,
)

SYMMETRIC: dict[str, Any] = {"dtype": "int8", "qscheme": "per_tensor_symmetric"}

TENSOR_SPECS = [
    observer.with_args(**arguments)
    for observer in (
        MinMaxObserver,
        MovingAverageMinMaxObserver,
        HistogramObserver,
        PercentileObserver,
        EntropyObserver,
        MSEObserver,
    )
    for arguments in ({}, SYMMETRIC, {"dtype": "int8"}, {"reduce_range": True})
]
CHANNEL_SPECS = [
    PerChannelMinMaxObserver.with_args(ch_axis=1),
    PerChannelMinMaxObserver.with_args(dtype="int8", qscheme="per_channel_symmetric", ch_axis=-1),
    MovingAveragePerChannelMinMaxObserver.with_args(ch_axis=1, averaging_constant=0.2),
]
OTHER_SPECS = [
    FixedQParamsObserver.with_args(scale=1 / 256),
    PlaceholderObserver.with_args(dtype="int8", is_dynamic=True),
    RecordingObserver.with_args(),
    ReuseInputObserver.with_args(),
    quant.FakeQuantize.with_args(observer=MinMaxObserver.with_args(**SYMMETRIC)),
]
ALL_SPECS = TENSOR_SPECS + CHANNEL_SPECS + OTHER_SPECS
EXACT_MERGE = [spec for spec in TENSOR_SPECS if spec.observer not in (HistogramObserver,)]

floats = st.floats(-1e6, 1e6, width=32)
tensors = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_side=6), elements=floats)


def observed(spec: ObserverSpec, *arrays: Any) -> Observer:
    observer = spec("activation")
    for array in arrays:
        observer.update(array)
    return observer


def assert_same_state(a: Observer, b: Observer) -> None:
    first, second = a.state(), b.state()
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@pytest.mark.parametrize("spec", ALL_SPECS, ids=repr)
def test_specs_print_as_input_and_pass_through_json(spec: ObserverSpec) -> None:
    assert eval(repr(spec), dict(vars(quant))) == spec
    assert observer_spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert hash(spec) == hash(observer_spec_from_dict(spec.to_dict()))
    assert spec("x").spec is spec


def test_every_observer_is_tried() -> None:
    assert {spec.observer.__name__ for spec in ALL_SPECS} == set(OBSERVERS)


@pytest.mark.parametrize("spec", ALL_SPECS, ids=repr)
def test_state_survives_npz_without_pickle(spec: ObserverSpec) -> None:
    data = np.random.RandomState(1).normal(size=(3, 4, 5)).astype(np.float32)
    observer = observed(spec, data, 2 * data, [[[np.inf] * 5] * 4])
    buffer = io.BytesIO()
    arrays: dict[str, Any] = observer.state()
    np.savez(buffer, **arrays)
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as loaded:
        back = spec.from_state(dict(loaded), "activation")
    assert_same_state(observer, back)
    assert back.infinite == observer.infinite
    observer.update(3 * data)
    back.update(3 * data)
    assert_same_state(observer, back)


@pytest.mark.parametrize("spec", [*TENSOR_SPECS, *CHANNEL_SPECS], ids=repr)
def test_an_empty_observer_says_so(spec: ObserverSpec) -> None:
    observer = spec("layer1/conv:0")
    observer.update(np.zeros((0, 3, 2), np.float32))
    with pytest.raises(DataError, match=r"of 'layer1/conv:0' has seen no data"):
        observer.qparams()
    empty = spec.from_state(observer.state())
    with pytest.raises(DataError, match=f"^{spec.observer.__name__} has seen no data"):
        empty.qparams()


@pytest.mark.parametrize("spec", [*TENSOR_SPECS, *CHANNEL_SPECS], ids=repr)
def test_state_does_not_grow(spec: ObserverSpec) -> None:
    random = np.random.RandomState(0)
    observer = observed(spec, random.normal(size=(2, 4, 4)))
    before = {key: value.nbytes for key, value in observer.state().items()}
    for step in range(40):
        observer.update(random.normal(size=(1 + step, 4, 4)) * 2.0**step)
    assert {key: value.nbytes for key, value in observer.state().items()} == before


@pytest.mark.parametrize("spec", TENSOR_SPECS, ids=repr)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-30, -1e30])
def test_a_constant_tensor_has_a_valid_scale(spec: ObserverSpec, value: float) -> None:
    params = observed(spec, np.full((3, 3), value)).qparams()
    low, high = (float(bound[0]) for bound in params.real_range)
    assert params.scale[0] > 0
    assert low - params.scale[0] <= value <= high + params.scale[0]


@pytest.mark.parametrize("spec", TENSOR_SPECS, ids=repr)
def test_shapes_may_differ_between_calls(spec: ObserverSpec) -> None:
    data = np.random.RandomState(3).normal(size=60).astype(np.float32)
    ragged = observed(spec, data[:1].reshape(()), data[1:31].reshape(2, 3, 5), data[31:])
    flat = observed(spec, data[:1], data[1:31], data[31:])
    assert ragged.qparams() == flat.qparams()


@pytest.mark.parametrize("spec", [*TENSOR_SPECS, *CHANNEL_SPECS], ids=repr)
def test_infinities_are_counted_and_nan_is_refused(spec: ObserverSpec) -> None:
    data = np.random.RandomState(4).normal(size=(2, 3, 3)).astype(np.float32)
    spiked = data.copy()
    spiked[1, :, 1] = np.inf, -np.inf, np.inf
    observer = observed(spec, spiked)
    assert observer.infinite == 3
    assert np.isfinite(observer.qparams().scale).all()
    assert observed(spec, np.full((2, 3, 3), np.inf)).infinite == 18
    with pytest.raises(DataError, match="of 'activation' was given NaN"):
        observer.update(np.where(data > 0, np.nan, data))


@pytest.mark.parametrize("spec", EXACT_MERGE, ids=repr)
@settings(max_examples=25, deadline=None)
@given(parts=st.lists(tensors, min_size=2, max_size=4))
def test_merged_parts_equal_the_whole(spec: ObserverSpec, parts: list[Any]) -> None:
    merged = spec()
    for part in parts:
        merged.merge(observed(spec, part))
    whole = observed(spec, *parts)
    if spec.observer is MovingAverageMinMaxObserver:
        one, other = merged.state(), whole.state()
        scale = max(float(np.abs(part).max(initial=1)) for part in parts)
        for key in one:
            np.testing.assert_allclose(one[key], other[key], rtol=1e-5, atol=1e-5 * scale)
    else:
        assert_same_state(merged, whole)


@settings(max_examples=25, deadline=None)
@given(first=tensors, second=tensors)
def test_grid_merge_commutes(first: Any, second: Any) -> None:
    spec = PercentileObserver.with_args()
    one, other = observed(spec, first), observed(spec, second)
    one.merge(observed(spec, second))
    other.merge(observed(spec, first))
    assert_same_state(one, other)


def test_histogram_merge_is_close_to_the_whole() -> None:
    random = np.random.RandomState(5)
    parts = [random.laplace(size=20000).astype(np.float32) * k for k in (1, 3, 2)]
    spec = HistogramObserver.with_args()
    merged = spec()
    for part in parts:
        merged.merge(observed(spec, part))
    whole = observed(spec, *parts)
    assert merged.state()["histogram"].sum() == pytest.approx(60000)
    distance = np.abs(np.cumsum(merged.state()["histogram"] - whole.state()["histogram"])).max()
    assert distance < 60000 / 500
    assert merged.qparams().scale[0] == pytest.approx(whole.qparams().scale[0], rel=0.05)


def test_observers_of_other_specs_do_not_merge() -> None:
    one = MinMaxObserver.with_args()("a")
    with pytest.raises(ConfigError, match="cannot be merged with PercentileObserver of 'b'"):
        one.merge(PercentileObserver.with_args()("b"))
    with pytest.raises(ConfigError, match="their specs differ"):
        one.merge(MinMaxObserver.with_args(dtype="int8")())


def test_moving_average_follows_its_definition() -> None:
    observer = observed(
        MovingAverageMinMaxObserver.with_args(averaging_constant=0.25), [-1, 4], [-5, 8], [0, 0]
    )
    state = observer.state()
    assert float(state["min_val"]) == pytest.approx((-1 + 0.25 * -4) * 0.75)
    assert float(state["max_val"]) == pytest.approx((4 + 0.25 * 4) * 0.75)


@given(data=hnp.arrays(np.float32, (3, 4, 2), elements=floats), axis=st.integers(-3, 2))
def test_per_channel_equals_per_tensor_on_each_channel(data: Any, axis: int) -> None:
    spec = PerChannelMinMaxObserver.with_args(
        dtype="int8", qscheme="per_channel_symmetric", ch_axis=axis
    )
    params = observed(spec, data).qparams()
    channels = np.moveaxis(data, axis, 0)
    alone = [observed(MinMaxObserver.with_args(**SYMMETRIC), c).qparams() for c in channels]
    assert params.axis == axis
    assert params.scale == tuple(p.scale[0] for p in alone)


def test_channels_must_stay() -> None:
    observer = observed(PerChannelMinMaxObserver.with_args(), np.ones((3, 2)))
    with pytest.raises(DataError, match="saw 3 channels before and 4 now"):
        observer.update(np.ones((4, 2)))
    with pytest.raises(DataError, match="one part saw 3 channels, the other 2"):
        observer.merge(observed(PerChannelMinMaxObserver.with_args(), np.ones((2, 2))))
    with pytest.raises(DataError, match="rank 1"):
        observed(PerChannelMinMaxObserver.with_args(ch_axis=2), np.ones(3))


@pytest.mark.parametrize(
    ("observer", "arguments", "message"),
    [
        (MinMaxObserver, {"bins": 3}, "has no argument 'bins': it takes dtype, qscheme"),
        (MinMaxObserver, {"dtype": "float32"}, "cannot hold quantized values"),
        (MinMaxObserver, {"qscheme": "affine"}, "qscheme must be one of"),
        (MinMaxObserver, {"qscheme": "per_channel_affine"}, "works per tensor"),
        (PerChannelMinMaxObserver, {"qscheme": "per_tensor_affine"}, "works per channel"),
        (MinMaxObserver, {"dtype": 8}, "MinMaxObserver: dtype must be a string, got 8"),
        (MinMaxObserver, {"eps": "small"}, "eps must be a number, got 'small'"),
        (MinMaxObserver, {"reduce_range": 1}, "reduce_range must be True or False"),
        (MinMaxObserver, {"quant_max": True}, "quant_max must be an integer or None"),
        (HistogramObserver, {"bins": 1.5}, "bins must be an integer"),
        (MinMaxObserver, {"quant_min": 0}, "quant_min and quant_max together"),
        (MinMaxObserver, {"quant_min": 1, "quant_max": 9}, "must include 0"),
        (MinMaxObserver, {"quant_min": 0, "quant_max": 256}, "no range within uint8"),
        (MinMaxObserver, {"eps": 0.0}, "eps must be positive"),
        (MovingAverageMinMaxObserver, {"averaging_constant": 0}, r"must lie in \(0, 1\]"),
        (HistogramObserver, {"bins": 1}, "bins must be at least 2"),
        (PercentileObserver, {"bins": 1000}, "power of two"),
        (PercentileObserver, {"percentile": 20}, r"must lie in \(50, 100\]"),
        (EntropyObserver, {"dtype": "int16"}, "cannot place 65536 quantized levels"),
        (FixedQParamsObserver, {"scale": -1.0}, "positive finite"),
        (FixedQParamsObserver, {"quant_min": 0}, "quant_min and quant_max together"),
        (PlaceholderObserver, {"dtype": "complex64"}, "dtype must be one of"),
        (quant.FakeQuantize, {"observer": 3}, "observer must be a spec"),
    ],
)
def test_bad_arguments_are_refused(
    observer: type[Observer], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        observer.with_args(**arguments)


def test_unknown_observers_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no observer 'Magic': use one of MinMax"):
        observer_spec_from_dict({"type": "Magic"})
    with pytest.raises(ConfigError, match="an observer is written"):
        observer_spec_from_dict([1])
    assert register_observer(MinMaxObserver) is MinMaxObserver
    imposter = type("MinMaxObserver", (HistogramObserver,), {})
    with pytest.raises(ConfigError, match="already"):
        register_observer(imposter)


@pytest.mark.parametrize("spec", [*TENSOR_SPECS, *CHANNEL_SPECS], ids=repr)
def test_a_foreign_state_is_refused(spec: ObserverSpec) -> None:
    with pytest.raises(DataError, match="calibrate again"):
        spec.from_state({})
    state = observed(spec, np.ones((2, 2, 2))).state()
    key = "histogram" if "histogram" in state else "min_val"
    with pytest.raises(DataError, match="calibrate again"):
        spec.from_state({**state, key: np.ones((5, 5), np.float32)})


def test_observers_without_a_range() -> None:
    fixed = observed(FixedQParamsObserver.with_args(scale=1 / 128, zero_point=128), [9.0])
    assert fixed.qparams() == quant.QuantParams.make(1 / 128, 128, "uint8")
    assert fixed.spec.fixed == (1 / 128, 128)
    with pytest.raises(ConfigError, match="states a dtype only"):
        PlaceholderObserver.with_args()().qparams()
    with pytest.raises(ConfigError, match="take those of the op's input"):
        ReuseInputObserver.with_args()().qparams()
    record = observed(RecordingObserver.with_args(), [1.0], [[2.0, np.inf]])
    assert isinstance(record, RecordingObserver)
    assert [tensor.shape for tensor in record.tensors] == [(1,), (1, 2)]
    with pytest.raises(ConfigError, match="only records"):
        record.qparams()
