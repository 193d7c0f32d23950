"""suit-onnxruntime: the same numbers in a form whose kernels are exact."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.onnx.config import CONFIG as ONNX
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph, Stage
from qcc.ir.types import float32
from qcc.onnxio import to_model_proto
from qcc.passes.manager import PassManager, parse_pass_list
from qcc.pipeline import convert, prepare
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import feeds, residual_net


def suited(graph: Graph, unsigned: bool) -> Graph:
    copy = graph.clone()
    option = "{unsigned-weights=true}" if unsigned else ""
    PassManager(parse_pass_list(f"suit-onnxruntime{option}")).run(copy)
    return copy


def quantized() -> Graph:
    graph = residual_net()
    return convert(prepare(graph, None, ONNX).calibrate(feeds(graph))).graph


@pytest.mark.parametrize("unsigned", [False, True])
def test_not_one_bit_changes(unsigned: bool) -> None:
    graph = quantized()
    changed = suited(graph, unsigned)
    for feed in feeds(graph, 3, seed=11):
        for name, value in evaluate(graph, feed).items():
            np.testing.assert_array_equal(evaluate(changed, feed)[name], value)


def test_weights_become_unsigned_on_request_only() -> None:
    graph = quantized()
    for unsigned, storage in ((False, "int8"), (True, "uint8")):
        weights = [
            node.operand(1).producer
            for node in suited(graph, unsigned).nodes
            if node.op in ("Conv", "Gemm")
        ]
        assert {w.operand(0).tensor.storage for w in weights if w is not None} == {storage}


def test_unsigned_weights_are_exact_in_fused_kernels() -> None:
    ort = pytest.importorskip("onnxruntime")
    changed = suited(quantized(), True)
    model = to_model_proto(changed).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    for feed in feeds(changed, 4, seed=5):
        (found,) = session.run(None, feed)
        (exact,) = evaluate(changed, feed).values()
        np.testing.assert_allclose(found, exact, atol=0.02)


def test_dilations_of_one_are_dropped_from_pools() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 2, 8, 8))
    y = b.op.AveragePool(x, kernel_shape=[2, 2], dilations=[1, 1])
    z = b.op.AveragePool(y, kernel_shape=[2, 2], dilations=[2, 2])
    graph = b.output(z)
    graph.stage = Stage.NUMBERED
    first, second = suited(graph, False).nodes
    assert "dilations" not in first.attributes
    assert second.attributes["dilations"] == [2, 2]
