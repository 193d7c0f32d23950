"""share-dequantize: the readers of one stored value read one tensor."""

from __future__ import annotations

import numpy as np

from qcc.ir.core import Graph
from qcc.ir.types import Quant, TensorType, float32
from qcc.passes.share_dequantize import ShareDequantize
from qcc.ref.evaluate import evaluate
from tests.passes.float_models import apply
from tests.passes.numbered import Numbered


def readers_of(graph: Graph) -> list[list[str]]:
    """The readers of each q.dequantize, by op, in schedule order."""
    return [
        [user.op for user in node.output.users] for node in graph.nodes if node.op == "q.dequantize"
    ]


def net(*, output: bool = False) -> Numbered:
    """A stored value that Relu, Neg and Abs dequantize, each for itself."""
    builder = Numbered()
    x = builder.input("x", 2, 3)
    quant = Quant.make("int8", 0.05, 0)
    node = builder.graph.create_node("q.quantize", [x], [TensorType((2, 3), quant)])
    results = []
    for op in ("Relu", "Neg", "Abs"):
        real = builder.graph.create_node("q.dequantize", [node.output], [float32(2, 3)])
        results.append(builder.op(op, [real.output], (2, 3)))
    if output:
        real = builder.graph.create_node("q.dequantize", [node.output], [float32(2, 3)])
        results.append(real.output)
    builder.done(*results)
    return builder


def test_readers_of_a_stored_value_share_the_first_dequantize() -> None:
    builder = net()
    before = builder.graph.clone()
    apply(builder.graph, ShareDequantize())
    assert readers_of(builder.graph) == [["Relu", "Neg", "Abs"]]
    feeds = {"x": np.linspace(-9, 9, 6, dtype=np.float32).reshape(2, 3)}
    for wanted, found in zip(
        evaluate(before, feeds).values(), evaluate(builder.graph, feeds).values(), strict=True
    ):
        np.testing.assert_array_equal(wanted, found)


def test_what_the_graph_returns_keeps_its_dequantize_and_its_name() -> None:
    builder = net(output=True)
    name = builder.graph.outputs[-1].name
    apply(builder.graph, ShareDequantize())
    assert readers_of(builder.graph) == [["Relu", "Neg", "Abs"], []]
    assert builder.graph.outputs[-1].name == name


def test_other_values_keep_theirs() -> None:
    builder = Numbered()
    x = builder.input("x", 2, 3)
    parts = [builder.q(x), builder.q(x)]
    builder.done(builder.op("Add", parts, (2, 3)))
    apply(builder.graph, ShareDequantize())
    assert readers_of(builder.graph) == [["Add"], ["Add"]]


def test_a_node_that_reads_a_value_twice_reads_one_tensor() -> None:
    builder = Numbered()
    x = builder.input("x", 2, 3)
    stored = builder.q(x).producer
    assert stored is not None
    reals = [
        builder.graph.create_node("q.dequantize", [stored.operand(0)], [float32(2, 3)]).output
        for _ in range(2)
    ]
    last = builder.op("Mul", reals, (2, 3))
    builder.done(last)
    apply(builder.graph, ShareDequantize())
    assert last.producer is not None
    assert last.producer.inputs[0] is last.producer.inputs[1]


def test_types_that_differ_are_not_shared() -> None:
    """A value may be dequantized to float32 for one reader and to float16 for another one."""
    builder = Numbered()
    x = builder.input("x", 2, 3)
    first = builder.q(x).producer
    assert first is not None
    half = builder.graph.create_node(
        "q.dequantize", [first.operand(0)], [TensorType((2, 3), "float16")]
    )
    narrow = builder.graph.create_node("Neg", [half.output], [TensorType((2, 3), "float16")])
    builder.done(builder.op("Relu", [first.output], (2, 3)), narrow.output)
    apply(builder.graph, ShareDequantize())
    assert readers_of(builder.graph) == [["Relu"], ["Neg"]]


def test_readers_inside_bodies_share_it_too() -> None:
    builder = net()
    graph = builder.graph
    quantized = next(node for node in graph.nodes if node.op == "q.quantize").output
    real = graph.create_node("q.dequantize", [quantized], [float32(2, 3)]).output
    which = graph.add_input("which", TensorType((), "bool"))
    bodies = {}
    for name in ("then_branch", "else_branch"):
        body = Graph(name, graph)
        body.set_outputs([body.create_node("Exp", [real], [float32(2, 3)]).output])
        bodies[name] = body
    chosen = graph.create_node("If", [which], [float32(2, 3)], attributes=bodies)
    graph.set_outputs([*graph.outputs, chosen.output])
    apply(graph, ShareDequantize())
    assert readers_of(graph) == [["Relu", "Neg", "Abs", "Exp", "Exp"]]
