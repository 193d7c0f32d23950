"""Regions are convex, as large as possible, and say why they are float."""

from __future__ import annotations

import numpy as np

from qcc.ir.core import Graph, Node
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.ref.evaluate import evaluate
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


def outlined(b: Numbered, graph: Graph) -> list[Node]:
    feeds = b.feeds()
    report = lower(graph, PATTERNS)
    wanted = evaluate(graph, feeds)
    regions = outline_float(graph, report.refusals)
    found = evaluate(graph, feeds)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        assert np.allclose(value, found[name], atol=1e-6)
    return regions


def body_ops(region: Node) -> list[str]:
    return [node.op for node in region.attributes["body"].nodes]


def test_a_path_through_native_code_splits_regions() -> None:
    b = Numbered()
    shape = (1, 4, 3, 3)
    early = b.op("Erf", [b.input("x", *shape)], shape)
    conv = b.op("Conv", [b.q(early), b.weight((4, 4, 1, 1))], shape)
    late = b.op("Pow", [b.op("Softplus", [conv], shape), early], shape)
    regions = outlined(b, b.done(late))
    assert [body_ops(region) for region in regions] == [["Erf"], ["Softplus", "Pow"]]
    assert len(regions[1].inputs) == 2


def test_independent_float_nodes_run_together() -> None:
    b = Numbered()
    outputs = [b.op("Erf", [b.input(name, 3)], (3,)) for name in "xyz"]
    (region,) = outlined(b, b.done(*outputs))
    assert body_ops(region) == ["Erf"] * 3


def test_native_float_ops_stay_at_the_edges() -> None:
    b = Numbered()
    shape = (1, 4, 3, 3)
    conv = b.op("Conv", [b.q(b.input("x", *shape)), b.weight((4, 4, 1, 1))], shape)
    relu = b.op("Relu", [conv], shape)
    inner = b.op("Add", [b.op("Erf", [relu], shape), relu], shape)
    graph = b.done(b.op("Erf", [inner], shape))
    (region,) = outlined(b, graph)
    assert body_ops(region) == ["Erf", "Add", "Erf"]
    assert "Relu" in [node.op for node in graph.nodes]


def test_the_reason_is_the_refusal() -> None:
    b = Numbered()
    x, w = b.q(b.input("x", 1, 4, 5, 5)), b.q(b.input("w", 8, 4, 1, 1))
    (region,) = outlined(b, b.done(b.op("Conv", [x, w], (1, 8, 5, 5))))
    assert "not a quantized constant" in region.attributes["reason"]


def test_names_stay_unique_and_public() -> None:
    b = Numbered()
    y = b.op("Erf", [b.input("x", 3)], (3,))
    y.name = "y"
    b.graph.reserve_name("y")
    graph = b.done(y)
    outlined(b, graph)
    assert [value.name for value in graph.outputs] == ["y"]
    names = [v.name for v in graph.values()]
    for node in graph.nodes:
        names += [v.name for v in node.attributes["body"].values()]
    assert len(names) == len(set(names))


def test_quantization_in_16_bits_runs_in_a_region() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 5), 0.001, 0, "int16")
    (region,) = outlined(b, b.done(b.op("Erf", [x], (2, 5))))
    assert body_ops(region) == ["QuantizeLinear", "DequantizeLinear", "Erf"]


def test_native_float_chains_past_integers_split_nothing() -> None:
    # The residual stream reads a region and is read by one, but integers lie between those two.
    b = Numbered()
    shape = (1, 4, 3, 3)
    stream = b.op("Relu", [b.op("Erf", [b.input("x", *shape)], shape)], shape)
    for _ in range(2):
        conv = b.op("Conv", [b.q(stream), b.weight((4, 4, 1, 1))], shape)
        stream = b.op("Add", [conv, stream], shape)
    graph = b.done(b.op("Erf", [stream], shape))
    regions = outlined(b, graph)
    assert [body_ops(region) for region in regions] == [["Erf"], ["Erf"]]
    assert [node.op for node in graph.nodes].count("Add") == 2


def test_movement_among_native_float_ops_is_native() -> None:
    b = Numbered()
    conv = b.op("Conv", [b.q(b.input("x", 1, 4, 3, 3)), b.weight((4, 4, 1, 1))], (1, 4, 3, 3))
    flat = b.op("Reshape", [b.op("Relu", [conv], (1, 4, 3, 3)), b.constant([4, 9])], (4, 9))
    turned = b.op("Transpose", [b.op("Neg", [flat], (4, 9))], (9, 4), perm=[1, 0])
    graph = b.done(b.op("Neg", [turned], (9, 4)))
    assert outlined(b, graph) == []
    assert {"q.reshape", "q.transpose"} <= {node.op for node in graph.nodes}


def test_a_graph_without_integers_is_one_region() -> None:
    b = Numbered()
    flat = b.op("Reshape", [b.op("Softplus", [b.input("x", 2, 3)], (2, 3)), b.constant([6])], (6,))
    (region,) = outlined(b, b.done(b.op("Neg", [flat], (6,))))
    assert body_ops(region) == ["Softplus", "Reshape", "Neg"]


def test_movement_inside_a_region_stays_there() -> None:
    b = Numbered()
    conv = b.op("Conv", [b.q(b.input("x", 1, 4, 3, 3)), b.weight((4, 4, 1, 1))], (1, 4, 3, 3))
    flat = b.op("Reshape", [b.op("Erf", [conv], (1, 4, 3, 3)), b.constant([4, 9])], (4, 9))
    turned = b.op("Transpose", [b.op("Neg", [flat], (4, 9))], (9, 4), perm=[1, 0])
    (region,) = outlined(b, b.done(b.op("Erf", [turned], (9, 4))))
    assert body_ops(region) == ["Erf", "Reshape", "Neg", "Transpose", "Erf"]
