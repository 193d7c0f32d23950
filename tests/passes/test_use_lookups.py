"""One-hot products as lookups, and elementwise ops of looked-up rows as ops of the table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph, constant_array
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.use_lookups import UseLookups
from tests.passes.float_models import Net, apply, ops_of, run

IDS = np.array([[0, 4, -1, 2], [-7, 3, 5, 600]], np.int64)


def rewritten(graph: Graph) -> Graph:
    copy = graph.clone()
    apply(copy, UseLookups(), Canonicalize(), EliminateDead())
    return copy


def one_hot(net: Net, ids: str, count: int, swapped: bool = False) -> str:
    numbers = np.arange(count)
    column = net.op("Unsqueeze", ids, np.array([-1]))
    operands: tuple[Any, ...] = (numbers, column) if swapped else (column, numbers)
    return net.op("Cast", net.op("Equal", *operands), to=1)


def check(net: Net, output: str, tolerance: float = 0.0) -> Graph:
    graph = net.graph(output)
    changed = rewritten(graph)
    feeds = {"ids": IDS}
    (wanted,), (found,) = run(graph, feeds), run(changed, feeds)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance
    return changed


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_product_with_one_hot_rows_is_a_lookup(swapped: bool, dynamic: bool) -> None:
    net = Net()
    net.input("ids", *(("n", 4) if dynamic else (2, 4)), element="int64")
    y = net.op("MatMul", one_hot(net, "ids", 5, swapped), net.normal(5, 3))
    graph = check(net, y)
    assert set(ops_of(graph)) == {"Clip", "Gather"}


def test_an_expand_to_all_columns_is_left_out() -> None:
    net = Net()
    net.input("ids", 2, 4, element="int64")
    wide = net.op("Expand", net.op("Unsqueeze", "ids", np.array([-1])), np.array([2, 4, 5]))
    y = net.op(
        "MatMul", net.op("Cast", net.op("Equal", wide, np.arange(5)), to=1), net.normal(5, 3)
    )
    assert set(ops_of(check(net, y))) == {"Clip", "Gather"}


@pytest.mark.parametrize("numbers", [[1, 2, 3, 4, 5], [4, 3, 2, 1, 0]])
def test_other_numbers_are_no_one_hot_rows(numbers: list[int]) -> None:
    net = Net()
    net.input("ids", 2, 4, element="int64")
    column = net.op("Unsqueeze", "ids", np.array([-1]))
    hot = net.op("Cast", net.op("Equal", column, np.array(numbers)), to=1)
    assert "MatMul" in ops_of(check(net, net.op("MatMul", hot, net.normal(5, 3))))


def test_a_weight_that_is_not_finite_keeps_its_product() -> None:
    net = Net()
    net.input("ids", 2, 4, element="int64")
    weight = net.normal(5, 3)
    weight[0, 0] = np.inf
    graph = rewritten(net.graph(net.op("MatMul", one_hot(net, "ids", 5), weight)))
    assert "MatMul" in ops_of(graph)


def lookup(net: Net, table: np.ndarray) -> str:
    net.input("ids", 2, 4, element="int64")
    return net.op("Gather", table, net.op("Clip", "ids", np.array(0), np.array(len(table) - 1)))


def test_what_follows_a_lookup_goes_into_its_table() -> None:
    net = Net()
    x = lookup(net, net.normal(5, 3))
    x = net.op("Add", net.normal(1, 1, 3), x)
    x = net.op("Mul", x, 3.0)
    graph = check(net, net.op("Relu", x), 1e-6)
    assert set(ops_of(graph)) == {"Clip", "Gather"}
    (gather,) = (node for node in graph.nodes if node.op == "Gather")
    table = constant_array(gather.operand(0))
    assert table is not None
    assert table.shape == (5, 3)


def test_an_op_of_the_rows_alone_may_read_them_twice() -> None:
    net = Net()
    x = lookup(net, net.normal(5, 3))
    assert set(ops_of(check(net, net.op("Mul", x, x)))) == {"Clip", "Gather"}


@pytest.mark.parametrize("shape", [(4, 3), (2, 1, 1), (1, 1, 1, 3)])
def test_constants_that_differ_from_row_to_row_stay_outside(shape: tuple[int, ...]) -> None:
    net = Net()
    x = lookup(net, net.normal(5, 3))
    assert "Add" in ops_of(check(net, net.op("Add", x, net.normal(*shape))))


def test_rows_that_others_read_too_stay() -> None:
    net = Net()
    x = lookup(net, net.normal(5, 3))
    y = net.op("Add", net.op("Exp", x), x)
    assert {"Exp", "Add"} <= set(ops_of(check(net, y)))


def test_a_large_table_is_not_stored_twice() -> None:
    net = Net()
    net.input("ids", 2, 4, element="int64")
    net.operand(net.normal(300, 300))
    ids = net.op("Clip", "ids", np.array(0), np.array(299))
    first, second = (net.op("Gather", "c1", ids) for _ in range(2))
    y = net.op("Add", net.op("Relu", first), net.op("MatMul", second, net.normal(300, 300)))
    assert "Relu" in ops_of(rewritten(net.graph(y)))
