"""Remove nodes and constants that nothing uses, in subgraphs too.  Graph inputs stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph
from qcc.ir.rewrite import Rewriter
from qcc.passes.manager import Pass


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Erase every node none of whose results is used, and every constant without uses."""

    name: ClassVar[str] = "eliminate-dead"
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Sweep ``graph`` once, backwards: users go before what they use."""
        _sweep_nodes(graph, rewriter)
        _sweep_constants(graph, rewriter)


def _sweep_nodes(graph: Graph, rewriter: Rewriter) -> None:
    for node in reversed(graph.nodes):
        if not any(output.uses for output in node.outputs):
            rewriter.erase(node)
            continue
        for body in node.subgraphs:
            _sweep_nodes(body, rewriter)


def _sweep_constants(graph: Graph, rewriter: Rewriter) -> None:
    for value in tuple(graph.constants.values()):
        if not value.uses:
            graph.remove_constant(value)
            rewriter.changes += 1
    for node in graph.nodes:
        for body in node.subgraphs:
            _sweep_constants(body, rewriter)
