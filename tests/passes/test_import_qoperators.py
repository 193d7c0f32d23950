"""QOperators and Q/DQ of other domains, each held against onnxruntime's own kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph
from qcc.passes.import_qdq import ImportQdq
from tests.passes.float_models import Net, apply, feeds_for, ops_of, run

U8, S8 = np.uint8, np.int8
Build = Callable[[Net, str, Any], str]


def scale(value: float) -> np.ndarray[Any, Any]:
    return np.asarray(value, np.float32)


def full_range_feeds(graph: Graph) -> dict[str, Any]:
    random = np.random.default_rng(3)
    feeds = feeds_for(graph)
    for name, data in feeds.items():
        if data.dtype in (np.uint8, np.int8):
            info = np.iinfo(data.dtype)
            drawn = random.integers(info.min, info.max + 1, data.shape)
            feeds[name] = drawn.astype(data.dtype)
    return feeds


def imported(graph: Graph, steps: int = 1) -> Graph:
    """The graph after import; onnxruntime finds its bytes at most ``steps`` from the original's."""
    copy = graph.clone()
    assert apply(copy, ImportQdq()) == []
    feeds = full_range_feeds(graph)
    for a, b in zip(run(graph, feeds), run(copy, feeds), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.abs(a.astype(np.float64) - b.astype(np.float64)).max() <= steps
    return copy


def float_ops(graph: Graph) -> dict[str, int]:
    return {op: count for op, count in ops_of(graph).items() if not op.startswith("q.")}


def softmax(net: Net, x: str, zero: Any) -> str:
    last = (scale(1 / 256), np.array(0, zero.dtype))
    return net.op("com.microsoft.QLinearSoftmax", x, scale(0.05), zero, *last, axis=-1, opset=13)


def leaky(net: Net, x: str, zero: Any) -> str:
    operands = (x, scale(0.05), zero, scale(0.03), zero)
    return net.op("com.microsoft.QLinearLeakyRelu", *operands, alpha=0.1)


def where(net: Net, x: str, zero: Any) -> str:
    condition = net.operand(np.array([True, False, True, True]))
    operands = (condition, x, scale(0.05), zero, x, scale(0.05), zero, scale(0.04), zero)
    return net.op("com.microsoft.QLinearWhere", *operands)


def product(net: Net, x: str, zero: Any) -> str:
    operands = (x, scale(0.05), zero, x, scale(0.05), zero, scale(0.2), zero)
    return net.op("com.microsoft.QLinearMul", *operands)


def average_pool(net: Net, x: str, zero: Any) -> str:
    operands = (x, scale(0.05), zero, scale(0.04), zero)
    return net.op("com.microsoft.QLinearAveragePool", *operands, kernel_shape=[2, 2])


@pytest.mark.parametrize("zero", [U8(120), S8(-7)])
@pytest.mark.parametrize(
    ("build", "op"),
    [
        (softmax, "Softmax"),
        (leaky, "LeakyRelu"),
        (where, "Where"),
        (product, "Mul"),
        (average_pool, "AveragePool"),
    ],
)
def test_a_qlinear_op_becomes_the_float_op_between_boundaries(
    build: Build, op: str, zero: Any
) -> None:
    net = Net()
    element = str(zero.dtype)
    x = net.input("x", 1, 3, 4, 4, element=element)
    graph = imported(net.graph(build(net, x, zero), element=element))
    assert float_ops(graph) == {op: 1}
    assert graph.outputs[0].tensor.storage == element


def test_a_result_without_zero_point_has_the_dtype_of_its_operand() -> None:
    net = Net()
    x = net.input("x", 2, 3, element="int8")
    y = net.op("com.microsoft.QLinearLeakyRelu", x, scale(0.05), None, scale(0.03), alpha=0.5)
    graph = net.graph(y, element="int8")
    apply(graph, ImportQdq())
    quant = graph.outputs[0].tensor.quant
    assert quant is not None
    assert (quant.storage, quant.zero_point) == ("int8", (0,))


def test_a_mean_of_integers_reads_real_values() -> None:
    # onnxruntime knows QLinearReduceMean but has no kernel for it on CPUs.
    net = Net()
    x = net.input("x", 2, 3, 4, 5, element="uint8")
    operands = (x, scale(0.05), U8(120), scale(0.03), U8(100))
    y = net.op("com.microsoft.QLinearReduceMean", *operands, axes=[2, 3], keepdims=0)
    graph = net.graph(y, element="uint8")
    assert apply(graph, ImportQdq()) == []
    feeds = full_range_feeds(graph)
    mean = ((feeds["x"].astype(np.float64) - 120) * 0.05).mean(axis=(2, 3))
    expected = np.clip(np.rint(mean / 0.03) + 100, 0, 255)
    assert np.abs(run(graph, feeds)[0] - expected).max() <= 1
    assert graph.outputs[0].tensor.shape == (2, 3)


def channels_last_conv(net: Net, x: str) -> str:
    weight = net.random.integers(-60, 61, (4, 3, 3, 3)).astype(S8)
    scales = np.array([0.01, 0.02, 0.005, 0.04], np.float32)
    bias = net.random.integers(-100, 100, 4).astype(np.int32)
    operands = (x, scale(0.02), U8(1), weight, scales, np.zeros(4, S8), scale(0.05), U8(128), bias)
    return net.op("com.microsoft.QLinearConv", *operands, pads=[1, 1, 1, 1], channels_last=1)


def test_ops_with_channels_last_are_transposed_around_the_op() -> None:
    net = Net()
    x = net.input("x", 1, 6, 6, 3, element="uint8")
    y = channels_last_conv(net, x)
    y = net.op("com.microsoft.NhwcMaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    two = (scale(0.05), U8(128))
    y = net.op("com.microsoft.QLinearGlobalAveragePool", y, *two, *two, channels_last=1)
    graph = imported(net.graph(y, element="uint8"))
    assert float_ops(graph) == {
        "Conv": 1,
        "GlobalAveragePool": 1,
        "MaxPool": 1,
        "Transpose": 6,
    }
    assert graph.outputs[0].tensor.shape == (1, 1, 1, 4)


def test_product_by_rows_and_columns_with_scales_of_their_own() -> None:
    net = Net()
    x = net.input("x", 3, 4, element="uint8")
    weight = net.random.integers(-127, 128, (4, 5)).astype(S8)
    scales = np.linspace(0.01, 0.05, 5, dtype=np.float32)
    operands = (x, scale(0.02), U8(1), weight, scales, np.zeros(5, S8), scale(0.05), U8(99))
    graph = imported(net.graph(net.op("QLinearMatMul", *operands), element="uint8"))
    weights = [v.tensor.quant for v in graph.constants.values() if v.tensor.quant is not None]
    assert [(q.axis, len(q.scale)) for q in weights] == [(1, 5)]


def test_gemm_without_result_scale_gives_float() -> None:
    net = Net()
    x = net.input("x", 3, 4, element="uint8")
    weight = net.random.integers(-60, 61, (5, 4)).astype(S8)
    bias = net.random.integers(-1000, 1000, (1, 5)).astype(np.int32)
    operands = (x, scale(0.02), U8(1), weight, scale(0.03), S8(0), bias)
    y = net.op("com.microsoft.QGemm", *operands, transB=1, alpha=0.5)
    graph = net.graph(y)
    copy = graph.clone()
    apply(copy, ImportQdq())
    feeds = full_range_feeds(graph)
    np.testing.assert_allclose(run(copy, feeds)[0], run(graph, feeds)[0], rtol=1e-5, atol=1e-4)
    assert ops_of(copy) == {"Gemm": 1, "q.dequantize": 3}


def test_a_softmax_over_several_axes_keeps_its_op_and_says_why() -> None:
    net = Net()
    x = net.input("x", 2, 3, 4, element="uint8")
    last = (scale(1 / 256), U8(0))
    y = net.op("com.microsoft.QLinearSoftmax", x, scale(0.1), U8(3), *last, axis=1, opset=11)
    graph = net.graph(y, element="uint8")
    refusals = apply(graph, ImportQdq())
    assert any("over several axes" in sentence for _, sentence in refusals)
    assert ops_of(graph) == {"com.microsoft.QLinearSoftmax": 1}


@pytest.mark.parametrize("zero", [np.int16(0), np.uint16(30000), S8(3), U8(128)])
def test_boundaries_of_microsofts_domain_become_those_of_onnx(zero: Any) -> None:
    net = Net()
    x = net.input("x", 2, 3)
    q = net.op("com.microsoft.QuantizeLinear", x, scale(0.01), zero)
    graph = net.graph(net.op("com.microsoft.DequantizeLinear", q, scale(0.01), zero))
    copy = graph.clone()
    assert apply(copy, ImportQdq()) == []
    feeds = feeds_for(graph)
    np.testing.assert_array_equal(run(copy, feeds)[0], run(graph, feeds)[0])
    assert ops_of(copy) == {"q.quantize": 1, "q.dequantize": 1}
    assert copy.nodes[0].output.tensor.storage == str(zero.dtype)


def test_boundaries_of_quark_are_read_where_they_speak_of_integers() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    q = net.op("com.amd.quark.ExtendedQuantizeLinear", x, scale(0.01), np.int16(5))
    y = net.op("com.amd.quark.ExtendedDequantizeLinear", q, scale(0.01), np.int16(5))
    graph = net.graph(y)
    assert apply(graph, ImportQdq()) == []
    assert ops_of(graph) == {"q.quantize": 1, "q.dequantize": 1}
    feeds = {"x": np.array([[0.104, -1.0, 400.0], [0.0, 2.0, -400.0]], np.float32)}
    expected = np.clip(np.rint(feeds["x"] / scale(0.01)) + 5, -32768, 32767) - 5
    np.testing.assert_allclose(run(graph, feeds)[0], expected * scale(0.01), rtol=1e-6)
