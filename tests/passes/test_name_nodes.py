"""name-nodes: names that no other node has."""

from __future__ import annotations

from qcc.ir.core import Graph
from qcc.ir.types import TensorType, float32
from qcc.passes.name_nodes import NameNodes
from tests.passes.float_models import apply


def chain(*names: str) -> Graph:
    """Relu nodes called ``names``, one behind the other; results are r0, r1, ..."""
    graph = Graph("g")
    value = graph.add_input("x", float32(2))
    for index, name in enumerate(names):
        node = graph.create_node(
            "Relu", [value], [float32(2)], name=name, output_names=[f"r{index}"]
        )
        value = node.output
    graph.set_outputs([value])
    return graph


def named(*names: str) -> list[str]:
    graph = chain(*names)
    apply(graph, NameNodes())
    return [node.name for node in graph.nodes]


def test_names_that_are_there_once_stay() -> None:
    assert named("b", "a") == ["b", "a"]


def test_a_node_without_a_name_is_called_after_its_result() -> None:
    assert named("", "a", "") == ["r0/Relu", "a", "r2/Relu"]


def test_of_equal_names_the_first_one_stays() -> None:
    assert named("a", "a", "a") == ["a", "a_1", "a_2"]


def test_a_name_that_is_there_once_stays_whatever_is_renamed_before_it() -> None:
    assert named("a", "a", "a_1", "", "r3/Relu") == ["a", "a_2", "a_1", "r3/Relu_1", "r3/Relu"]


def test_nodes_of_bodies_have_names_of_their_own() -> None:
    graph = chain("a", "b")
    which = graph.add_input("which", TensorType((), "bool"))
    bodies = {}
    for key in ("then_branch", "else_branch"):
        body = Graph(key, graph)
        node = body.create_node("Neg", [graph.outputs[0]], [float32(2)], name="a")
        body.set_outputs([node.output])
        bodies[key] = body
    graph.create_node("If", [which], [float32(2)], attributes=bodies, name="")
    apply(graph, NameNodes())
    names = [node.name for node in graph.walk()]
    assert len(set(names)) == len(names) == 5
    assert "" not in names
    assert names[:2] == ["a", "b"]


def test_it_counts_what_it_changes() -> None:
    from qcc.ir.rewrite import Rewriter

    graph = chain("a", "a", "")
    rewriter = Rewriter(graph)
    NameNodes().run(graph, rewriter)
    assert rewriter.changes == 2
    NameNodes().run(graph, rewriter)
    assert rewriter.changes == 2
