"""LSTM and GRU of the reference against onnxruntime, and the forms that stay in onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcc.ir.core import Graph, Node
from qcc.ir.integer.region import region_body
from qcc.onnxio import read_onnx
from qcc.passes.outline_float import outline_float
from qcc.ref.float_ops import is_native_float
from qcc.ref.recurrent import GATES, evaluate_recurrent, recurrence_of

TOLERANCE = 2e-6
"""Values are at most about 1, and both sides add some tens of products in float32."""

STEPS, BATCH, INPUTS, HIDDEN = 7, 2, 5, 9


def model(kind: str, given: dict[str, Any] | None = None, **attributes: Any) -> bytes:
    """One node whose input is ``x``; ``given`` are its constants from the fifth operand on."""
    rng = np.random.default_rng(7)
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    count = GATES[kind] * HIDDEN
    constants = {
        "w": rng.normal(0, 0.5, (ways, count, INPUTS)).astype(np.float32),
        "r": rng.normal(0, 0.5, (ways, count, HIDDEN)).astype(np.float32),
        "b": rng.normal(0, 0.5, (ways, 2 * count)).astype(np.float32),
    }
    if given is None:
        given = {"lengths": None} | {
            name: rng.normal(0, 1, (ways, BATCH, HIDDEN)).astype(np.float32)
            for name in (("h", "c") if kind == "LSTM" else ("h",))
        }
    constants |= {name: array for name, array in given.items() if array is not None}
    inputs = ["x", "w", "r", "b", *(name if a is not None else "" for name, a in given.items())]
    outputs = ["y", "y_h", "y_c"] if kind == "LSTM" else ["y", "y_h"]
    node = helper.make_node(kind, inputs, outputs, hidden_size=HIDDEN, **attributes)
    shape = [BATCH, STEPS, INPUTS] if attributes.get("layout") else [STEPS, BATCH, INPUTS]
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=9)
    serialized: bytes = proto.SerializeToString()
    return serialized


def node_of(graph: Graph) -> Node:
    return next(node for node in graph.nodes if node.op in GATES)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1})],
)
def test_onnxruntime_gives_the_same(kind: str, attributes: dict[str, Any], direction: str) -> None:
    made = model(kind, direction=direction, **attributes)
    x = np.random.default_rng(1).normal(0, 1, (STEPS, BATCH, INPUTS)).astype(np.float32)
    session = ort.InferenceSession(made, providers=["CPUExecutionProvider"])
    node = node_of(read_onnx(made))
    assert is_native_float(node)
    arrays = [None if v is None else x if v.constant is None else v.constant for v in node.inputs]
    for ours, theirs in zip(
        evaluate_recurrent(node, arrays), session.run(None, {"x": x}), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_activations_that_are_the_defaults_are_known() -> None:
    names = ["Sigmoid", "Tanh", "Tanh"] * 2
    made = model("LSTM", direction="bidirectional", activations=names)
    assert is_native_float(node_of(read_onnx(made)))


LENGTHS = {"lengths": np.full(BATCH, STEPS, np.int32)}
PEEPHOLES = {"lengths": None, "h": None, "c": None, "p": np.ones((1, 3 * HIDDEN), np.float32)}


@pytest.mark.parametrize(
    ("kind", "given", "attributes", "reason"),
    [
        ("GRU", LENGTHS, {}, "lengths of sequences"),
        ("LSTM", PEEPHOLES, {}, "peepholes"),
        ("LSTM", None, {"clip": 1.0}, "clips"),
        ("LSTM", None, {"input_forget": 1}, "couples"),
        ("GRU", {}, {"layout": 1}, "first axis"),
        ("GRU", None, {"activations": ["Sigmoid", "Relu"]}, "other activations"),
    ],
)
def test_other_forms_run_in_a_region_that_says_why(
    kind: str, given: dict[str, Any] | None, attributes: dict[str, Any], reason: str
) -> None:
    graph = read_onnx(model(kind, given, **attributes))
    node = node_of(graph)
    assert not is_native_float(node)
    sentence = recurrence_of(node)
    assert isinstance(sentence, str)
    assert reason in sentence
    (region,) = outline_float(graph)
    assert [inner.op for inner in region_body(region).nodes] == [kind]
    assert reason in region.attributes["reason"]
