from __future__ import annotations

import numpy as np

from qcc.passes.eliminate_dead import EliminateDead
from tests.passes.float_models import Net, check, ops_of


def test_unused_chain_and_constants_go_and_inputs_stay() -> None:
    net = Net()
    x, _ = net.input("x", 2, 3), net.input("unused", 4)
    net.op("Relu", net.op("Add", x, net.normal(3)))
    graph = net.graph(net.op("Mul", x, net.normal(3)))
    result = check(graph, EliminateDead(), tolerance=0.0)
    assert ops_of(result) == {"Mul": 1}
    assert len(result.constants) == 1
    assert [value.name for value in result.inputs] == ["x", "unused"]


def test_a_node_with_one_used_result_stays() -> None:
    net = Net()
    x = net.input("x", 2, 6)
    parts = net.ops("Split", x, np.array([2, 4]), results=2, axis=1)
    result = check(net.graph(parts[1]), EliminateDead(), tolerance=0.0)
    assert ops_of(result) == {"Split": 1}
