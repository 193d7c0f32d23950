from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qcc
from qcc.ir.core import Graph
from qcc.passes.import_qdq import ImportQdq
from qcc.passes.quantize_movements import QuantizeMovements
from tests.passes.float_models import Net, apply, feeds_for, ops_of, run
from tests.passes.test_absorb_channel_scales import weights
from tests.passes.test_import_qdq import U8, both


def stored(graph: Graph) -> Graph:
    copy = graph.clone()
    apply(copy, ImportQdq(), QuantizeMovements())
    feeds = feeds_for(graph)
    for wanted, found in zip(run(graph, feeds), run(copy, feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)
    return copy


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("MaxPool", [], {"kernel_shape": [2, 2]}),
        ("Reshape", [np.array([1, 4, 16])], {}),
        ("Gather", [np.array([2, 0])], {"axis": 1}),
        ("Resize", [None, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
    ],
)
def test_what_is_moved_lies_on_the_same_grid(
    op: str, operands: list[Any], attributes: dict[str, Any]
) -> None:
    net = Net()
    moved = net.op(op, both(net, net.input("x", 1, 4, 4, 4)), *operands, **attributes)
    graph = stored(net.graph(net.op("Relu", moved)))
    assert ops_of(graph) == {op: 1, "Relu": 1, "q.dequantize": 2, "q.quantize": 2}


def test_a_join_of_equal_scales_is_stored_and_one_of_others_is_not() -> None:
    net = Net()
    x = both(net, net.input("x", 1, 4, 4, 4))
    same = net.op("Concat", x, both(net, net.op("Neg", x)), axis=1)
    other = net.op("Concat", x, both(net, net.op("Abs", x), 0.3), axis=1)
    graph = stored(net.graph(net.op("Relu", same), net.op("Relu", other)))
    first, second = (node.output.users for node in graph.nodes if node.op == "Concat")
    assert [user.op for user in first] == ["q.quantize"]
    assert [user.op for user in second] == ["Relu"]


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_values_between_two_steps_stay_floats(mode: str) -> None:
    net = Net()
    x = both(net, net.input("x", 1, 4, 4, 4))
    y = net.op("Resize", x, None, np.array([1, 1, 2, 2], np.float32), mode=mode)
    graph = stored(net.graph(net.op("Relu", y)))
    assert ops_of(graph)["q.quantize"] == 1


def test_what_is_quantized_behind_stays_as_it_is() -> None:
    net = Net()
    x = both(net, net.input("x", 1, 4, 4, 4))
    graph = net.graph(both(net, net.op("MaxPool", x, kernel_shape=[2, 2]), 0.07))
    assert ops_of(stored(graph)) == {"MaxPool": 1, "q.dequantize": 2, "q.quantize": 2}


def test_a_layer_behind_a_pool_of_quantized_values_is_native() -> None:
    net = Net()
    x = both(net, net.input("x", 1, 3, 8, 8))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Relu", net.op("Conv", x, weights(net, 4, 3, 1, 1)))
    model = net.model(both(net, y, 0.05, U8(0)))
    executable = qcc.compile(model.SerializeToString())
    assert isinstance(executable, qcc.Executable)
    assert executable.report.float_nodes == 0
