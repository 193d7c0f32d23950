"""Weighted groups as products: the mean error of channels without computing any result."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph, Value
from qcc.ir.types import float32
from qcc.passes.products import Product
from qcc.pipeline import convert, prepare
from tests.passes.flow_models import feeds, weights


def made(kind: str) -> Graph:
    b = GraphBuilder()
    x: Value = b.input("x", float32(3, 4, 9, 7))
    if kind == "conv":
        x = b.op.Relu(b.op.Conv(x, weights(6, 4, 3, 3), weights(6), pads=[1, 1, 0, 1]))
        return b.output(b.op.Conv(x, weights(5, 6, 3, 2), dilations=[2, 1], strides=[1, 2]))
    if kind == "depthwise":
        made = b.op.Conv(x, weights(8, 1, 3, 3), group=4, strides=[2, 1], pads=[1, 0, 1, 2])
        return b.output(b.op.Conv(b.op.Relu(made), weights(3, 8, 1, 1), weights(3)))
    flat = b.op.Reshape(x, b.constant(np.asarray([9, 84]), "s"))
    hidden = b.op.Relu(b.op.Gemm(flat, weights(84, 5), weights(5)))
    return b.output(b.op.Add(b.op.MatMul(hidden, weights(5, 4)), weights(4)))


def biases(graph: Graph) -> list[Array]:
    return [
        np.asarray(value.constant)
        for value in graph.values()
        if value.constant is not None and value.constant.dtype == np.int32
    ]


@pytest.mark.parametrize("kind", ["conv", "depthwise", "dense"])
@pytest.mark.parametrize("count", [3, 9])
def test_biases_are_those_that_the_results_ask_for(
    kind: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held against the means of what both sides really compute."""
    graph = made(kind)
    prepared = prepare(graph).calibrate(feeds(graph, count))
    plain = biases(convert(prepared, weight_rounding=False, bias_correction=False).graph)
    found = biases(convert(prepared, weight_rounding=False).graph)
    monkeypatch.setattr(Product, "of", lambda group, theirs: None)
    wanted = biases(convert(prepared, weight_rounding=False).graph)
    assert len(found) == len(wanted) == 2
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() <= 1
    corrected = [b for b in found if not any(np.array_equal(b, p) for p in plain)]
    assert len(corrected) == 2
