"""The questions that TensorRT's rows ask of a graph, on odd graphs; and what pruning leaves."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.tensorrt.config import CONFIG
from qcc.backends.tensorrt.placement import NO_SKIP, fused_operand
from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import PINNED_OPSET
from qcc.ir.types import TensorType, float32
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.prune_groups import ALONE, GIVEN, ISLAND, TAIL
from qcc.passes.select_fusions import FUSED, select_fusions
from qcc.quant.observers import FixedQParamsObserver, MinMaxObserver
from qcc.quant.observers.base import ObserverSpec
from qcc.quant.qconfig import QConfig, default_per_channel_weight_observer
from qcc.quant.qconfig_mapping import QConfigMapping
from tests.backends.tensorrt.placements import SmallNet, placement, quantized, rendered


def add_of(graph: Graph, name: str = "add1") -> Node:
    return next(node for node in graph.nodes if node.name == name)


def fused(graph: Graph, name: str = "add1") -> str | None:
    value: Value | None = fused_operand(add_of(graph, name))
    return None if value is None else value.name


# -- fused_operand ---------------------------------------------------------------------------------


def test_twice_the_same_value_is_no_skip() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    assert fused(net.graph(net.op("Add", stem, stem))) is None


def test_two_functions_of_one_convolution_are_no_skip() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    parts = net.op("Relu", stem), net.op("Sigmoid", stem)
    assert fused(net.graph(net.op("Add", *parts))) is None


def test_a_constant_is_no_skip() -> None:
    net = SmallNet()
    image = net.normal(1, 16, 6, 6)
    assert fused(net.graph(net.op("Add", net.conv(net.image()), image))) is None


def test_branches_that_have_nothing_in_common_are_told_apart_by_length() -> None:
    net = SmallNet()
    long, short = net.conv(net.op("Relu", net.conv(net.image()))), net.conv(net.image("y"))
    assert fused(net.graph(net.op("Add", short, long))) == "conv2"


def test_a_long_branch_without_a_convolution_of_its_own_is_the_skip() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    long = net.op("Tanh", net.op("Relu", net.op("Sigmoid", net.op("Exp", stem))))
    assert fused(net.graph(net.op("Add", net.conv(stem), long))) == "conv2"


def test_a_kernel_ends_at_a_sum_of_branches() -> None:
    """Behind Relu stands a sum, not a convolution: its kernel has added already."""
    net = SmallNet()
    stem = net.conv(net.image())
    first = net.op("Relu", net.op("Add", net.conv(stem), stem))
    graph = net.graph(net.op("Add", first, net.conv(first)))
    assert fused(graph, "add1") == "conv2"
    assert fused(graph, "add2") == "conv3"


def test_of_a_sum_of_three_the_last_convolution_is_fused() -> None:
    net = SmallNet()
    x = net.image()
    a, b, c = net.conv(x), net.conv(x), net.conv(x)
    graph = net.graph(net.op("Add", net.op("Add", a, b), c))
    assert fused(graph, "add1") == "conv2"
    assert fused(graph, "add2") == "conv3"
    text = placement(graph)
    assert "add1 = Add(conv1:b, conv2)" in text
    assert "add2 = Add(add1:c, conv3)" in text


def test_the_convolution_of_a_gate_counts_whatever_the_order_of_the_product() -> None:
    for swapped in (False, True):
        net = SmallNet()
        stem = net.conv(net.image())
        gate = net.op("Sigmoid", net.conv(stem))
        product = net.op("Mul", *((gate, stem) if swapped else (stem, gate)))
        assert fused(net.graph(net.op("Add", stem, product))) == "mul1"


def test_operands_of_other_shapes_are_no_skip() -> None:
    net = SmallNet()
    x = net.image()
    row = net.op("Conv", net.conv(x), net.normal(16, 16, 6, 1))
    assert fused(net.graph(net.op("Add", net.conv(x), row))) is None


def test_open_dimensions_may_be_equal_by_name() -> None:
    net = SmallNet()
    x = net.input("x", "batch", 16, 6, 6)
    stem = net.conv(x)
    assert fused(net.graph(net.op("Add", net.conv(stem), stem))) == "conv2"


def test_results_of_one_split_are_no_skip() -> None:
    net = SmallNet()
    parts = net.ops("Split", net.conv(net.image()), np.array([8, 8]), results=2, axis=1)
    assert fused(net.graph(net.op("Add", *parts))) is None


def test_what_a_body_reads_is_common_to_both_branches() -> None:
    """The branch through If is the longer one, for the other one shares its stem with it."""
    type_ = float32(1, 16, 6, 6)
    graph = Graph("g")
    x, which = graph.add_input("x", type_), graph.add_input("which", TensorType((), "bool"))
    weight = graph.add_constant("w", np.ones((16, 16, 1, 1), np.float32))
    stem = graph.create_node("Conv", [x, weight], [type_], output_names=["stem"]).output
    for name in ("one", "two", "three"):
        stem = graph.create_node("Relu", [stem], [type_], output_names=[name]).output
    bodies = {}
    for name in ("then_branch", "else_branch"):
        body = Graph(name, graph)
        body.set_outputs([body.create_node("Relu", [stem], [type_]).output])
        bodies[name] = body
    chosen = graph.create_node("If", [which], [type_], attributes=bodies).output
    other = graph.create_node("Conv", [chosen, weight], [type_], output_names=["other"]).output
    branch = graph.create_node("Conv", [stem, weight], [type_], output_names=["branch"]).output
    added = graph.create_node("Add", [other, branch], [type_], name="add1")
    graph.set_outputs([added.output])
    assert fused(graph) == "other"


def test_bodies_of_control_flow_read_float_values() -> None:
    """A layer behind reads 8 bits of the same value; what is in the bodies stays float."""
    type_ = float32(1, 16, 6, 6)
    graph = Graph("g")
    graph.info.opsets = {"": PINNED_OPSET}
    x, which = graph.add_input("x", type_), graph.add_input("which", TensorType((), "bool"))
    data = np.random.default_rng(0).normal(size=(16, 16, 1, 1)).astype(np.float32)
    weights = [graph.add_constant(f"w{i}", data) for i in range(3)]
    stem = graph.create_node("Conv", [x, weights[0]], [type_], output_names=["stem"]).output
    bodies = {}
    for name, op in (("then_branch", "Conv"), ("else_branch", "Add")):
        body = Graph(name, graph)
        other = weights[1] if op == "Conv" else stem
        made = body.create_node(op, [stem, other], [type_], output_names=[f"in_{name}"])
        body.set_outputs([made.output])
        bodies[name] = body
    chosen = graph.create_node("If", [which], [type_], attributes=bodies, output_names=["if"])
    last = graph.create_node("Conv", [stem, weights[2]], [type_], output_names=["last"])
    graph.set_outputs([chosen.output, last.output])
    result = quantized(graph).graph
    inner = [node for node in result.walk() if node.output.name.startswith("in_")]
    assert [[value and value.name for value in node.inputs] for node in inner] == [
        ["stem", "w1"],
        ["stem", "stem"],
    ]
    assert "last = Conv(stem:b, int8[0])" in rendered(result)


# -- what pruning leaves ---------------------------------------------------------------------------


def plan_of(graph: Graph) -> FusionPlan:
    return select_fusions(graph, CONFIG, CONFIG.default_mapping)


def sentences(plan: FusionPlan) -> dict[str, str]:
    return {node.name: found[0] for node, found in plan.refusals.items()}


def labels(plan: FusionPlan) -> list[str]:
    return [group.label for group in plan.groups]


def test_a_group_that_goes_takes_those_with_it_that_only_it_kept() -> None:
    """The pool goes, for only Relu reads it; so nothing quantized reaches what is behind Relu."""
    net = SmallNet()
    pooled = net.op("MaxPool", net.conv(net.image()), kernel_shape=[2, 2])
    averaged = net.op("AveragePool", net.op("Relu", pooled), kernel_shape=[2, 2])
    plan = plan_of(net.graph(net.op("Softmax", averaged)))
    assert labels(plan) == ["conv1"]
    found = sentences(plan)
    assert found["maxpool1"] == TAIL
    assert found["averagepool1"] == ISLAND
    assert found["relu1"] == FUSED


def test_movement_in_front_of_a_sum_that_stays_float_stays_float() -> None:
    net = SmallNet()
    x = net.image()
    narrow = net.conv(net.conv(x, 8), 8, 8)
    larger = net.op("Resize", net.conv(x, 8), None, net.scales(1, 1, 1, 1), mode="nearest")
    moved = net.op("Transpose", larger, perm=[0, 1, 3, 2])
    plan = plan_of(net.graph(net.op("Add", narrow, moved)))
    assert labels(plan) == ["conv1", "conv3"]
    found = sentences(plan)
    assert found["add1"] == ALONE
    assert found["transpose1"] == TAIL


def test_every_float_node_has_a_sentence() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    pooled = net.op("AveragePool", stem, kernel_shape=[2, 2])
    plan = plan_of(net.graph(pooled, net.op("Add", stem, net.op("Exp", stem))))
    assert labels(plan) == ["conv1"]
    assert sentences(plan) == {"averagepool1": GIVEN, "exp1": FUSED, "add1": NO_SKIP}


def test_results_that_nobody_reads_quantized_are_marked_float() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    last = net.conv(stem)
    plan = plan_of(net.graph(net.op("Softmax", last, axis=1)))
    assert {group.label: group.float_output for group in plan.groups} == {
        "conv1": False,
        "conv2": True,
    }
    assert [value.name for value in plan.quantized_values()] == ["x", "conv1"]


@pytest.mark.parametrize("name", ["Conv", "MatMul", "Gemm"])
def test_layers_whose_weights_are_computed_stay_float(name: str) -> None:
    net = SmallNet()
    image = name == "Conv"
    x = net.image() if image else net.input("x", 8, 16)
    weight = net.input("w", *((16, 16, 1, 1) if image else (16, 16)))
    plan = plan_of(net.graph(net.op(name, x, weight)))
    assert not plan.groups


@pytest.mark.parametrize(
    ("activation", "sentence"),
    [
        (MinMaxObserver.with_args(dtype="int8"), "the input's zero point may be other than 0"),
        (MinMaxObserver.with_args(dtype="uint8"), "the input is uint8, but the backend takes int8"),
    ],
)
def test_other_numbers_than_symmetric_int8_are_refused(
    activation: ObserverSpec, sentence: str
) -> None:
    net = SmallNet()
    pooled = net.op("MaxPool", net.conv(net.image()), kernel_shape=[2, 2])
    qconfig = QConfig(activation, default_per_channel_weight_observer)
    mapping = QConfigMapping().set_global(qconfig)
    plan = select_fusions(net.graph(net.conv(pooled)), CONFIG, mapping)
    assert not plan.groups
    for node in plan.refusals:
        assert any(sentence in text for text in plan.refusals[node])


def test_a_layer_may_have_symmetric_parameters_of_its_own() -> None:
    net = SmallNet()
    graph = net.graph(net.conv(net.conv(net.image())))
    spec = FixedQParamsObserver.with_args(dtype="int8", scale=0.5, zero_point=0)
    qconfig = QConfig(spec, default_per_channel_weight_observer)
    mapping = CONFIG.default_mapping.set_module_name("conv1", qconfig)
    assert labels(select_fusions(graph, CONFIG, mapping)) == ["conv1", "conv2"]
