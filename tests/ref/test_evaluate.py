"""The reference evaluator on every stage."""

from __future__ import annotations

import numpy as np
import pytest

from qcc import numerics
from qcc.errors import DataError
from qcc.ir.core import Graph
from qcc.ir.types import TensorType, float32
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.ref.evaluate import evaluate, evaluate_values
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


def chain() -> tuple[Graph, np.ndarray]:
    graph = Graph()
    x = graph.add_input("x", float32(2, 3))
    two = graph.add_constant("two", np.float32(2))
    y = graph.create_node("Mul", [x, two], [float32(2, 3)], output_names=["y"]).output
    z = graph.create_node("Relu", [y], [float32(2, 3)], output_names=["z"]).output
    graph.set_outputs([z])
    return graph, np.array([[-1, 0, 1], [2, -3, 4]], np.float32)


def test_float_graph() -> None:
    graph, x = chain()
    assert np.array_equal(evaluate(graph, {"x": x})["z"], np.maximum(2 * x, 0))


def test_values_in_the_middle() -> None:
    graph, x = chain()
    found = evaluate_values(graph, {"x": x}, ["y", "x"])
    assert np.array_equal(found["y"], 2 * x)
    assert np.array_equal(found["x"], x)
    with pytest.raises(DataError, match="no value called nope"):
        evaluate_values(graph, {"x": x}, ["nope"])


def test_numbered_graph_rounds_by_the_contract() -> None:
    b = Numbered()
    graph = b.done(b.q(b.input("x", 5), 0.5, 3))
    x = np.array([0.25, 0.75, -10.0, 1000.0, np.nan], np.float32)
    stored = numerics.quantize(x, 0.5, 3, "uint8")
    (found,) = evaluate(graph, {"x": x}).values()
    assert np.array_equal(found, numerics.dequantize(stored, 0.5, 3))


def test_regions_run_what_native_code_lacks() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 4, 3, 3))
    conv = b.q(b.op("Conv", [x, b.weight((4, 4, 1, 1))], (1, 4, 3, 3)), 0.2)
    y = b.q(b.op("Softplus", [b.op("Erf", [conv], (1, 4, 3, 3))], (1, 4, 3, 3)))
    graph, feeds = b.done(y), b.feeds()
    before = evaluate(graph, feeds)
    lower(graph, PATTERNS)
    wanted = evaluate(graph, feeds)
    (region,) = outline_float(graph)
    assert [node.op for node in region.attributes["body"].nodes] == ["Erf", "Softplus"]
    found = evaluate(graph, feeds)
    for name in before:
        assert np.array_equal(wanted[name], found[name])


def test_feeds_are_checked() -> None:
    graph, x = chain()
    with pytest.raises(DataError, match="unknown input 'u'"):
        evaluate(graph, {"x": x, "u": x})
    with pytest.raises(DataError, match="missing input 'x'"):
        evaluate(graph, {})
    with pytest.raises(DataError, match="must be float32"):
        evaluate(graph, {"x": x.astype(np.float64)})
    with pytest.raises(DataError, match="must have the shape"):
        evaluate(graph, {"x": x[0]})


def test_symbolic_shapes_fit_any_size() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(("N", 3), "float32"))
    y = graph.create_node("Neg", [x], [TensorType(("N", 3), "float32")], output_names=["y"])
    graph.set_outputs([y.output])
    assert evaluate(graph, {"x": np.ones((7, 3), np.float32)})["y"].shape == (7, 3)
