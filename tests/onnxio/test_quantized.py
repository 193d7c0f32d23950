"""Quantized types are written as QuantizeLinear and DequantizeLinear that compute the contract."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from qcc import numerics
from qcc.errors import ConfigError
from qcc.ir.core import Graph, Stage
from qcc.ir.types import Quant, TensorType, float32
from qcc.onnxio import read_onnx, to_model_proto
from tests.onnxio.models import RUNTIME_OPSET, run_in_runtime

SHAPE = (2, 3, 4)


def quantizer(quant: Quant, shape: tuple[int, ...] = SHAPE) -> Graph:
    """x -> quantize -> (stored output) -> dequantize -> output."""
    graph = Graph("g")
    graph.info.opsets[""] = 21
    graph.stage = Stage.NUMBERED
    x = graph.add_input("x", float32(*shape))
    q = graph.create_node("q.quantize", [x], [TensorType(shape, quant)], output_names=["q"])
    y = graph.create_node("q.dequantize", [q.output], [float32(*shape)], output_names=["y"])
    graph.set_outputs([q.output, y.output])
    return graph


def initializers(proto: ModelProto) -> dict[str, NDArray[Any]]:
    """The initializers by name."""
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


@st.composite
def quants(draw: st.DrawFn) -> Quant:
    """Per-tensor and per-channel parameters, ranges narrowed or not."""
    storage = draw(st.sampled_from(["int8", "uint8", "int16", "uint16"]))
    bottom, top = numerics.STORAGE_RANGE[storage]
    axis = draw(st.sampled_from([None, 0, 1, 2]))
    count = 1 if axis is None else SHAPE[axis]
    low = draw(st.integers(bottom, bottom + 40))
    high = draw(st.integers(top - 40, top))
    scales = draw(st.lists(st.floats(2**-13, 10, width=32), min_size=count, max_size=count))
    zeros = draw(st.lists(st.integers(low, high), min_size=count, max_size=count))
    return Quant.make(storage, scales, zeros, axis, low, high)


@given(quants(), st.integers(0, 2**32 - 1), st.sampled_from([13, 19, 21, RUNTIME_OPSET]))
@settings(max_examples=60, deadline=None)
def test_the_file_computes_the_contract(quant: Quant, seed: int, opset: int) -> None:
    if quant.storage.endswith("16"):
        opset = max(opset, 21)
    random = np.random.default_rng(seed)
    reach = max(quant.scale) * (quant.range[1] - quant.range[0])
    x = random.uniform(-reach, reach, SHAPE).astype(np.float32)
    q, y = run_in_runtime(to_model_proto(quantizer(quant), opset=opset), {"x": x})
    wanted = numerics.quantize(
        x,
        quant.scale,
        quant.zero_point,
        quant.storage,
        axis=quant.axis,
        low=quant.range[0],
        high=quant.range[1],
    )
    np.testing.assert_array_equal(q, wanted)
    found = numerics.dequantize(wanted, quant.scale, quant.zero_point, axis=quant.axis)
    np.testing.assert_array_equal(y, found)


def test_zero_points_are_explicit_and_parameters_shared() -> None:
    proto = to_model_proto(quantizer(Quant.make("int8", 0.5, 0)))
    quantize, dequantize = proto.graph.node
    assert (quantize.op_type, dequantize.op_type) == ("QuantizeLinear", "DequantizeLinear")
    assert list(quantize.input)[1:] == list(dequantize.input)[1:] == ["q_scale", "q_zero_point"]
    assert not quantize.attribute
    arrays = initializers(proto)
    assert arrays["q_scale"] == np.float32(0.5)
    assert arrays["q_zero_point"].dtype == np.int8
    assert arrays["q_zero_point"].shape == ()
    onnx.checker.check_model(proto, full_check=True)


def test_parameter_names_do_not_clash() -> None:
    graph = quantizer(Quant.make("int8", 0.5, 0))
    graph.set_outputs([*graph.outputs, graph.add_constant("q_scale", np.zeros(3, np.float32))])
    names = [item.name for item in to_model_proto(graph).graph.initializer]
    assert len(names) == len(set(names)) == 3


@pytest.mark.parametrize("opset", [10, 11, 13, 21])
def test_narrowed_per_tensor_range_in_every_opset(opset: int) -> None:
    graph = quantizer(Quant.make("int8", 0.1, 3, low=-100, high=90))
    x = np.linspace(-20, 20, 24, dtype=np.float32).reshape(SHAPE)
    q, _ = run_in_runtime(to_model_proto(graph, opset=opset), {"x": x})
    np.testing.assert_array_equal(q, numerics.quantize(x, 0.1, 3, "int8", low=-100, high=90))


def test_quantized_constants_are_stored_integers() -> None:
    graph = Graph("g")
    graph.info.opsets[""] = 21
    outputs = []
    for storage in ("int8", "uint8", "int32", "int4", "uint4", "int16"):
        quant = Quant.make(storage, [0.5, 0.25], 0, 0)
        data = np.asarray([[1, 2, 3], [4, 5, 6]]).astype(numerics.storage_dtype(storage))
        value = graph.add_constant(f"w_{storage}", data, TensorType((2, 3), quant))
        node = graph.create_node("q.dequantize", [value], [float32(2, 3)])
        outputs.append(node.output)
    graph.set_outputs(outputs)
    proto = to_model_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    stored = initializers(proto)
    assert stored["w_int8"].dtype == np.int8
    assert stored["w_int32"].dtype == np.int32
    assert stored["w_int4"].dtype == ml_dtypes.int4
    wanted = np.asarray([[0.5, 1, 1.5], [1, 1.25, 1.5]], np.float32)
    for found in run_in_runtime(proto, {}):
        np.testing.assert_array_equal(found, wanted)


def test_quantized_inputs_and_outputs_are_integers() -> None:
    quant = Quant.make("uint8", 0.5, 128)
    graph = Graph("g")
    graph.info.opsets[""] = 21
    x = graph.add_input("x", TensorType(("n", 3), quant))
    flat = graph.create_node("Transpose", [x], [TensorType((3, "n"), quant)])
    graph.set_outputs([flat.output])
    proto = to_model_proto(graph)
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    x8 = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.testing.assert_array_equal(run_in_runtime(proto, {"x": x8})[0], x8.T)


def test_quantization_inside_a_body() -> None:
    quant = Quant.make("int8", 0.25, 0)
    graph = Graph("g")
    graph.info.opsets[""] = 21
    flag, x = graph.add_input("flag", TensorType((), "bool")), graph.add_input("x", float32(4))
    bodies = []
    for name in ("then", "else"):
        body = Graph(name, graph)
        q = body.create_node("q.quantize", [x], [TensorType((4,), quant)])
        y = body.create_node("q.dequantize", [q.output], [float32(4)])
        body.set_outputs([y.output])
        bodies.append(body)
    node = graph.create_node(
        "If",
        [flag],
        [float32(4)],
        attributes={"then_branch": bodies[0], "else_branch": bodies[1]},
    )
    graph.set_outputs([node.output])
    proto = to_model_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    x4 = np.asarray([0.1, 0.3, 1, -50], np.float32)
    (y4,) = run_in_runtime(proto, {"flag": np.asarray(True), "x": x4})
    np.testing.assert_array_equal(y4, np.asarray([0, 0.25, 1, -32], np.float32))


def test_reading_keeps_qdq_nodes() -> None:
    proto = to_model_proto(quantizer(Quant.make("int8", [1.0, 2.0, 3.0], 0, 1)))
    graph = read_onnx(proto)
    assert [node.op for node in graph.nodes] == ["QuantizeLinear", "DequantizeLinear"]
    assert graph.nodes[0].attributes == {"axis": 1}
    assert to_model_proto(graph).SerializeToString() == proto.SerializeToString()


@pytest.mark.parametrize(
    ("quant", "opset", "words"),
    [
        (Quant.make("int8", [1.0, 2.0, 3.0], 0, 1), 12, "per channel.*opset 13"),
        (Quant.make("int16", 1.0, 0), 20, "int16.*opset 21"),
        (Quant.make("int4", 1.0, 0), 19, "int4.*opset 21"),
        (Quant.make("int8", 1.0, 0), 9, "opsets 10 to 25, not 9"),
        (Quant.make("int8", 1.0, 0), 26, "opsets 10 to 25, not 26"),
        (Quant.make("int32", 1.0, 0), 21, "int32.*QuantizeLinear"),
    ],
)
def test_what_an_opset_cannot_say_is_refused(quant: Quant, opset: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        to_model_proto(quantizer(quant), opset=opset)


def test_integer_ops_are_refused() -> None:
    quant = Quant.make("int8", 1.0, 0)
    graph = Graph("g")
    x = graph.add_input("x", TensorType((2,), quant))
    node = graph.create_node("q.add", [x, x], [TensorType((2,), quant)], name="sum")
    graph.set_outputs([node.output])
    with pytest.raises(ConfigError, match=r"q\.add.*before it is lowered.*'sum'"):
        to_model_proto(graph)
