"""bare-movements: pools and reshaping of dequantized values, with nothing quantized behind."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.ir.core import Graph, Value
from qcc.passes.manager import PassManager, parse_pass_list
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import feeds
from tests.passes.numbered import Numbered

SHAPE = (1, 4, 8, 8)
POOLED = (1, 4, 4, 4)


def pooled(b: Numbered, x: Value) -> Value:
    return b.op("MaxPool", [x], POOLED, kernel_shape=[2, 2], strides=[2, 2])


def rewritten(b: Numbered, *outputs: Value) -> Graph:
    """After the pass, which must not change one bit of any output."""
    graph = b.graph
    graph.set_outputs(list(outputs))
    changed = graph.clone()
    PassManager(parse_pass_list("bare-movements")).run(changed)
    for feed in feeds(graph, 3):
        for name, value in evaluate(graph, feed).items():
            np.testing.assert_array_equal(evaluate(changed, feed)[name], value)
    return changed


def quantizers(graph: Graph) -> int:
    return sum(node.op == "q.quantize" for node in graph.nodes)


def test_a_pool_and_a_reshape_keep_the_quantization_in_front_of_them_only() -> None:
    b = Numbered()
    first = b.q(pooled(b, b.q(b.input("x", *SHAPE))))
    flat = b.q(b.op("Reshape", [first, b.constant(np.array([1, 64]))], (1, 64)))
    changed = rewritten(b, b.op("Relu", [flat], (1, 64)))
    assert [node.op for node in changed.nodes] == [
        "q.quantize",
        "q.dequantize",
        "MaxPool",
        "Reshape",
        "Relu",
    ]


def test_another_scale_behind_a_movement_stays() -> None:
    b = Numbered()
    y = b.q(pooled(b, b.q(b.input("x", *SHAPE))), scale=0.07)
    assert quantizers(rewritten(b, b.op("Relu", [y], POOLED))) == 2


@pytest.mark.parametrize(("scale", "left"), [(0.05, 2), (0.07, 3)])
def test_a_concat_is_bare_where_its_operands_have_one_scale(scale: float, left: int) -> None:
    b = Numbered()
    x = b.q(b.input("x", *SHAPE))
    z = b.q(b.input("z", *SHAPE), scale=scale)
    y = b.q(b.op("Concat", [x, z], (1, 8, 8, 8), axis=1))
    assert quantizers(rewritten(b, b.op("Relu", [y], (1, 8, 8, 8)))) == left


@pytest.mark.parametrize(("mode", "left"), [(b"nearest", 1), (b"linear", 2)])
def test_resizing_is_bare_where_it_copies(mode: bytes, left: int) -> None:
    b = Numbered()
    x = b.q(b.input("x", *SHAPE))
    sizes = b.constant(np.array([1.0, 1.0, 0.5, 0.5], np.float32))
    y = b.q(b.op("Resize", [x, None, sizes], POOLED, mode=mode))
    assert quantizers(rewritten(b, b.op("Relu", [y], POOLED))) == left


def test_results_of_the_graph_and_what_computes_are_left_as_they_are() -> None:
    b = Numbered()
    x = b.q(b.input("x", *SHAPE))
    averaged = b.op("AveragePool", [x], POOLED, kernel_shape=[2, 2], strides=[2, 2])
    assert quantizers(rewritten(b, b.q(pooled(b, x)), b.op("Relu", [b.q(averaged)], POOLED))) == 3
