"""What is not quantized becomes float16, as far as each op's schema allows."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.registry import backend_config
from qcc.errors import ConfigError
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph, Stage
from qcc.ir.types import Quant, float32
from qcc.onnxio import to_model_proto
from qcc.passes.float_weights import FloatWeights
from qcc.passes.manager import PassManager
from qcc.passes.use_float16 import LARGEST, UseFloat16, rounded
from qcc.pipeline import convert, prepare
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import feeds


def numbered(graph: Graph, backend: str = "tensorrt") -> Graph:
    prepared = prepare(graph, backend=backend_config(backend)).calibrate(feeds(graph, 2))
    return convert(prepared).graph


def halved(graph: Graph) -> Graph:
    PassManager([UseFloat16()]).run(graph)
    return graph


def resizing() -> Graph:
    """A Conv, a Resize by float32 scales, a sum, and a mask that float16 cannot hold."""
    random = np.random.default_rng(0)
    b = GraphBuilder()
    x = b.input("x", float32(1, 16, 6, 6))
    w = random.normal(size=(16, 16, 3, 3)).astype(np.float32)
    y = b.op.Conv(x, b.constant(w, "w"), pads=[1, 1, 1, 1])
    scales = b.constant(np.array([1, 1, 2, 2], np.float32), "scales")
    y = b.op.Resize(y, b.constant(np.zeros(0, np.float32), "roi"), scales, mode="linear")
    y = b.op.Add(y, b.constant(np.full((1, 16, 1, 1), -1e9, np.float32), "mask"))
    return b.output(b.op.ReduceSum(y, b.constant(np.array([2, 3]), "axes")))


def elements(graph: Graph) -> dict[str, str]:
    return {
        node.op: node.output.tensor.storage
        for node in graph.nodes
        if node.op not in ("Cast", "q.quantize")
    }


def test_ops_become_float16_but_those_that_overflow() -> None:
    graph = halved(numbered(resizing()))
    found = elements(graph)
    assert found["Conv"] == found["Resize"] == found["Add"] == found["q.dequantize"] == "float16"
    assert found["ReduceSum"] == "float32"
    assert [value.tensor.storage for value in (*graph.inputs, *graph.outputs)] == ["float32"] * 2
    assert graph.stage is Stage.NUMBERED


def test_operands_that_are_float32_by_definition_stay() -> None:
    graph = halved(numbered(resizing()))
    (resize,) = (node for node in graph.nodes if node.op == "Resize")
    assert resize.operand(2).tensor.storage == "float32"


def test_constants_are_cut_to_what_float16_holds() -> None:
    graph = halved(numbered(resizing()))
    (add,) = (node for node in graph.nodes if node.op == "Add")
    mask = next(value for value in add.inputs if value is not None and value.is_constant)
    np.testing.assert_array_equal(np.unique(np.asarray(mask.constant, np.float32)), [-LARGEST])


def test_names_of_the_interface_stay() -> None:
    graph = numbered(resizing())
    names = [value.name for value in (*graph.inputs, *graph.outputs)]
    assert [value.name for value in (*halved(graph).inputs, *graph.outputs)] == names


def test_scales_are_what_the_file_can_say() -> None:
    quant = rounded(Quant.make("int8", [0.1, 1e-9, 3.0], 0, axis=0))
    scales = np.asarray(quant.scale, np.float32)
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert np.all(scales > 0)
    proto = to_model_proto(halved(numbered(resizing())))
    (quantize,) = (node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    stored = {item.name: item for item in proto.graph.initializer}
    assert stored[quantize.input[1]].data_type == 10  # FLOAT16


def test_integer_biases_are_refused() -> None:
    with pytest.raises(ConfigError, match="int32 bias"):
        UseFloat16().run(numbered(resizing(), "onnx"), None)  # type: ignore[arg-type]


def test_float_weights_are_the_same_numbers() -> None:
    graph = numbered(resizing())
    feed = feeds(graph, 1)[0]
    before = next(iter(evaluate(graph, feed).values()))
    PassManager([FloatWeights()]).run(graph)
    (conv,) = (node for node in graph.nodes if node.op == "Conv")
    dequantize = conv.operand(1).producer
    assert dequantize is not None
    quantize = dequantize.operand(0).producer
    assert quantize is not None
    assert quantize.op == "q.quantize"
    assert quantize.operand(0).tensor.is_float
    np.testing.assert_array_equal(next(iter(evaluate(graph, feed).values())), before)
