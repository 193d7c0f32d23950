from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph
from qcc.passes.import_clips import ImportClips
from qcc.passes.import_qdq import ImportQdq
from tests.passes.float_models import Net, apply, feeds_for, ops_of, run
from tests.passes.test_import_qdq import S8, U8, quantized, real


def imported(graph: Graph) -> Graph:
    copy = graph.clone()
    assert apply(copy, ImportClips(), ImportQdq()) == []
    feeds = {name: 4 * data for name, data in feeds_for(graph).items()}
    np.testing.assert_array_equal(run(copy, feeds)[0], run(graph, feeds)[0])
    return copy


@pytest.mark.parametrize(
    ("zero", "limits"),
    [(U8(0), (U8(0), U8(127))), (U8(77), (None, U8(127))), (S8(0), (S8(-127), None))],
)
def test_fewer_steps_than_the_type_has_become_limits_of_real_values(
    zero: Any, limits: tuple[Any, Any]
) -> None:
    net = Net()
    q = quantized(net, net.input("x", 40, 50), 0.037, zero)
    graph = imported(net.graph(real(net, net.op("Clip", q, *limits), 0.037, zero)))
    assert ops_of(graph) == {"q.dequantize": 1, "q.quantize": 1}
    quant = graph.nodes[0].output.tensor.quant
    assert quant is not None
    storage = np.iinfo(zero.dtype)
    low, high = limits
    assert quant.range == (
        storage.min if low is None else low,
        storage.max if high is None else high,
    )


def test_weights_are_limited_now() -> None:
    net = Net()
    q = quantized(net, net.normal(4, 5), 0.005, S8(0))  # type: ignore[arg-type]
    w = real(net, net.op("Clip", q, S8(-127), S8(127)), 0.005, S8(0))
    graph = imported(net.graph(net.op("MatMul", net.input("x", 3, 4), w)))
    assert ops_of(graph) == {"MatMul": 1, "q.dequantize": 1}
    (weight,) = [v for v in graph.constants.values() if v.tensor.quant is not None]
    assert np.asarray(weight.constant).min() == -127


def test_other_readers_of_the_integers_keep_them() -> None:
    net = Net()
    q = quantized(net, net.input("x", 40, 50), 0.037, U8(9))
    a = real(net, net.op("Clip", q, U8(0), U8(127)), 0.037, U8(9))
    graph = imported(net.graph(net.op("Add", a, real(net, q, 0.037, U8(9)))))
    assert ops_of(graph) == {"Add": 1, "q.dequantize": 2, "q.quantize": 2}


def test_limits_that_the_model_computes_stay_where_they_are() -> None:
    net = Net()
    q = quantized(net, net.input("x", 4, 5), 0.037, U8(9))
    high = net.op("Squeeze", net.input("high", 1, element="uint8"))
    graph = net.graph(real(net, net.op("Clip", q, None, high), 0.037, U8(9)))
    before = ops_of(graph)
    apply(graph, ImportClips())
    assert ops_of(graph) == before


def test_limits_between_two_steps_stay_a_clip() -> None:
    net = Net()
    x = net.op("Clip", net.input("x", 40, 50), 0.0, 1.0)
    graph = imported(net.graph(real(net, quantized(net, x, 0.037, U8(9)), 0.037, U8(9))))
    assert ops_of(graph) == {"Clip": 1, "q.dequantize": 1, "q.quantize": 1}


def test_limits_without_zero_stay_a_clip() -> None:
    net = Net()
    x = net.op("Clip", net.input("x", 40, 50), 0.5, 2.0)
    graph = imported(net.graph(real(net, quantized(net, x, 0.25, U8(9)), 0.25, U8(9))))
    assert ops_of(graph) == {"Clip": 1, "q.dequantize": 1, "q.quantize": 1}
