"""The float passes inside the bodies of If and Loop."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from qcc.ir.core import Graph
from qcc.onnxio import read_onnx
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.fold_batchnorm import FoldBatchNorm
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.manager import Pass, pass_registry
from qcc.passes.refuse_hardswish import RefuseHardSwish
from tests.passes.float_models import check, feeds_for, ops_of, relative_error, run

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
PASSES: tuple[Pass, ...] = (
    FoldConstants(),
    Canonicalize(),
    RefuseHardSwish(),
    FoldBatchNorm(),
    EliminateDead(),
)


def constant(name: str, data: np.ndarray) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(data))


def info(name: str, kind: int, shape: list[int] | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[NodeProto], inputs: list[ValueInfoProto], initializers: dict[str, np.ndarray]
) -> Graph:
    tensors = [numpy_helper.from_array(data, name) for name, data in initializers.items()]
    graph: GraphProto = helper.make_graph(nodes, "g", inputs, [info("y", FLOAT, None)], tensors)
    opsets = [helper.make_opsetid("", 21)]
    return read_onnx(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def loop() -> Graph:
    """Three turns of: h = hardswish(h * w + outer) where outer is computed outside."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still_going"]),
            constant("two", np.full((3,), 2.0, np.float32)),
            helper.make_node("Exp", ["two"], ["w"]),
            helper.make_node("Neg", ["two"], ["unused"]),
            helper.make_node("Mul", ["h", "w"], ["scaled"]),
            helper.make_node("Add", ["scaled", "outer"], ["sum"]),
            constant("three", np.array(3.0, np.float32)),
            constant("zero", np.array(0.0, np.float32)),
            constant("six", np.array(6.0, np.float32)),
            helper.make_node("Add", ["sum", "three"], ["shifted"]),
            helper.make_node("Clip", ["shifted", "zero", "six"], ["gate"]),
            helper.make_node("Mul", ["sum", "gate"], ["product"]),
            helper.make_node("Div", ["product", "six"], ["swish"]),
            helper.make_node("Identity", ["swish"], ["h_out"]),
        ],
        "body",
        [info("turn", INT64, []), info("going", BOOL, []), info("h", FLOAT, [2, 3])],
        [info("still_going", BOOL, []), info("h_out", FLOAT, [2, 3])],
    )
    return model(
        [
            helper.make_node("Relu", ["x"], ["outer"]),
            helper.make_node("Neg", ["x"], ["start"]),
            helper.make_node("Loop", ["turns", "", "start"], ["y"], body=body),
        ],
        [info("x", FLOAT, [2, 3])],
        {"turns": np.array(3)},
    )


def branches() -> Graph:
    """If(flag): conv + batch-norm of a captured value, else: a reshape by a computed shape."""
    ones = np.ones(4, np.float32)
    norm = ["conv", "scale", "shift", "mean", "variance"]
    then = helper.make_graph(
        [
            helper.make_node("Conv", ["outer", "weight"], ["conv"]),
            helper.make_node("BatchNormalization", norm, ["then_y"]),
        ],
        "then",
        [],
        [info("then_y", FLOAT, None)],
        [
            numpy_helper.from_array(ones * 3, "scale"),
            numpy_helper.from_array(ones * 2, "shift"),
            numpy_helper.from_array(ones * 0.5, "mean"),
            numpy_helper.from_array(ones * 0.7, "variance"),
        ],
    )
    otherwise = helper.make_graph(
        [
            helper.make_node("Identity", ["outer"], ["same"]),
            helper.make_node("Shape", ["same"], ["shape"]),
            helper.make_node("Reshape", ["same", "shape"], ["reshaped"]),
            helper.make_node("Identity", ["reshaped"], ["else_y"]),
        ],
        "else",
        [],
        [info("else_y", FLOAT, None)],
    )
    weight = np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype(np.float32)
    return model(
        [
            helper.make_node("Relu", ["x"], ["outer"]),
            helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=otherwise),
        ],
        [info("x", FLOAT, [1, 3, 4, 4]), info("flag", BOOL, [])],
        {"weight": weight},
    )


def test_loop_body() -> None:
    result = check(loop(), *PASSES)
    assert ops_of(result) == {
        "Add": 1,
        "HardSwish": 1,
        "Identity": 1,  # the condition goes through: a body must give it out of a node of its own
        "Loop": 1,
        "Mul": 1,
        "Neg": 1,
        "Relu": 1,
    }


@pytest.mark.parametrize("flag", [True, False])
def test_branches_with_captured_values(flag: bool) -> None:
    graph = branches()
    copy = graph.clone()
    for item in PASSES:
        copy = check(copy, item)
    feeds = {**feeds_for(graph), "flag": np.array(flag)}
    assert relative_error(run(graph, feeds), run(copy, feeds)) <= 2e-6
    assert "BatchNormalization" not in ops_of(copy)


def test_every_pass_is_registered() -> None:
    names = set(pass_registry())
    assert {item.name for item in PASSES} <= names
    assert {"import-qdq", "refuse-layernorm", "refuse-gelu", "refuse-softmax"} <= names
    assert {"refuse-hardsigmoid", "refuse-leakyrelu", "specialize"} <= names
