"""Fusion selection: longest patterns, no islands, no useless tails, a sentence for the rest."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.onnx.config import CONFIG as ONNX
from qcc.backends.x86.config import CONFIG as X86
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph
from qcc.ir.types import TensorType, float32
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.prune_groups import ISLAND, TAIL
from qcc.passes.select_fusions import EXCLUDED, select_fusions
from qcc.quant.backend_config import BackendConfig
from qcc.quant.observers import MinMaxObserver
from qcc.quant.qconfig import QConfig, default_per_channel_weight_observer
from qcc.quant.qconfig_mapping import QConfigMapping, get_default_qconfig_mapping
from tests.passes.flow_models import conv, names, residual_net, weights


def plan_of(
    graph: Graph, backend: BackendConfig = X86, mapping: QConfigMapping | None = None
) -> FusionPlan:
    return select_fusions(graph, backend, mapping or get_default_qconfig_mapping(backend.name))


def groups_of(plan: FusionPlan) -> list[list[str]]:
    return [names(group.nodes) for group in plan.groups]


def test_the_longest_pattern_wins_on_x86() -> None:
    plan = plan_of(residual_net())
    found = groups_of(plan)
    assert ["first", "relu1"] in found
    assert ["second", "add", "relu2"] in found
    assert ["flat"] in found
    residual = next(group for group in plan.groups if group.label == "second")
    assert len(residual.inputs) == 1, "the operand and the residual are one value here"


def test_onnxruntime_adds_apart_from_the_conv() -> None:
    found = groups_of(plan_of(residual_net(), ONNX))
    assert ["second"] in found
    assert ["add", "relu2"] in found


def test_a_gemm_without_quantized_readers_gives_float() -> None:
    plan = plan_of(residual_net(), ONNX)
    gemm = next(group for group in plan.groups if group.label == "fc")
    assert gemm.float_output
    assert gemm.weight_axis == 0
    (softmax,) = [node for node in plan.refusals if node.op == "Softmax"]
    assert plan.refusals[softmax] == (TAIL,)


def test_no_islands() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = b.op.MaxPool(b.op.Transpose(x, perm=[0, 1, 3, 2]), kernel_shape=[2, 2], strides=[2, 2])
    graph = b.output(conv(b, y, 4, name="c"))
    plan = plan_of(graph)
    assert groups_of(plan) == [["c"]]
    assert {plan.refusals[node] for node in graph.nodes[:2]} == {(ISLAND,)}


def test_a_tail_of_movement_stays_float_but_a_pool_does_not() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = b.op.Reshape(conv(b, x, 4, name="c"), [1, -1], _name="shape")
    plan = plan_of(b.output(y))
    assert groups_of(plan) == [["c"]]
    assert plan.groups[0].float_output
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    graph = b.output(b.op.MaxPool(conv(b, x, 4, name="c"), kernel_shape=[2, 2], _name="pool"))
    assert groups_of(plan_of(graph)) == [["c"], ["pool"]]


def test_a_result_that_others_read_is_not_fused_over() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = conv(b, x, 4, name="c")
    graph = b.output(b.op.Relu(y, _name="r"), y)
    plan = plan_of(graph)
    assert ["c"] in groups_of(plan)
    (relu,) = [node for node in graph.nodes if node.op == "Relu"]
    assert any("also an output" in s for s in plan.refusals[relu])


def test_the_mapping_excludes_and_says_so() -> None:
    graph = residual_net()
    mapping = get_default_qconfig_mapping("x86").set_module_name("first", None)
    plan = plan_of(graph, mapping=mapping)
    assert not any("first" in group for group in groups_of(plan))
    (first,) = [node for node in graph.nodes if node.label == "first"]
    assert plan.refusals[first] == (EXCLUDED,)
    nothing = plan_of(graph, mapping=QConfigMapping())
    assert not nothing.groups


def test_the_order_of_a_node_in_its_scope_counts() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = conv(b, conv(b, x, 4, name="/body/a"), 4, name="/body/b")
    graph = b.output(y)
    mapping = get_default_qconfig_mapping("x86").set_module_name_object_type_order(
        "body", "Conv", 1, None
    )
    assert groups_of(plan_of(graph, mapping=mapping)) == [["/body/a"]]


def test_a_dtype_that_the_backend_lacks_is_refused() -> None:
    spec = MinMaxObserver.with_args(dtype="int16")
    mapping = QConfigMapping().set_global(QConfig(spec, default_per_channel_weight_observer))
    graph = residual_net()
    plan = plan_of(graph, mapping=mapping)
    assert not plan.groups
    (first,) = [node for node in graph.nodes if node.label == "first"]
    assert any("int16, but the backend takes" in s for s in plan.refusals[first])


def test_excluded_values_name_their_reason() -> None:
    graph = residual_net()
    (first,) = [node for node in graph.nodes if node.label == "first"]
    reason = {first.output.name: "too noisy"}
    plan = select_fusions(graph, X86, get_default_qconfig_mapping("x86"), reason)
    assert plan.refusals[first] == ("too noisy",)


def test_double_precision_and_unknown_ops_have_reasons() -> None:
    b = GraphBuilder()
    x = b.input("x", TensorType((1, 4), "float64"))
    y = b.op.MatMul(x, np.zeros((4, 4)), _name="wide")
    graph = b.output(b.op.Cast(y, to=1), b.op.Sin(x))
    plan = plan_of(graph)
    assert not plan.groups
    assert all(plan.refusals[node] for node in graph.nodes)
    (wide,) = [node for node in graph.nodes if node.label == "wide"]
    assert "not float32" in " ".join(plan.refusals[wide])


@pytest.mark.parametrize("backend", [X86, ONNX])
def test_a_plan_moves_to_a_clone(backend: BackendConfig) -> None:
    graph = residual_net()
    plan = plan_of(graph, backend)
    clone = graph.clone()
    moved = plan.on(graph, clone)
    assert groups_of(moved) == groups_of(plan)
    assert all(node.graph is clone for group in moved.groups for node in group.nodes)
    assert [g.key for g in moved.groups] == [g.key for g in plan.groups]


def test_a_computed_shape_is_no_activation() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    y = conv(b, x, 4, name="c")
    shape = b.op.Shape(x)
    moved = b.op.Reshape(y, b.op.Mul(shape, np.asarray([1, 1, 1, 1])), allowzero=0, _name="move")
    moved.type = float32(1, 4, 8, 8)
    w = weights(8, 4, 1, 1)
    graph = b.output(b.op.Conv(b.op.Relu(moved, _name="r"), w, _name="last"))
    plan = plan_of(graph)
    (move,) = [group for group in plan.groups if group.label == "move"]
    assert [value.name for value in move.inputs] == [y.name]


def test_the_sentence_of_a_dropped_group_comes_first() -> None:
    b = GraphBuilder()
    a, c = b.input("a", float32(2, 3, 4)), b.input("c", float32(2, 4, 5))
    graph = b.output(b.op.MatMul(a, c))
    plan = select_fusions(graph, X86, get_default_qconfig_mapping("x86"))
    (node,) = graph.nodes
    assert plan.refusals[node][0] == ISLAND
    assert len(plan.refusals[node]) > 1
