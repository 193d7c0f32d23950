"""Float ops become q.float_* ops with what follows them, and compute what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.verify import verify
from qcc.passes.lower_float import lower_float
from qcc.ref.evaluate import evaluate
from tests.passes.numbered import Numbered

IMAGE = (2, 4, 6, 7)


class Floats(Numbered):
    """Float graphs by hand; weights are constants."""

    def numbers(self, *shape: int) -> Value:
        return self.constant(self.random.normal(size=shape).astype(np.float32))

    def conv(self, x: Value, columns: int = 5, *, bias: bool = True, **attributes: Any) -> Value:
        channels = x.tensor.static_shape[1]
        operands = [x, self.numbers(columns, channels, 3, 3)]
        operands += [self.bias(columns)] if bias else []
        shape = (x.tensor.static_shape[0], columns, *x.tensor.static_shape[2:])
        return self.op("Conv", operands, shape, pads=[1, 1, 1, 1], **attributes)


def lowered(b: Floats, graph: Graph, tolerance: float = 1e-5) -> tuple[Graph, list[str]]:
    """The lowered graph, whose outputs are those of onnxruntime, and its ops."""
    feeds = b.feeds()
    wanted = evaluate(graph, feeds)
    graph.stage = Stage.LOWERED
    lower_float(graph)
    verify(graph)
    found = evaluate(graph, feeds)
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=tolerance, atol=tolerance)
    return graph, [node.op for node in graph.nodes]


def only(graph: Graph) -> Node:
    (node,) = graph.nodes
    return node


def test_residual_and_bounds_join_the_convolution() -> None:
    b = Floats()
    x, r = b.input("x", *IMAGE), b.input("r", 2, 5, 6, 7)
    total = b.op("Add", [r, b.conv(x)], (2, 5, 6, 7))
    graph, _ = lowered(b, b.done(b.op("Relu", [total], (2, 5, 6, 7))))
    node = only(graph)
    assert node.op == "q.float_conv"
    assert node.operand(3) is graph.inputs[1]
    assert (node.attributes["low"], node.attributes["high"]) == (0.0, None)


def test_a_clip_gives_both_bounds() -> None:
    b = Floats()
    limits = [b.constant(np.float32(-0.5)), b.constant(np.float32(6))]
    y = b.op("Clip", [b.conv(b.input("x", *IMAGE), bias=False), *limits], (2, 5, 6, 7))
    node = only(lowered(b, b.done(y))[0])
    assert (node.attributes["low"], node.attributes["high"]) == (-0.5, 6.0)


def test_what_others_read_is_not_swallowed() -> None:
    b = Floats()
    conv = b.conv(b.input("x", *IMAGE))
    relu = b.op("Relu", [conv], (2, 5, 6, 7))
    _, ops = lowered(b, b.done(relu, conv))
    assert ops == ["q.float_conv", "Relu"]


def test_adding_to_itself_or_a_broadcast_is_no_residual() -> None:
    for other in ("itself", "row"):
        b = Floats()
        conv = b.conv(b.input("x", *IMAGE))
        added = conv if other == "itself" else b.input("r", 1, 5, 1, 1)
        _, ops = lowered(b, b.done(b.op("Add", [conv, added], (2, 5, 6, 7))))
        assert ops == ["q.float_conv", "Add"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 1], "pads": [1, 0, 2, 1]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 2, "pads": [1, 1, 1, 1]},
    ],
)
def test_convolution_attributes(attributes: dict[str, Any]) -> None:
    b = Floats()
    x, w = b.input("x", *IMAGE), b.numbers(6, 4 // attributes.get("group", 1), 3, 3)
    pads = attributes["pads"]
    spans = [2 * d + 1 for d in attributes.get("dilations", (1, 1))]
    strides = attributes.get("strides", (1, 1))
    sizes = [(IMAGE[2 + i] + pads[i] + pads[2 + i] - spans[i]) // strides[i] + 1 for i in range(2)]
    y = b.op("Conv", [x, w], (2, 6, *sizes), **attributes)
    assert lowered(b, b.done(y))[1] == ["q.float_conv"]


def test_one_dimension() -> None:
    b = Floats()
    x, w = b.input("x", 2, 3, 9), b.numbers(4, 3, 3)
    y = b.op("Conv", [x, w], (2, 4, 4), strides=[2], pads=[0, 0])
    assert lowered(b, b.done(y))[1] == ["q.float_conv"]


@pytest.mark.parametrize("bias", [(), (1,), (5,), (1, 5)])
@pytest.mark.parametrize("turned", [0, 1])
def test_gemm(bias: Sequence[int], turned: int) -> None:
    b = Floats()
    weight = b.numbers(5, 4) if turned else b.numbers(4, 5)
    operands = (
        [b.input("x", 3, 4), weight, b.numbers(*bias)] if bias else [b.input("x", 3, 4), weight]
    )
    y = b.op("Gemm", operands, (3, 5), transB=turned, alpha=0.5, beta=2.0)
    assert lowered(b, b.done(y))[1] == ["q.float_matmul"]


def test_a_product_takes_its_bias_and_a_residual() -> None:
    b = Floats()
    x, r = b.input("x", 2, 3, 4), b.input("r", 2, 3, 5)
    y = b.op("MatMul", [x, b.numbers(4, 5)], (2, 3, 5))
    y = b.op("Add", [b.bias(5), y], (2, 3, 5))
    node = only(lowered(b, b.done(b.op("Add", [y, r], (2, 3, 5))))[0])
    assert node.op == "q.float_matmul"
    assert node.operand(2).tensor.static_shape == (5,)
    assert node.operand(3).name == "r"


def test_pools() -> None:
    b = Floats()
    x = b.input("x", *IMAGE)
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    outputs = [
        b.op("MaxPool", [x], (2, 4, 3, 4), **window),
        b.op("AveragePool", [x], (2, 4, 3, 4), **window),
        b.op("AveragePool", [x], (2, 4, 3, 4), count_include_pad=1, **window),
        b.op(
            "AveragePool",
            [x],
            (2, 4, 4, 4),
            ceil_mode=1,
            kernel_shape=[2, 2],
            strides=[2, 2],
            pads=[1, 0, 1, 0],
        ),
        b.op("GlobalAveragePool", [x], (2, 4, 1, 1)),
        b.op("GlobalMaxPool", [x], (2, 4, 1, 1)),
    ]
    _, ops = lowered(b, b.done(*outputs))
    assert set(ops) == {"q.float_max_pool", "q.float_average_pool"}
    assert len(ops) == len(outputs)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize(mode: str) -> None:
    b = Floats()
    sizes = b.constant(np.array([2, 4, 12, 9]))
    operands = [b.input("x", *IMAGE), None, None, sizes]
    y = b.op("Resize", operands, (2, 4, 12, 9), mode=mode)
    assert lowered(b, b.done(y))[1] == ["q.resize"]


def test_what_does_not_fit_stays() -> None:
    b = Floats()
    x, w = b.input("x", *IMAGE), b.input("w", 5, 4, 1, 1)
    outputs = [
        b.op("Conv", [x, w], (2, 5, 6, 7)),
        b.op("Conv", [x, b.numbers(5, 4, 3, 3)], (2, 5, 6, 7), auto_pad="SAME_UPPER"),
        b.op("MatMul", [b.numbers(2, 6), b.input("y", 6, 3)], (2, 3)),
        b.op("Gemm", [b.input("z", 4, 3), b.numbers(4, 5)], (3, 5), transA=1),
        b.op("Resize", [x, None, b.constant(np.array([1, 2, 2, 2], np.float32))], (2, 8, 12, 14)),
    ]
    graph = b.done(*outputs)
    graph.stage = Stage.LOWERED
    assert lower_float(graph) == {}
    assert [node.op for node in graph.nodes] == ["Conv", "Conv", "MatMul", "Gemm", "Resize"]


def test_it_says_what_was_fused() -> None:
    b = Floats()
    y = b.op("Relu", [b.conv(b.input("x", *IMAGE))], (2, 5, 6, 7))
    graph = b.done(y)
    conv, relu = (node.label for node in graph.nodes)
    graph.stage = Stage.LOWERED
    assert lower_float(graph) == {conv: (conv, relu)}
