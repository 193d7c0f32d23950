from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from qcc.ir.core import Graph
from qcc.onnxio import read_onnx
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.fold_constants import FoldConstants
from tests.passes.float_models import Net, apply, check, ops_of


def flattened(net: Net, x: str, last: int) -> str:
    """x reshaped to [batch, last], the batch computed as exporters do."""
    batch = net.op("Gather", net.op("Shape", x), np.array(0), axis=0)
    shape = net.op("Concat", net.op("Unsqueeze", batch, np.array([0])), np.array([last]), axis=0)
    return net.op("Reshape", x, shape)


def test_constant_nodes_become_initializers_and_their_users_fold() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    value = numpy_helper.from_array(np.array([1.0, 2.0, 3.0], np.float32))
    c = net.op("Constant", value=value)
    graph = net.graph(net.op("Add", x, net.op("Exp", net.op("Mul", c, 2.0))))
    result = check(graph, FoldConstants(), tolerance=0.0)
    assert ops_of(result) == {"Add": 1}


@pytest.mark.parametrize(
    ("attributes", "dtype"),
    [
        ({"value_float": 2.5}, "float32"),
        ({"value_floats": [1.0, 2.0]}, "float32"),
        ({"value_int": 3}, "int64"),
        ({"value_ints": [3, 4]}, "int64"),
    ],
)
def test_every_form_of_constant(attributes: dict[str, Any], dtype: str) -> None:
    net = Net()
    x = net.input("x", 1)
    c = net.op("Constant", **attributes)
    graph = net.graph(net.op("Mul", x, net.op("Cast", c, to=TensorProto.FLOAT)))
    result = check(graph, FoldConstants(), tolerance=0.0)
    assert ops_of(result) == {"Mul": 1}


def test_shape_chain_of_a_static_model_vanishes() -> None:
    net = Net()
    x = net.input("x", 2, 3, 4)
    result = check(net.graph(flattened(net, x, 12)), FoldConstants(), tolerance=0.0)
    assert ops_of(result) == {"Reshape": 1}
    assert result.outputs[0].tensor.shape == (2, 12)


@pytest.mark.parametrize("batch", [1, 3])
def test_shape_chain_of_a_dynamic_batch_becomes_a_constant_target(batch: int) -> None:
    net = Net()
    x = net.input("x", "N", 3, 4)
    result = check(
        net.graph(flattened(net, x, 12)), FoldConstants(), tolerance=0.0, sizes={"N": batch}
    )
    assert ops_of(result) == {"Reshape": 1}
    assert result.outputs[0].tensor.shape == ("N", 12)


def test_two_unknown_dimensions_keep_their_places() -> None:
    net = Net()
    x = net.input("x", "N", "T", 6)
    shape = net.op("Slice", net.op("Shape", x), np.array([0]), np.array([2]))
    target = net.op("Concat", shape, np.array([2]), np.array([3]), axis=0)
    result = check(
        net.graph(net.op("Reshape", x, target)), FoldConstants(), tolerance=0.0, sizes={"T": 5}
    )
    assert ops_of(result) == {"Reshape": 1}


def test_expand_to_the_shape_it_has_vanishes() -> None:
    net = Net()
    x = net.input("x", "N", 4)
    column = net.op("ReduceSum", x, np.array([1]), keepdims=1)
    batch = net.op("Slice", net.op("Shape", x), np.array([0]), np.array([1]))
    target = net.op("Concat", batch, np.array([1]), axis=0)
    graph = net.graph(net.op("Sub", x, net.op("Expand", column, target)))
    assert ops_of(check(graph, FoldConstants(), tolerance=0.0)) == {"ReduceSum": 1, "Sub": 1}


def test_expand_to_an_unrelated_symbol_stays() -> None:
    net = Net()
    x, y = net.input("x", "N", 1), net.input("y", "M", 4)
    batch = net.op("Slice", net.op("Shape", y), np.array([0]), np.array([1]))
    target = net.op("Concat", batch, np.array([4]), axis=0)
    result = check(net.graph(net.op("Expand", x, target)), FoldConstants(), tolerance=0.0)
    assert ops_of(result)["Expand"] == 1


def test_results_that_grow_too_much_stay() -> None:
    net = Net()
    x = net.input("x", 1)
    big = net.op("ConstantOfShape", np.array([1 << 19]))
    graph = net.graph(net.op("Add", x, net.op("ReduceSum", big, keepdims=1)))
    copy = graph.clone()
    apply(copy, FoldConstants(max_growth=1))
    assert ops_of(copy)["ConstantOfShape"] == 1
    assert ops_of(check(graph, FoldConstants(), tolerance=0.0)) == {"Add": 1}


@pytest.mark.parametrize("op", ["RandomNormal", "RandomUniform"])
def test_random_ops_stay(op: str) -> None:
    net = Net()
    x = net.input("x", 2, 3)
    graph = net.graph(net.op("Add", x, net.op(op, shape=[2, 3])))
    apply(graph, FoldConstants())
    assert ops_of(graph) == {"Add": 1, op: 1}


def test_random_like_ops_of_constants_stay() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    graph = net.graph(net.op("Add", x, net.op("RandomNormalLike", net.normal(2, 3))))
    apply(graph, FoldConstants())
    assert ops_of(graph) == {"Add": 1, "RandomNormalLike": 1}


def test_quantized_weights_are_not_dequantized() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    weight = net.op("DequantizeLinear", np.ones((3, 4), np.int8), 0.5, np.array(0, np.int8))
    graph = net.graph(net.op("MatMul", x, weight))
    apply(graph, FoldConstants())
    assert ops_of(graph)["DequantizeLinear"] == 1


def test_a_constant_graph_output_keeps_its_node() -> None:
    net = Net()
    net.input("x", 1)
    graph = net.graph(net.op("Exp", net.normal(3)))
    assert ops_of(check(graph, FoldConstants(), tolerance=0.0)) == {"Exp": 1}


def conditional(condition: bool) -> Graph:
    """If(condition): x + w else: nested If on a constant, exp(x)."""

    def body(name: str, *nodes: NodeProto) -> GraphProto:
        info = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [2, 3])
        return helper.make_graph(nodes, name, [], [info])

    weight = numpy_helper.from_array(np.full((3,), 2.0, np.float32))
    then = body(
        "then",
        helper.make_node("Constant", [], ["w"], value=weight),
        helper.make_node("Add", ["x", "w"], ["then_y"]),
    )
    inner = helper.make_node(
        "If",
        ["flag"],
        ["else_y"],
        then_branch=body("inner_then", helper.make_node("Exp", ["x"], ["inner_then_y"])),
        else_branch=body("inner_else", helper.make_node("Neg", ["x"], ["inner_else_y"])),
    )
    flag = numpy_helper.from_array(np.array(True), "flag")
    start = numpy_helper.from_array(np.array(condition), "condition")
    outer = helper.make_node(
        "If", ["condition"], ["y"], then_branch=then, else_branch=body("else", inner)
    )
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    graph = helper.make_graph([outer], "g", [x], [y], [flag, start])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return read_onnx(model)


@pytest.mark.parametrize(("condition", "op"), [(True, "Add"), (False, "Exp")])
def test_if_with_a_constant_condition_is_its_branch(condition: bool, op: str) -> None:
    result = check(conditional(condition), FoldConstants(), tolerance=0.0)
    assert ops_of(result) == {op: 1}
    assert result.outputs[0].name == "y"


@settings(max_examples=25, deadline=None)
@given(
    dims=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    dynamic=st.integers(0, 3),
    data=st.data(),
)
def test_any_split_of_the_shape_reshapes_back(
    dims: list[int], dynamic: int, data: st.DataObject
) -> None:
    """Shape taken apart at a random place, arithmetic done on it, and put together again."""
    net = Net()
    symbolic = [f"d{i}" if i == dynamic else d for i, d in enumerate(dims)]
    x = net.input("x", *symbolic)
    cut = data.draw(st.integers(1, len(dims) - 1))
    shape = net.op("Shape", x)
    head = net.op("Slice", shape, np.array([0]), np.array([cut]))
    tail = net.op("Slice", shape, np.array([cut]), np.array([len(dims)]))
    rest = net.op("ReduceProd", tail, np.array([0]), keepdims=1)
    rest = net.op("Div", net.op("Mul", rest, np.array([6])), np.array([6]))
    graph = net.graph(net.op("Reshape", x, net.op("Concat", head, rest, axis=0)))
    sizes = {f"d{i}": d for i, d in enumerate(dims)}
    result = check(graph, FoldConstants(), Canonicalize(), tolerance=0.0, sizes=sizes)
    if dynamic < cut or dynamic >= len(dims):
        assert set(ops_of(result)) <= {"Reshape", "Identity"}
