"""Lowering: float groups between Q/DQ become integer nodes that compute the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph, Stage, Value
from qcc.passes.lower import LoweringReport, lower
from qcc.ref.evaluate import evaluate
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


def lowered(graph: Graph) -> tuple[Graph, LoweringReport]:
    clone = graph.clone()
    report = lower(clone, PATTERNS)
    assert clone.stage is Stage.LOWERED
    return clone, report


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def assert_close(builder: Numbered, graph: Graph, step: float) -> Graph:
    """The lowered graph is within one quantization step of float ops between Q/DQ."""
    feeds = builder.feeds()
    integer, report = lowered(graph)
    assert not report.refusals
    wanted, found = evaluate(graph, feeds), evaluate(integer, feeds)
    for name, value in wanted.items():
        assert np.abs(value - found[name]).max() <= step * 1.001
    return integer


def conv(builder: Numbered, x: Value, channels: int = 8, **attributes: Any) -> Value:
    n, c, h, w = x.tensor.static_shape
    weight = builder.weight((channels, c, 3, 3))
    return builder.op(
        "Conv", [x, weight, builder.bias(channels)], (n, channels, h, w), pads=[1, 1, 1, 1]
    )


def test_conv_with_residual_and_relu_is_one_node() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 8, 6, 6))
    y = b.op("Relu", [b.op("Add", [conv(b, x), x], (1, 8, 6, 6))], (1, 8, 6, 6))
    graph = assert_close(b, b.done(b.q(y, 0.3, 10)), 0.3)
    assert ops(graph) == ["q.quantize", "q.conv", "q.dequantize"]
    node = graph.nodes[1]
    assert node.input(3) is not None
    assert node.attributes["low"] == 10


def test_clip_limits_become_stored_bounds() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 4, 5, 5))
    limits = [b.constant(np.float32(-1.0)), b.constant(np.float32(6.0))]
    y = b.op("Clip", [conv(b, x), *limits], (1, 8, 5, 5))
    graph = assert_close(b, b.done(b.q(y, 0.1, 100)), 0.1)
    assert (graph.nodes[1].attributes["low"], graph.nodes[1].attributes["high"]) == (90, 160)


def test_float_result_keeps_its_relu() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 4, 5, 5))
    graph = assert_close(b, b.done(b.op("Relu", [conv(b, x)], (1, 8, 5, 5))), 1e-3)
    assert ops(graph) == ["q.quantize", "q.conv", "Relu"]


def test_stored_bias_is_taken_as_it_is() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 4), 0.05, 128)
    weight = b.weight((3, 4), 0)
    assert weight.producer is not None
    quant = weight.producer.operand(0).tensor.quant
    assert quant is not None
    from qcc import numerics
    from qcc.ir.types import Quant, TensorType, float32

    scale = numerics.bias_scale(np.float32(0.05), quant.scales)
    data = np.array([2**30 - 1, -(2**29) - 7, 12345], np.int32)
    stored = b.graph.add_constant("bias", data, TensorType((3,), Quant.make("int32", scale, 0, 0)))
    bias = b.graph.create_node("q.dequantize", [stored], [float32(3)]).output
    graph, report = lowered(b.done(b.op("Gemm", [x, weight, bias], (1, 3), transB=1)))
    assert not report.refusals
    found = graph.nodes[1].operand(2).constant
    assert found is not None
    assert found.tolist() == data.tolist()


def test_huge_bias_is_refused_with_a_sentence() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 4))
    bias = b.constant(np.full(3, 1e9, np.float32))
    graph, report = lowered(b.done(b.op("Gemm", [x, b.weight((3, 4)), bias], (1, 3), transB=1)))
    assert "Gemm" in ops(graph)
    assert "2^30" in report.refusals["gemm"][0]


def test_unsigned_weights_keep_their_zero_point() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 16))
    weight = b.weight((16, 5), None, "uint8", 120)
    y = b.op("Add", [b.op("MatMul", [x, weight], (2, 5)), b.bias(5)], (2, 5))
    assert ops(assert_close(b, b.done(b.q(y, 2.0, 128)), 2.0))[1] == "q.matmul"


@pytest.mark.parametrize("storage", ["int8", "uint8"])
def test_unary_chain_is_a_table(storage: str) -> None:
    b = Numbered()
    zero = 128 if storage == "uint8" else 0
    x = b.q(b.input("x", 3, 7), 0.05, zero, storage)
    y = b.op("Mul", [x, b.op("Sigmoid", [x], (3, 7))], (3, 7))
    graph = assert_close(b, b.done(b.q(y, 0.03, zero, storage)), 0.0)
    assert ops(graph) == ["q.quantize", "q.lut", "q.dequantize"]


def test_binary_with_constant_operand() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 3, 4))
    c = b.constant(np.array([1.5, -2.0, 0.25, 3.0], np.float32))
    y = b.op("Relu", [b.op("Mul", [x, c], (2, 3, 4))], (2, 3, 4))
    graph = assert_close(b, b.done(b.q(y, 0.1, 5)), 0.0)
    assert graph.nodes[1].op == "q.mul"
    assert graph.nodes[1].attributes["low"] == 5


def test_bytes_move_instead_of_floats() -> None:
    b = Numbered()
    turned = b.op("Transpose", [b.input("x", 1, 4, 4, 3)], (1, 3, 4, 4), perm=[0, 3, 1, 2])
    y = b.q(conv(b, b.q(turned)), 0.4)
    flat = b.op("Flatten", [y], (1, 128))
    graph = assert_close(b, b.done(flat), 0.4)
    assert ops(graph) == ["q.quantize", "q.transpose", "q.conv", "q.reshape", "q.dequantize"]


def test_another_scale_behind_a_pool_is_requantized() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 2, 6, 6), 0.05)
    y = b.op("MaxPool", [x], (1, 2, 3, 3), kernel_shape=[2, 2], strides=[2, 2])
    graph = assert_close(b, b.done(b.q(y, 0.07)), 0.07)
    assert ops(graph)[1:3] == ["q.max_pool", "q.requantize"]


def test_means_and_pools() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 3, 6, 6))
    pooled = b.op(
        "AveragePool",
        [x],
        (2, 3, 3, 3),
        kernel_shape=[3, 3],
        strides=[2, 2],
        auto_pad=b"SAME_UPPER",
    )
    mean = b.op("GlobalAveragePool", [b.q(pooled)], (2, 3, 1, 1))
    graph = assert_close(b, b.done(b.q(mean, 0.02)), 0.05)
    assert ops(graph)[1:3] == ["q.average_pool", "q.reduce_mean"]
    assert graph.nodes[1].attributes["pads"] == [0, 0, 1, 1]


def test_concat_takes_operands_of_other_scales() -> None:
    b = Numbered()
    parts = [b.q(b.input("x", 1, 2, 3), 0.05), b.q(b.input("y", 1, 4, 3), 0.11)]
    y = b.q(b.op("Concat", parts, (1, 6, 3), axis=1), 0.1)
    assert "q.concat" in ops(assert_close(b, b.done(y), 0.1))


def test_float_groups_are_nobodys_refusal() -> None:
    b = Numbered()
    x = b.input("x", 1, 4, 5, 5)
    graph, report = lowered(b.done(b.op("Relu", [x], (1, 4, 5, 5))))
    assert ops(graph) == ["Relu"]
    assert not report.refusals
    assert not report.fused


def test_computed_weight_is_refused() -> None:
    b = Numbered()
    x, w = b.q(b.input("x", 1, 4, 5, 5)), b.q(b.input("w", 8, 4, 1, 1))
    graph, report = lowered(b.done(b.q(b.op("Conv", [x, w], (1, 8, 5, 5)))))
    assert "Conv" in ops(graph)
    assert "not a quantized constant" in report.refusals["conv"][0]
