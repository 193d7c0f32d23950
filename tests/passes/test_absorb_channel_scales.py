from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph
from qcc.ir.types import Quant
from qcc.passes.absorb_channel_scales import AbsorbChannelScales
from qcc.passes.import_qdq import ImportQdq
from tests.passes.float_models import Net, apply, feeds_for, ops_of, run
from tests.passes.test_import_qdq import S8, U8, both, quantized, real

CHANNELS = 4
STEPS = np.array([0.02, 0.01, 0.03, 0.005], np.float32)


def weights(net: Net, *shape: int, axis: int | None = 0) -> str:
    stored = net.random.integers(-127, 128, shape).astype(S8)
    if axis is None:
        return real(net, stored, 0.01, S8(0))
    scales = np.linspace(0.004, 0.01, shape[0], dtype=np.float32)
    return real(net, stored, scales, np.zeros(shape[0], S8), axis=axis)


def by_channel(net: Net, x: str, zeros: Any = None) -> str:
    zeros = np.zeros(CHANNELS, U8) if zeros is None else zeros
    return real(net, quantized(net, x, STEPS, zeros, axis=1), STEPS, zeros, axis=1)


def depthwise(net: Net, x: str, *, axis: int | None = 0, times: int = 1) -> str:
    w = weights(net, CHANNELS * times, 1, 3, 3, axis=axis)
    return net.op("Conv", x, w, group=CHANNELS)


def imported(net: Net, y: str) -> Graph:
    graph = net.graph(both(net, y, 0.05, U8(128)))
    assert apply(graph, ImportQdq()) == []
    return graph


def absorbed(graph: Graph) -> Graph:
    """The graph after the pass; it gives the same bytes but for a few rounded otherwise."""
    copy = graph.clone()
    assert apply(copy, AbsorbChannelScales()) == []
    feeds = feeds_for(graph)
    wanted, found = run(graph, feeds)[0], run(copy, feeds)[0]
    steps = np.rint((wanted - found) / np.float32(0.05))
    assert np.abs(steps).max() <= 1
    assert np.mean(steps != 0) < 0.01
    return copy


def stored_quants(graph: Graph) -> list[Quant | None]:
    return [node.output.tensor.quant for node in graph.nodes if node.op == "q.quantize"]


@pytest.mark.parametrize("activation", [None, "Relu"])
@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("bias", ["none", "float", "int32"])
def test_scales_of_channels_go_into_the_weights_on_both_sides(
    activation: str | None, axis: int | None, bias: str
) -> None:
    net = Net()
    given: list[Any] = []
    if bias == "float":
        given = [net.normal(CHANNELS)]
    elif bias == "int32":
        stored = net.random.integers(-900, 900, CHANNELS).astype(np.int32)
        given = [real(net, stored, np.full(CHANNELS, 5e-4, np.float32), axis=0)]
    x = both(net, net.input("x", 1, 3, 12, 12))
    y = net.op("Conv", x, weights(net, CHANNELS, 3, 1, 1, axis=axis), *given)
    y = y if activation is None else net.op(activation, y)
    graph = absorbed(imported(net, depthwise(net, by_channel(net, y), axis=axis)))
    assert stored_quants(graph)[1] == Quant.make("uint8", 0.03, 0)
    axes = {v.tensor.quant.axis for v in graph.constants.values() if v.tensor.quant is not None}
    assert axes == {0}


def test_a_clip_that_saturation_implies_goes() -> None:
    net = Net()
    y = net.op("Conv", both(net, net.input("x", 1, 3, 12, 12)), weights(net, CHANNELS, 3, 1, 1))
    y = net.op("Clip", y, 0.0, float(STEPS.max()) * 255)
    graph = absorbed(imported(net, depthwise(net, by_channel(net, y))))
    assert ops_of(graph) == {"Conv": 2, "q.dequantize": 5, "q.quantize": 3}


def test_a_depthwise_convolution_may_have_several_outputs_a_channel() -> None:
    net = Net()
    y = net.op("Conv", both(net, net.input("x", 1, 3, 12, 12)), weights(net, CHANNELS, 3, 1, 1))
    graph = absorbed(imported(net, depthwise(net, by_channel(net, y), times=2)))
    assert stored_quants(graph)[1] == Quant.make("uint8", 0.03, 0)


def refused(graph: Graph, words: str) -> None:
    before = ops_of(graph)
    refusals = apply(graph, AbsorbChannelScales())
    assert any(words in sentence for _, sentence in refusals), refusals
    assert ops_of(graph) == before


def test_channels_with_zero_points_of_their_own_stay() -> None:
    net = Net()
    y = net.op("Conv", both(net, net.input("x", 1, 3, 12, 12)), weights(net, CHANNELS, 3, 1, 1))
    zeros = np.array([0, 1, 2, 3], U8)
    refused(imported(net, depthwise(net, by_channel(net, y, zeros))), "zero points")


def test_a_clip_within_what_can_be_stored_stays() -> None:
    net = Net()
    y = net.op("Conv", both(net, net.input("x", 1, 3, 12, 12)), weights(net, CHANNELS, 3, 1, 1))
    y = net.op("Clip", y, 0.0, 6.0)
    refused(imported(net, depthwise(net, by_channel(net, y))), "clips within")


def test_a_value_that_no_convolution_makes_stays() -> None:
    net = Net()
    y = net.op("Neg", net.input("x", 1, CHANNELS, 12, 12))
    refused(imported(net, depthwise(net, by_channel(net, y))), "no convolution")


def test_a_value_that_others_read_too_stays() -> None:
    net = Net()
    y = net.op("Conv", both(net, net.input("x", 1, 3, 12, 12)), weights(net, CHANNELS, 3, 1, 1))
    z = depthwise(net, by_channel(net, y))
    total = net.op("ReduceMax", y, keepdims=1)
    refused(imported(net, net.op("Add", z, total)), "other nodes read")


def test_channels_that_are_mixed_stay() -> None:
    net = Net()
    y = net.op("Conv", both(net, net.input("x", 1, 3, 12, 12)), weights(net, CHANNELS, 3, 1, 1))
    y = net.op("Conv", by_channel(net, y), weights(net, 5, CHANNELS, 1, 1))
    refused(imported(net, y), "not only depthwise")
