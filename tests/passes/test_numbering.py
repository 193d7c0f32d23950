"""Observers, scales, numbers: from a plan to a NUMBERED graph."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcc.backends.onnx.config import CONFIG as ONNX
from qcc.backends.x86.config import CONFIG as X86
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph, Stage
from qcc.ir.types import Quant, float32
from qcc.ir.verify import verify
from qcc.passes.assign_numbers import Numbering, assign_numbers, is_implied
from qcc.passes.insert_observers import insert_observers, observers_of, plan_observation
from qcc.passes.quantize_weights import BIAS_LIMIT, quantize_bias, quantize_weight
from qcc.passes.scales import CONCAT_SHARE_RATIO, resolve_scales
from qcc.passes.select_fusions import select_fusions
from qcc.quant.backend_config import BackendConfig
from qcc.quant.calibration.calibrator import Calibrator
from qcc.quant.observers import MinMaxObserver
from qcc.quant.qconfig import QConfig, default_per_channel_weight_observer
from qcc.quant.qconfig_mapping import QConfigMapping, get_default_qconfig_mapping
from qcc.quant.qparams import QuantParams
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import conv, feeds, residual_net, weights

MINMAX = QConfigMapping().set_global(
    QConfig(MinMaxObserver.with_args(), default_per_channel_weight_observer)
)


def numbered(
    graph: Graph, backend: BackendConfig = X86, mapping: QConfigMapping = MINMAX
) -> tuple[Graph, Numbering]:
    plan = select_fusions(graph, backend, mapping)
    observation = plan_observation(plan)
    calibrator = Calibrator(graph, observation.observed)
    calibrator.run(feeds(graph))
    scales = resolve_scales(plan, observation, calibrator.parameters)
    clone = graph.clone()
    copied = plan.on(graph, clone)
    insert_observers(clone, copied, observation)
    verify(clone, Stage.OBSERVED)
    done = assign_numbers(clone, copied, observation, scales)
    verify(clone, Stage.NUMBERED)
    return clone, done


@pytest.mark.parametrize("backend", [X86, ONNX])
def test_a_numbered_graph_is_close_to_the_float_one(backend: BackendConfig) -> None:
    graph = residual_net()
    result, _ = numbered(graph, backend)
    for feed in feeds(graph, 3):
        exact = evaluate(graph, feed)
        found = evaluate(result, feed)
        assert list(found) == list(exact)
        for name, value in exact.items():
            np.testing.assert_allclose(found[name], value, atol=0.03)


def test_one_observer_a_value_and_one_quantize() -> None:
    graph = residual_net()
    plan = select_fusions(graph, X86, MINMAX)
    observation = plan_observation(plan)
    clone = graph.clone()
    insert_observers(clone, plan.on(graph, clone), observation)
    seen = observers_of(clone)
    assert len(seen) == len(plan.quantized_values()) == len(observation.slots)
    assert len({node.operand(0) for node in seen}) == len(seen)
    result, _ = numbered(graph)
    sources = [node.operand(0) for node in result.nodes if node.op == "q.quantize"]
    assert len(sources) == len(set(sources)) == len(seen)


def test_each_reader_has_its_own_dequantize() -> None:
    result, _ = numbered(residual_net(), ONNX)
    for node in result.nodes:
        if node.op == "q.dequantize" and not node.operand(0).is_constant:
            assert len(node.output.users) == 1


def test_weights_and_biases_are_integers() -> None:
    result, done = numbered(residual_net())
    for node in result.nodes:
        if node.op not in ("Conv", "Gemm"):
            continue
        weight = node.operand(1).producer
        assert weight is not None
        quant = weight.operand(0).tensor.quant
        assert quant is not None
        assert (quant.storage, quant.axis, quant.range) == ("int8", 0, (-127, 127))
        if node.input(2) is None:
            continue
        bias = node.operand(2).producer
        x = node.operand(0).producer
        assert bias is not None
        assert x is not None
        stored, source = bias.operand(0).tensor.quant, x.operand(0).tensor.quant
        assert stored is not None
        assert source is not None
        assert stored.storage == "int32"
        expected = np.float64(source.scale[0]) * quant.scales
        np.testing.assert_allclose(stored.scales, expected, rtol=1e-6)
    assert not done.notes


def test_a_relu_that_saturation_implies_is_dropped() -> None:
    result, done = numbered(residual_net())
    assert not [node for node in result.nodes if node.op == "Relu"]
    assert len(done.dropped) == 2


@pytest.mark.parametrize(
    ("low", "high", "quant", "implied"),
    [
        (0.0, 6.0, Quant.make("uint8", 6 / 255, 0), True),
        (0.0, 6.0, Quant.make("uint8", 5 / 255, 0), True),
        (0.0, 6.0, Quant.make("uint8", 8 / 255, 0), False),
        (0.0, None, Quant.make("uint8", 0.1, 0), True),
        (0.0, None, Quant.make("uint8", 0.1, 3), False),
        (0.0, None, Quant.make("int8", 0.1, -128), True),
        (0.0, None, Quant.make("int8", 0.1, -127, low=-127), True),
        (None, None, Quant.make("uint8", 0.1, 3), True),
    ],
)
def test_which_clips_are_implied(
    low: float | None, high: float | None, quant: Quant, implied: bool
) -> None:
    b = GraphBuilder()
    x = b.input("x", float32(4))
    b.output(b.op.Clip(x, low, high))
    assert is_implied(b.graph.nodes[0], quant) is implied


def test_graph_outputs_keep_their_names() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = conv(b, x, 4, name="a")
    z = conv(b, b.op.MaxPool(y, kernel_shape=[1, 1]), 4, name="b")
    y.name, z.name = "middle", "end"
    graph = b.output(y, z)
    result, _ = numbered(graph, ONNX)
    assert [value.name for value in result.outputs] == ["middle", "end"]
    assert all(value.tensor.is_float for value in result.outputs)
    assert list(evaluate(result, feeds(graph)[0])) == ["middle", "end"]


def two_branches(factor: float, *, shared: bool) -> Graph:
    """Concat of two convs whose ranges differ by ``factor``; ``shared``: others read them too."""
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    w = weights(4, 3, 1, 1)
    small = b.op.Conv(x, w, _name="small")
    large = b.op.Conv(x, w * np.float32(factor), _name="large")
    both = b.op.Concat(small, large, axis=1, _name="cat")
    outputs = [b.op.Conv(both, weights(4, 8, 1, 1), _name="after")]
    if shared:
        outputs.append(b.op.Conv(small, weights(4, 4, 1, 1), _name="other"))
    return b.output(*outputs)


@pytest.mark.parametrize(
    ("factor", "shared", "equal"),
    [(1.0, True, True), (100.0, False, True), (100.0, True, False)],
)
def test_concat_operands_share_a_scale_unless_it_costs(
    factor: float, shared: bool, equal: bool
) -> None:
    graph = two_branches(factor, shared=shared)
    result, done = numbered(graph)
    quants = {g: q for g, q in done.quants.items() if q is not None}
    keys = {node.label: node.output.name for node in graph.nodes}
    small, cat = quants[keys["small"]], quants[keys["cat"]]
    assert (small == cat) is equal
    assert quants[keys["large"]].scale[0] == pytest.approx(cat.scale[0])
    assert CONCAT_SHARE_RATIO < 100
    verify(result, Stage.NUMBERED)


def test_movement_and_pools_share_and_fixed_ranges_are_fixed() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = conv(b, x, 4, name="c")
    pooled = b.op.MaxPool(y, kernel_shape=[2, 2], strides=[2, 2], _name="pool")
    gate = b.op.Sigmoid(b.op.Transpose(pooled, perm=[0, 1, 3, 2], _name="t"), _name="gate")
    graph = b.output(conv(b, gate, 4, name="d"))
    _, done = numbered(graph, X86, get_default_qconfig_mapping("x86"))
    keys = {node.label: node.output.name for node in graph.nodes}
    assert done.quants[keys["pool"]] == done.quants[keys["c"]] == done.quants[keys["t"]]
    assert done.quants[keys["gate"]] == Quant.make("uint8", 1 / 256, 0)


# -- weights and biases ----------------------------------------------------------------------------

PER_CHANNEL = default_per_channel_weight_observer


def test_empty_channels_take_the_scale_of_the_others() -> None:
    w = weights(5, 3, 1, 1)
    w[2] = 0
    found = quantize_weight("c", w, 0, PER_CHANNEL, 0.01, None)
    others = np.delete(found.quant.scales, 2)
    assert found.quant.scales[2] == np.float32(np.median(others))
    zeros = quantize_weight("c", np.zeros_like(w), 0, PER_CHANNEL, 0.01, np.ones(5, np.float32))
    assert np.isfinite(zeros.quant.scales).all()
    assert not zeros.stored.any()


@given(
    st.lists(st.floats(2.0**-90, 1024.0, width=32), min_size=1, max_size=9),
    st.floats(2.0**-26, 8.0, width=32),
    st.floats(0.0, 2.0**20, width=32),
)
def test_no_bias_passes_its_limit(scales: list[float], input_scale: float, bias: float) -> None:
    w = np.asarray(scales, np.float32).reshape(-1, 1, 1, 1)
    biases = np.full(len(scales), bias, np.float32)
    biases[::2] *= -1
    found = quantize_weight("c", w, 0, PER_CHANNEL, input_scale, biases)
    units = found.quant.scales.astype(np.float64) * input_scale
    assert (np.abs(biases) / units <= BIAS_LIMIT).all()
    stored, quant = quantize_bias(biases, input_scale, found.quant)
    assert np.abs(stored).max(initial=0) <= BIAS_LIMIT
    assert quant.storage == "int32"
    real = stored * quant.scales.astype(np.float64)
    assert (np.abs(real - biases) <= quant.scales * 0.51 + np.abs(biases) * 1e-6).all()


def test_a_raised_scale_is_noted() -> None:
    w = np.asarray([1e-20, 1.0], np.float32).reshape(2, 1)
    found = quantize_weight("fc", w, 0, PER_CHANNEL, 0.1, np.asarray([1e4, 1e4], np.float32))
    assert found.notes == (
        "the weight scale of 1 channels of 'fc' was raised so that the bias fits int32",
    )


def test_per_channel_is_never_worse_than_per_tensor() -> None:
    w = weights(6, 4, 3, 3) * np.logspace(-3, 0, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    per_tensor = MinMaxObserver.with_args(dtype="int8", qscheme="per_tensor_symmetric")
    errors = [
        np.abs(quantize_weight("c", w, 0, spec, 0.1, None).real - w).mean()
        for spec in (PER_CHANNEL, per_tensor)
    ]
    assert errors[0] < errors[1] / 2


def test_a_missing_observer_is_an_error_of_the_data() -> None:
    graph = residual_net()
    plan = select_fusions(graph, X86, MINMAX)
    given_scales = resolve_scales(
        plan, plan_observation(plan), lambda name: QuantParams.make(0.1, 128, "uint8")
    )
    assert set(given_scales) == {value.name for value in plan.quantized_values()}
