from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph
from qcc.passes.absorb_affine import AbsorbAffine
from qcc.passes.import_qdq import ImportQdq
from tests.passes.float_models import Net, apply, feeds_for, ops_of, run
from tests.passes.test_absorb_channel_scales import CHANNELS, weights
from tests.passes.test_import_qdq import S8, U8, both, real


def conv(net: Net, *, axis: int | None = 0, bias: str = "none") -> str:
    given: list[Any] = []
    if bias == "float":
        given = [net.normal(CHANNELS)]
    elif bias == "int32":
        stored = net.random.integers(-900, 900, CHANNELS).astype(np.int32)
        given = [real(net, stored, np.full(CHANNELS, 5e-4, np.float32), axis=0)]
    x = both(net, net.input("x", 1, 3, 12, 12))
    return net.op("Conv", x, weights(net, CHANNELS, 3, 1, 1, axis=axis), *given)


def channel(net: Net, *, low: float = 0.5) -> Any:
    return net.random.uniform(low, 2, (1, CHANNELS, 1, 1)).astype(np.float32)


def normalized(net: Net, y: str, *, sign: float = 1.0) -> str:
    gamma = net.random.uniform(0.5, 2, CHANNELS).astype(np.float32) * np.float32(sign)
    variance = net.random.uniform(0.5, 2, CHANNELS).astype(np.float32)
    operands = (gamma, net.normal(CHANNELS), net.normal(CHANNELS), variance)
    return net.op("BatchNormalization", y, *operands)


def imported(net: Net, y: str) -> Graph:
    graph = net.graph(both(net, net.op("Relu", y), 0.05, U8(0)))
    assert apply(graph, ImportQdq()) == []
    return graph


def absorbed(graph: Graph) -> Graph:
    """The graph after the pass; it gives the same bytes but for a few rounded otherwise."""
    copy = graph.clone()
    apply(copy, AbsorbAffine())
    feeds = feeds_for(graph)
    wanted, found = run(graph, feeds)[0], run(copy, feeds)[0]
    steps = np.rint((wanted - found) / np.float32(0.05))
    assert np.abs(steps).max() <= 1
    assert np.mean(steps != 0) < 0.01
    return copy


ALONE = {"Conv": 1, "Relu": 1, "q.dequantize": 3, "q.quantize": 2}


@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("bias", ["none", "float", "int32"])
def test_a_batch_normalization_of_training_goes_into_scales_and_bias(
    axis: int | None, bias: str
) -> None:
    net = Net()
    y = net.op("Div", conv(net, axis=axis, bias=bias), channel(net))
    y = normalized(net, net.op("Add", y, channel(net)))
    graph = imported(net, y)
    before = [np.asarray(v.constant) for v in graph.constants.values() if _is_weight(v)]
    result = absorbed(graph)
    assert ops_of(result) == ALONE
    (weight,) = [v for v in result.constants.values() if _is_weight(v)]
    np.testing.assert_array_equal(weight.constant, before[0])


def _is_weight(value: Any) -> bool:
    quant = value.tensor.quant
    return quant is not None and quant.storage == "int8"


def test_negative_factors_change_the_sign_of_integers() -> None:
    net = Net()
    result = absorbed(imported(net, normalized(net, conv(net), sign=-1.0)))
    assert ops_of(result) == ALONE


def test_constants_may_stand_on_either_side_where_order_does_not_matter() -> None:
    net = Net()
    y = net.op("Sub", channel(net), net.op("Mul", channel(net), conv(net)))
    assert ops_of(absorbed(imported(net, y))) == ALONE


def test_integers_that_cannot_be_negated_stay() -> None:
    net = Net()
    stored = np.full((CHANNELS, 3, 1, 1), -128, S8)
    x = both(net, net.input("x", 1, 3, 12, 12))
    y = net.op("Conv", x, real(net, stored, 0.001, S8(0)))
    graph = imported(net, normalized(net, y, sign=-1.0))
    apply(graph, AbsorbAffine())
    assert ops_of(graph)["BatchNormalization"] == 1


@pytest.mark.parametrize("shape", [(CHANNELS,), (1, 1, 1, 12), (1, CHANNELS, 12, 12)])
def test_factors_of_other_axes_stay(shape: tuple[int, ...]) -> None:
    net = Net()
    sizes = (12,) if shape == (CHANNELS,) else shape
    y = net.op("Mul", conv(net), net.random.uniform(0.5, 2, sizes).astype(np.float32))
    graph = imported(net, y)
    apply(graph, AbsorbAffine())
    assert ops_of(graph)["Mul"] == 1


def test_a_value_that_others_read_too_keeps_its_factor() -> None:
    net = Net()
    y = conv(net)
    scaled = net.op("Mul", y, channel(net))
    graph = imported(net, net.op("Add", scaled, y))
    apply(graph, AbsorbAffine())
    assert ops_of(graph)["Mul"] == 1
