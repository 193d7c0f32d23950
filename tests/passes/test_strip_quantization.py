from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qcc.ir.core import Graph, Stage
from qcc.ir.types import Quant
from qcc.passes.dequantize_constants import dequantized_constant
from qcc.passes.import_qdq import ImportQdq
from qcc.passes.strip_quantization import (
    RecordedRange,
    Stripped,
    dequantize_biases,
    spread_ranges,
    store_signed,
    strip_quantization,
)
from tests.passes.float_models import Net, apply, feeds_for, ops_of, run
from tests.passes.test_import_qdq import S8, U8, both, conv_net, quantized, real

F32 = np.float32


def numbered(net: Net, *outputs: str, element: str = "float32") -> Graph:
    graph = net.graph(*outputs, element=element)
    assert apply(graph, ImportQdq()) == []
    return graph


def close(graph: Graph, stripped: Stripped, tolerance: float) -> None:
    """The float model gives what the quantized one gives, but for rounding of activations."""
    feeds = feeds_for(graph)
    wanted, found = run(graph, feeds)[0], run(stripped.graph, feeds)[0]
    assert wanted.dtype == found.dtype
    assert np.abs(wanted.astype(F32) - found.astype(F32)).max() <= tolerance


def test_weights_and_biases_become_the_floats_that_they_stand_for() -> None:
    net = Net()
    graph = numbered(net, both(net, conv_net(net, net.input("x", 1, 3, 6, 6)), 2.0, S8(3)))
    stripped = strip_quantization(graph)
    assert stripped.graph.stage is Stage.FLOAT
    assert ops_of(stripped.graph)["Conv"] == 1
    assert not any(op.startswith("q.") for op in ops_of(stripped.graph))
    assert all(value.tensor.quant is None for value in stripped.graph.values())
    close(graph, stripped, 4.1)
    assert stripped.uneven == ()


def test_each_activation_keeps_its_range() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    y = net.op("Neg", both(net, x, 0.05, U8(100)))
    graph = numbered(net, both(net, y, 0.1, S8(0)))
    ranges = strip_quantization(graph).ranges
    assert ranges["x"] == RecordedRange(-100 * F32(0.05), 155 * F32(0.05), F32(0.05))
    assert ranges[y] == RecordedRange(-128 * F32(0.1), 127 * F32(0.1), F32(0.1), symmetric=True)


def test_a_relu_that_the_zero_point_had_replaced_comes_back() -> None:
    net = Net()
    y = net.op("Neg", net.input("x", 8, 8))
    graph = numbered(net, both(net, y, 0.1, U8(0)))
    stripped = strip_quantization(graph)
    assert ops_of(stripped.graph) == {"Identity": 1, "Neg": 1, "Relu": 1}
    (name,) = stripped.ranges
    assert stripped.ranges[name].low == 0
    assert stripped.graph.value(name).producer is not None
    close(graph, stripped, 0.051)


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Abs"])
def test_what_is_never_negative_gets_no_relu(op: str) -> None:
    net = Net()
    y = net.op("MaxPool", net.op(op, net.input("x", 1, 1, 4, 4)), kernel_shape=[2, 2])
    stripped = strip_quantization(numbered(net, both(net, y, 0.1, U8(0))))
    assert ops_of(stripped.graph).get("Relu", 0) == (op == "Relu")


def test_a_clip_in_front_limits_the_range() -> None:
    net = Net()
    y = net.op("Clip", net.input("x", 4), 0.0, 3.03)
    stripped = strip_quantization(numbered(net, both(net, y, 0.1, U8(0))))
    assert stripped.ranges[y] == RecordedRange(0.0, float(F32(3.03)), F32(0.1))


def test_integer_inputs_and_outputs_keep_their_dtype_and_meaning() -> None:
    net = Net()
    x = net.input("x", 3, 4, element="uint8")
    y = quantized(net, net.op("Neg", real(net, x, 0.02, U8(128))), 0.01, U8(200))
    graph = numbered(net, y, element="uint8")
    stripped = strip_quantization(graph)
    assert [value.tensor.element for value in stripped.graph.inputs] == ["uint8"]
    assert [value.tensor.element for value in stripped.graph.outputs] == ["uint8"]
    feeds = {"x": np.arange(0, 240, 20, dtype=U8).reshape(3, 4)}
    np.testing.assert_array_equal(run(stripped.graph, feeds)[0], run(graph, feeds)[0])


def test_weights_beyond_symmetric_bytes_are_named() -> None:
    net = Net()
    stored = np.array([[0, 255], [3, 4]], U8)
    w = real(net, stored, 0.1, U8(10))
    graph = numbered(net, net.op("MatMul", both(net, net.input("x", 3, 2)), w))
    (name,) = [v.name for v in graph.constants.values()]
    assert strip_quantization(graph).uneven == (name,)


def test_ranges_spread_over_ops_that_keep_them() -> None:
    net = Net()
    x = net.op("Neg", net.input("x", 1, 4, 4, 4))
    pooled = net.op("AveragePool", x, kernel_shape=[2, 2])
    flat = net.op("Flatten", net.op("Relu", pooled))
    before = net.op("Transpose", net.input("z", 4, 1, 4, 4), perm=[1, 0, 2, 3])
    joined = net.op("Concat", x, before, axis=1)
    graph = net.graph(flat, joined)
    found = spread_ranges(graph, {x: RecordedRange(-2, 3, 0.1), before: RecordedRange(-9, 1, 0.2)})
    assert found[pooled] == RecordedRange(-2, 3, 0.1)
    assert found[flat] == RecordedRange(0, 3, 0.1)
    assert found[joined] == RecordedRange(-9, 3, 0.1)
    assert found["z"] == RecordedRange(-9, 1, 0.2)
    assert "x" not in found


def test_bytes_around_128_become_signed_bytes_around_0() -> None:
    net = Net()
    weight = net.random.integers(0, 256, (4, 5)).astype(U8)
    x = both(net, net.input("x", 3, 4), 0.05, U8(128))
    y = net.op("MatMul", x, real(net, weight, 0.1, U8(128)))
    graph = numbered(net, both(net, y, 0.3, U8(7)))
    before = run(graph, feeds_for(graph))[0]
    assert store_signed(graph) == 2
    np.testing.assert_array_equal(run(graph, feeds_for(graph))[0], before)
    quants = [n.output.tensor.quant for n in graph.nodes if n.op == "q.quantize"]
    assert quants == [Quant.make("int8", 0.05, 0), Quant.make("uint8", 0.3, 7)]


def test_integer_biases_become_floats_and_nothing_else_does() -> None:
    net = Net()
    graph = numbered(net, both(net, conv_net(net, net.input("x", 1, 3, 6, 6)), 0.1, S8(3)))
    before = run(graph, feeds_for(graph))[0]
    assert dequantize_biases(graph) == 1
    assert ops_of(graph) == {"Conv": 1, "q.dequantize": 3, "q.quantize": 2}
    np.testing.assert_array_equal(run(graph, feeds_for(graph))[0], before)


def test_biases_of_8_bits_become_floats_too() -> None:
    net = Net()
    bias = real(net, np.array([1, -2, 3, 4], S8), 0.25, S8(0))
    w = real(net, net.random.integers(-127, 128, (4, 3, 1, 1)).astype(S8), 0.01, S8(0))
    y = net.op("Conv", both(net, net.input("x", 1, 3, 4, 4)), w, bias)
    graph = numbered(net, y)
    assert dequantize_biases(graph) == 1
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert np.asarray(conv.operand(2).constant).tolist() == [0.25, -0.5, 0.75, 1.0]


# -- constants behind DequantizeLinear in forms that have no integer kernel ------------------------


def constant_of(net: Net, y: str) -> np.ndarray[tuple[int, ...], np.dtype[F32]]:
    graph = net.graph(net.op("Add", y, net.input("x", 1)))
    node = next(node for node in graph.nodes if node.op == "DequantizeLinear")
    data = dequantized_constant(node)
    assert data is not None
    expected = run(graph, {"x": np.zeros(1, F32)})[0]
    np.testing.assert_array_equal(data, expected)
    return data


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_blocks(axis: int) -> None:
    net = Net()
    weight = net.random.integers(-128, 128, (6, 8)).astype(S8)
    shape = [6, 8]
    shape[axis] //= 2
    scale = np.abs(net.normal(*shape)) + F32(0.1)
    zero = net.random.integers(-8, 8, shape).astype(S8)
    y = net.op("DequantizeLinear", weight, scale, zero, axis=axis, block_size=2)
    assert constant_of(net, y).shape == (6, 8)


def test_a_last_block_that_is_shorter() -> None:
    net = Net()
    weight = net.random.integers(-128, 128, (5, 4)).astype(S8)
    scale = np.abs(net.normal(2, 4)) + F32(0.1)
    y = net.op("DequantizeLinear", weight, scale, axis=0, block_size=3)
    assert constant_of(net, y).shape == (5, 4)


@pytest.mark.parametrize("dtype", [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn])
def test_values_of_few_bits(dtype: type) -> None:
    net = Net()
    weight: Any = np.arange(0, 8).astype(dtype)
    y = net.op("DequantizeLinear", weight, np.asarray(0.5, F32), np.zeros((), dtype))
    assert constant_of(net, y).tolist() == [0.5 * k for k in range(8)]
