"""Bias correction, the two-sided walk and the guard against noisy groups."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.onnx.config import CONFIG as ONNX
from qcc.backends.x86.config import CONFIG as X86
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph, Node, Stage
from qcc.ir.types import float32
from qcc.ir.verify import verify
from qcc.passes.segments import cut, last_uses
from qcc.passes.select_fusions import select_fusions
from qcc.passes.walk import ChannelMeans, Noise
from qcc.pipeline import PreparedModel, convert, prepare
from qcc.quant.backend_config import BackendConfig
from qcc.quant.qconfig_mapping import get_default_qconfig_mapping
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import conv, feeds, residual_net, weights


def chain(depth: int = 3, *, bias: bool = True) -> Graph:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    for index in range(depth):
        x = b.op.Relu(conv(b, x, 6, name=f"c{index}", bias=bias))
    return b.output(conv(b, x, 4, name="last", bias=bias))


def calibrated(graph: Graph, backend: BackendConfig = X86, count: int = 12) -> PreparedModel:
    return prepare(graph, None, backend).calibrate(feeds(graph, count))


def channel_error(graph: Graph, quantized: Graph, samples: list[dict[str, Array]]) -> float:
    """The largest mean error of an output channel."""
    total = np.zeros(0)
    for feed in samples:
        (exact,), (found,) = evaluate(graph, feed).values(), evaluate(quantized, feed).values()
        error = (found - exact).mean(axis=(0, 2, 3), dtype=np.float64)
        total = error if total.size == 0 else total + error
    return float(np.abs(total).max() / len(samples))


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_error_of_channels_shrinks(bias: bool) -> None:
    graph = chain(bias=bias)
    prepared = calibrated(graph)
    samples = feeds(graph, 12)
    before = channel_error(graph, convert(prepared, bias_correction=False).graph, samples)
    after = channel_error(graph, convert(prepared).graph, samples)
    assert after < before / 5


def test_a_conv_without_bias_gets_one() -> None:
    graph = chain(bias=False)
    corrected = convert(calibrated(graph)).graph
    verify(corrected, Stage.NUMBERED)
    assert all(len(n.inputs) == 3 for n in corrected.nodes if n.op == "Conv")


@pytest.mark.parametrize("backend", [X86, ONNX])
def test_every_group_is_measured(backend: BackendConfig) -> None:
    graph = residual_net()
    quantized = convert(calibrated(graph, backend))
    ratios = [row.sqnr_db for row in quantized.report.nodes if row.is_int8]
    assert all(ratio is not None and ratio > 20 for ratio in ratios)
    assert [row.op for row in quantized.report.nodes if not row.is_int8] in (["Softmax"], [])


def test_converting_twice_gives_the_same_model() -> None:
    graph = chain()
    prepared = calibrated(graph)
    first, second = convert(prepared).graph, convert(prepared).graph
    assert [str(node) for node in first.nodes] == [str(node) for node in second.nodes]
    for name, value in first.constants.items():
        np.testing.assert_array_equal(value.constant, second.constants[name].constant)
    assert prepared.graph.stage is Stage.FLOAT


def test_a_group_that_is_too_noisy_stays_float_and_says_why() -> None:
    graph = chain()
    prepared = calibrated(graph)
    rows = {row.name: row for row in convert(prepared).report.nodes}
    assert all(row.is_int8 for row in rows.values())
    strict = convert(prepared, least_local_db=1000.0)
    assert not any(row.is_int8 for row in strict.report.nodes)
    assert all("signal-to-noise" in row.reason for row in strict.report.nodes)
    feed = feeds(graph, 1)[0]
    (exact,), (found,) = evaluate(graph, feed).values(), evaluate(strict.graph, feed).values()
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def test_only_the_noisy_group_goes_back() -> None:
    """One channel is thousands of times louder than the rest: one scale cannot hold them all."""
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    w = weights(16, 3, 1, 1)
    w[0] *= 3000
    loud = b.op.Conv(x, w, _name="loud")
    quiet = b.op.Conv(loud, weights(6, 16, 1, 1) * _mute(16), _name="quiet")
    graph = b.output(conv(b, b.op.Relu(quiet), 4, name="last"))
    rows = {row.name: row for row in convert(calibrated(graph, count=6)).report.nodes}
    assert rows["last"].is_int8
    assert not rows["quiet"].is_int8
    assert "signal-to-noise" in rows["quiet"].reason


def _mute(channels: int) -> Array:
    """Weights of 0 for the first input channel."""
    keep = np.ones((1, channels, 1, 1), np.float32)
    keep[0, 0] = 0
    return keep


# -- the parts -------------------------------------------------------------------------------------


def test_steps_cover_every_node_once_and_forget_in_time() -> None:
    graph = residual_net()
    plan = select_fusions(graph, ONNX, get_default_qconfig_mapping("onnx"))
    steps = cut(graph, plan)
    assert len(steps) == 2 * len(plan.groups) + 1
    covered: list[Node] = [node for step in steps for node in step.nodes]
    assert sorted(map(id, covered)) == sorted(map(id, graph.nodes))
    dead = last_uses(steps, graph.outputs)
    alive = set(graph.inputs)
    for step, gone in zip(steps, dead, strict=True):
        assert set(step.inputs) <= alive
        alive |= set(step.outputs)
        alive -= set(gone)
    assert not alive


def test_noise_and_means() -> None:
    noise = Noise()
    noise.add(np.asarray([3.0, 4.0]), np.asarray([3.0, 3.5]))
    assert noise.sqnr_db == pytest.approx(20.0)
    equal = Noise()
    equal.add(np.ones(3), np.ones(3))
    assert equal.sqnr_db == 200.0
    means = ChannelMeans(1)
    means.add(np.asarray([[[1.0], [2.0]]], np.float32))
    means.add(np.asarray([[[3.0], [6.0]], [[2.0], [1.0]]], np.float32))
    np.testing.assert_allclose(means.means, [2.0, 3.0])
