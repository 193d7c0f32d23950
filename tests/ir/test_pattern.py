"""Traced patterns: what matches, what is refused and with which sentence, what does not match."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph, Node, Use, Value
from qcc.ir.pattern import (
    Match,
    Ops,
    Pattern,
    Refusal,
    const,
    named_pattern,
    optional,
    pattern,
    rest,
)
from qcc.ir.types import UNKNOWN, float32


@pattern
def conv_relu(op: Ops, x: Any, w: Any, b: Any = optional()) -> Any:
    return op.Relu(op.Conv(x, w, b))


@pattern
def conv_add_relu(op: Ops, x: Any, w: Any = const(), b: Any = optional(), y: Any = None) -> Any:
    return op.Relu(op.Add(op.Conv(x, w, b), optional("y") if y is None else y))


@pattern
def swish(op: Ops, x: Any) -> Any:
    return op.Mul(x, op.Sigmoid(x))


def graph_with(*inputs: str) -> tuple[Graph, list[Value]]:
    graph = Graph()
    return graph, [graph.add_input(name, float32(1, 4)) for name in inputs]


def add(graph: Graph, op: str, *inputs: Value | None, count: int = 1, **attributes: Any) -> Node:
    name = graph.fresh_name(f"{op}_n")
    return graph.create_node(op, inputs, [UNKNOWN] * count, attributes=attributes, name=name)


def matched(found: Match | Refusal | None) -> Match:
    assert isinstance(found, Match), found
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trailing_none", [True, False])
def test_optional_operand_may_be_absent(bias: bool, trailing_none: bool) -> None:
    graph, (x, w, b) = graph_with("x", "w", "b")
    operands: list[Value | None] = [x, w, b] if bias else [x, w] + [None] * trailing_none
    conv = add(graph, "Conv", *operands)
    relu = add(graph, "Relu", conv.output)
    graph.set_outputs(relu.outputs)
    found = matched(conv_relu.match(relu))
    assert found.nodes == (conv, relu)
    assert found.root is relu
    assert found.node("conv") is conv
    assert found.value("x") is x
    assert found.value("b") is (b if bias else None)
    assert ("b" in found.values) == bias


def test_other_ops_are_not_the_pattern() -> None:
    graph, (x, w) = graph_with("x", "w")
    conv = add(graph, "Conv", x, w)
    add_node = add(graph, "Add", conv.output, x)
    relu = add(graph, "Relu", add_node.output)
    assert conv_relu.match(conv) is None
    assert conv_relu.match(relu) is None
    assert conv_relu.match(add(graph, "Relu", x)) is None


def test_use_outside_is_refused_with_the_users_name() -> None:
    graph, (x, w) = graph_with("x", "w")
    conv = add(graph, "Conv", x, w)
    relu = add(graph, "Relu", conv.output)
    other = graph.create_node("Add", [conv.output, x], [UNKNOWN], name="Add_7")
    graph.set_outputs([relu.output, other.output])
    found = conv_relu.match(relu)
    assert isinstance(found, Refusal)
    assert found.reason == f"%{conv.output.name} is also used by node 'Add_7'"
    assert found.node is relu
    assert str(found).startswith("conv_relu at ")


def test_graph_output_is_a_use_outside() -> None:
    graph, (x, w) = graph_with("x", "w")
    conv = add(graph, "Conv", x, w)
    relu = add(graph, "Relu", conv.output)
    graph.set_outputs([relu.output, conv.output])
    found = conv_relu.match(relu)
    assert isinstance(found, Refusal)
    assert found.reason == f"%{conv.output.name} is also an output of the graph"


def test_shared_nodes_may_be_used_outside() -> None:
    shared = named_pattern("shared", lambda op, x, w: op.Relu(op.Conv(x, w, _shared=True)))
    graph, (x, w) = graph_with("x", "w")
    conv = add(graph, "Conv", x, w)
    relu = add(graph, "Relu", conv.output)
    graph.set_outputs([relu.output, conv.output])
    assert matched(shared.match(relu)).node("conv") is conv


@pytest.mark.parametrize("swap", [False, True])
def test_commutative_ops_match_both_ways(swap: bool) -> None:
    graph, (x, y) = graph_with("x", "y")
    w = graph.add_constant("w", np.ones((4, 4), np.float32))
    conv = add(graph, "Conv", x, w)
    operands = [conv.output, y][:: -1 if swap else 1]
    relu = add(graph, "Relu", add(graph, "Add", *operands).output)
    found = matched(conv_add_relu.match(relu))
    assert found.value("y") is y
    assert [n.op for n in found.nodes] == ["Conv", "Add", "Relu"]


def test_two_convs_choose_the_one_that_may_be_swallowed() -> None:
    """Of two possible ways, the refused one must not hide the good one."""
    graph, (x,) = graph_with("x")
    w = graph.add_constant("w", np.ones((4, 4), np.float32))
    first, second = add(graph, "Conv", x, w), add(graph, "Conv", x, w)
    relu = add(graph, "Relu", add(graph, "Add", first.output, second.output).output)
    graph.set_outputs([relu.output, first.output])
    found = matched(conv_add_relu.match(relu))
    assert found.node("conv") is second
    assert found.value("y") is first.output


def test_non_commutative_ops_do_not_swap() -> None:
    sub = named_pattern("sub", lambda op, x, y: op.Sub(op.Relu(x), y))
    graph, (x, y) = graph_with("x", "y")
    assert sub.match(add(graph, "Sub", y, add(graph, "Relu", x).output)) is None


def test_constant_predicate_refuses() -> None:
    graph, (x, w, y) = graph_with("x", "w", "y")
    conv = add(graph, "Conv", x, w)
    relu = add(graph, "Relu", add(graph, "Add", conv.output, y).output)
    found = conv_add_relu.match(relu)
    assert isinstance(found, Refusal)
    assert found.reason == "%w (w) is not a constant"


def test_value_check_gives_the_sentence() -> None:
    def small(value: Value) -> str | None:
        return None if value.tensor.rank == 1 else f"{value!r} is not a vector"

    checked = named_pattern("checked", lambda op, x: op.Add(x, const("b", small)))
    graph, (x,) = graph_with("x")
    b = graph.add_constant("b", np.ones((1, 1, 1), np.float32))
    found = checked.match(add(graph, "Add", x, b))
    assert isinstance(found, Refusal)
    assert found.reason == "%b is not a vector"
    b1 = graph.add_constant("b1", np.ones(4, np.float32))
    assert matched(checked.match(add(graph, "Add", b1, x))).value("b") is b1


def test_the_same_operand_twice_is_the_same_value() -> None:
    graph, (x, y) = graph_with("x", "y")
    sigmoid = add(graph, "Sigmoid", x)
    for operands, matches in (
        ([x, sigmoid.output], True),
        ([sigmoid.output, x], True),
        ([y, sigmoid.output], False),
    ):
        mul = add(graph, "Mul", *operands)
        assert isinstance(swish.match(mul), Match) == matches
        graph.remove_node(mul)


def test_dag_pattern_uses_one_node_twice() -> None:
    def body(op: Ops, x: Any) -> Any:
        centred = op.Sub(x, op.ReduceMean(x, optional("axes")))
        return op.Div(centred, op.Sqrt(op.ReduceMean(op.Pow(centred, 2.0), optional("axes"))))

    norm = named_pattern("norm", body)
    graph, (x,) = graph_with("x")
    two = graph.add_constant("two", np.float32(2.0).reshape(()))
    centred = add(graph, "Sub", x, add(graph, "ReduceMean", x).output).output
    other = add(graph, "Sub", x, add(graph, "ReduceMean", x).output).output
    good = add(graph, "Pow", centred, two)
    root = add(
        graph,
        "Div",
        centred,
        add(graph, "Sqrt", add(graph, "ReduceMean", good.output).output).output,
    )
    found = matched(norm.match(root))
    assert [n.op for n in found.nodes] == ["ReduceMean", "Sub", "Pow", "ReduceMean", "Sqrt", "Div"]
    assert found.roles["reducemean_1"] is not found.roles["reducemean"]
    graph.replace_use(Use(good, 0), other)
    assert norm.match(root) is None


def test_one_node_cannot_play_two_roles() -> None:
    two = named_pattern("two", lambda op, x, y: op.Add(op.Relu(x), op.Relu(y)))
    graph, (x, y) = graph_with("x", "y")
    relu = add(graph, "Relu", x)
    assert two.match(add(graph, "Add", relu.output, relu.output)) is None
    graph2, (x, y) = graph_with("x", "y")
    both = add(graph2, "Add", add(graph2, "Relu", x).output, add(graph2, "Relu", y).output)
    assert matched(two.match(both)).value("y") is y


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({}, None),
        ({"group": 1}, None),
        ({"group": 4}, "Conv 'Conv_n' has group=4, the pattern needs 1"),
        ({"group": 1, "dilations": [2, 2]}, "Conv 'Conv_n' has dilations=[2, 2]"),
    ],
)
def test_attribute_predicates(attributes: dict[str, Any], reason: str | None) -> None:
    def undilated(value: Sequence[int] | None) -> bool:
        return value is None or set(value) == {1}

    plain = named_pattern(
        "plain", lambda op, x, w: op.Conv(x, w, optional("b"), group=1, dilations=undilated)
    )
    graph, (x, w) = graph_with("x", "w")
    found = plain.match(add(graph, "Conv", x, w, **attributes))
    if reason is None:
        matched(found)
    else:
        assert isinstance(found, Refusal)
        assert found.reason == reason


def test_node_check_and_role() -> None:
    checked = named_pattern(
        "checked",
        lambda op, x: op.Relu(x, _role="act", _check=lambda n: f"{n.label} is too long"),
    )
    graph, (x,) = graph_with("x")
    found = checked.match(graph.create_node("Relu", [x], [UNKNOWN], name="r"))
    assert isinstance(found, Refusal)
    assert found.reason == "r is too long"
    assert checked.roles == ("act",)


@pytest.mark.parametrize("op_type", ["Relu", "Clip", "com.microsoft.Gelu"])
def test_alternatives_and_domains(op_type: str) -> None:
    either = named_pattern(
        "either", lambda op, x: op.any_of("Relu", "Clip")(op.q.dequantize(x), _role="act")
    )
    other = named_pattern("other", lambda op, x: op("com.microsoft.Gelu", op.q.dequantize(x)))
    graph, (x,) = graph_with("x")
    node = add(graph, op_type, add(graph, "q.dequantize", x).output)
    assert isinstance(either.match(node), Match) == (op_type in either.root_ops)
    assert isinstance(other.match(node), Match) == (op_type not in either.root_ops)


def test_rest_takes_every_further_operand() -> None:
    concat = named_pattern("concat", lambda op, x: op.Concat(x, rest("xs")))
    graph, values = graph_with("a", "b", "c")
    found = matched(concat.match(add(graph, "Concat", *values, axis=1)))
    assert [found.value(n) for n in ("x", "xs0", "xs1")] == values
    assert len(found.values) == 3


def test_results_other_than_the_first() -> None:
    second = named_pattern("second", lambda op, x: op.Relu(op.Split(x, optional("s"))[1]))
    graph, (x,) = graph_with("x")
    split = add(graph, "Split", x, count=2)
    assert second.match(add(graph, "Relu", split.outputs[0])) is None
    graph.remove_node(graph.nodes[-1])
    matched(second.match(add(graph, "Relu", split.outputs[1])))


def test_unnamed_further_operands_must_be_absent() -> None:
    relu6 = named_pattern("relu6", lambda op, x: op.Clip(x, 0.0, 6.0))
    graph, (x,) = graph_with("x")
    low = graph.add_constant("low", np.asarray(0, np.float32))
    high = graph.add_constant("high", np.asarray([6], np.float32))
    wrong = graph.add_constant("wrong", np.asarray(5, np.float32))
    matched(relu6.match(add(graph, "Clip", x, low, high)))
    assert relu6.match(add(graph, "Clip", x, low, wrong)) is None
    assert relu6.match(add(graph, "Clip", x, low)) is None
    assert relu6.match(add(graph, "Clip", x, low, high, high)) is None


def test_nodes_of_an_outer_graph_are_not_matched() -> None:
    graph, (x, w) = graph_with("x", "w")
    conv = add(graph, "Conv", x, w)
    body = Graph("body", graph)
    relu = body.create_node("Relu", [conv.output], [UNKNOWN])
    assert conv_relu.match(relu) is None


def test_use_in_a_body_is_a_use_outside() -> None:
    graph, (x, w) = graph_with("x", "w")
    conv = add(graph, "Conv", x, w)
    body = Graph("body", graph)
    body.create_node("Neg", [conv.output], [UNKNOWN], name="inner")
    found = conv_relu.match(add(graph, "Relu", conv.output))
    assert isinstance(found, Refusal)
    assert found.reason.endswith("is also used by node 'inner'")


def test_patterns_nest_and_describe_themselves() -> None:
    nested = named_pattern("nested", lambda op, x, w: op.MaxPool(conv_relu(op, x, w)))
    assert nested.describe() == "MaxPool(Relu(Conv(%x, %w, %b?)))"
    assert nested.roles == ("conv", "relu", "maxpool")
    assert [v.name for v in nested.variables] == ["x", "w", "b"]


def test_patterns_are_values_of_their_name() -> None:
    again = named_pattern("conv_relu", lambda op, x: op.Relu(x))
    assert again == conv_relu
    assert len({again, conv_relu, swish}) == 2
    assert repr(conv_relu) == "conv_relu"


def test_bad_patterns_are_refused_when_traced() -> None:
    with pytest.raises(TypeError, match="must return a node"):
        pattern(lambda op, x: x)
    with pytest.raises(TypeError, match="needs a name"):
        pattern(lambda op, x: op.Add(x, const()))
    with pytest.raises(TypeError, match="last operand"):
        pattern(lambda op, x: op.Concat(rest("xs"), x))
    with pytest.raises(TypeError, match="cannot be an operand"):
        pattern(lambda op, x: op.Add(x, "y"))
    with pytest.raises(ValueError, match="role 'a'"):
        pattern(lambda op, x: op.Relu(op.Relu(x, _role="a"), _role="a"))


def test_search_finds_every_match_in_order() -> None:
    graph, (x, w) = graph_with("x", "w")
    value = x
    for _ in range(3):
        value = add(graph, "Relu", add(graph, "Conv", value, w).output).output
    graph.set_outputs([value])
    found = list(conv_relu.search(graph))
    assert [n for m in found for n in m.nodes] == list(graph.nodes)


@pytest.mark.parametrize("order", list(itertools.product([False, True], repeat=2)))
def test_nested_commutative_orders(order: tuple[bool, bool]) -> None:
    gelu: Pattern = named_pattern(
        "gelu", lambda op, x: op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Div(x, 1.41421356)), 1.0))
    )
    graph, (x,) = graph_with("x")

    def scalar(number: float) -> Value:
        return graph.add_constant(graph.fresh_name("c"), np.asarray(number, np.float32))

    def ordered(swap: bool, *values: Value) -> tuple[Value, ...]:
        return values[::-1] if swap else values

    half = add(graph, "Mul", *ordered(order[0], x, scalar(0.5)))
    erf = add(graph, "Erf", add(graph, "Div", x, scalar(2**0.5)).output)
    one = add(graph, "Add", *ordered(order[1], erf.output, scalar(1.0)))
    root = add(graph, "Mul", *ordered(order[0] ^ order[1], half.output, one.output))
    assert matched(gelu.match(root)).value("x") is x
