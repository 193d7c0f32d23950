"""The BackendConfigs of AArch64, and which one a target takes its numbers from."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcc.backends.registry import backend_config
from qcc.ir.core import Graph
from qcc.ir.types import Quant
from qcc.onnxio import read_onnx
from qcc.pipeline import convert, prepare
from qcc.runtime.build import native_backend_name


def model() -> Graph:
    """Two convolutions of 4 channels."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, 1, (4, 4, 3, 3)).astype(np.float32), f"w{i}")
        for i in range(2)
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["h"], kernel_shape=[3, 3]),
        helper.make_node("Conv", ["h", "w1"], ["y"], kernel_shape=[3, 3]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])
    graph = helper.make_graph(nodes, "two", [x], [y], weights)
    opset = [helper.make_opsetid("", 21)]
    return read_onnx(
        helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    )


def stored(backend: str, scale: float = 1.0) -> tuple[list[Quant], list[Quant]]:
    """What the graph that ``backend`` gives stores activations and weights as."""
    config = backend_config(backend)
    prepared = prepare(model(), None, config)
    rng = np.random.default_rng(1)
    data = [{"x": (scale * rng.normal(0, 1, (1, 4, 8, 8))).astype(np.float32)} for _ in range(3)]
    prepared.calibrate(data)
    graph = convert(prepared).graph
    values = {v for node in graph.nodes for v in (*node.inputs, *node.outputs) if v is not None}
    found = [(v.is_constant, v.tensor.quant) for v in values if v.tensor.quant is not None]
    bytes_ = [(constant, quant) for constant, quant in found if quant.storage != "int32"]
    return [q for constant, q in bytes_ if not constant], [q for constant, q in bytes_ if constant]


@pytest.mark.parametrize(
    ("backend", "activations", "per_channel"),
    [
        ("arm", "int8", True),
        ("xnnpack", "int8", True),
        ("qnnpack", "uint8", False),
    ],
)
def test_what_activations_and_weights_are_stored_as(
    backend: str, activations: str, per_channel: bool
) -> None:
    values, weights = stored(backend)
    assert {quant.storage for quant in values} == {activations}
    assert {quant.storage for quant in weights} == {"int8"}
    assert {len(quant.scales) > 1 for quant in weights} == {per_channel}


def test_scales_of_xnnpack_are_not_below_its_least() -> None:
    values, _ = stored("xnnpack", scale=4e-3)
    assert min(min(quant.scales) for quant in values) >= 2.0**-12
    values, _ = stored("arm", scale=4e-3)
    assert min(min(quant.scales) for quant in values) < 2.0**-12


def test_a_target_takes_the_numbers_that_suit_all_its_instruction_sets() -> None:
    assert native_backend_name("arm-neon") == "arm"
    assert native_backend_name("arm-i8mm,arm-dotprod") == "arm"
    assert native_backend_name("arm-dotprod,x86-avx512vnni") == "x86"
    assert native_backend_name("arm-dotprod,x86-avx2") == "x86-avx2"
