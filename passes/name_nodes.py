"""name-nodes: every node of a graph has a name that no other has.

Runtimes name layers, errors and profiles after nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage
from qcc.ir.rewrite import Rewriter
from qcc.passes.manager import Pass


@dataclass(frozen=True)
class NameNodes(Pass):
    """Name nodes without a name after their first result, and those whose name is taken."""

    name: ClassVar[str] = "name-nodes"
    requires: ClassVar[Stage | None] = None
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        nodes = tuple(graph.walk())
        first: dict[str, Node] = {}
        for node in nodes:
            first.setdefault(node.name, node)
        taken = set(first)
        for node in nodes:
            if node.name and first[node.name] is node:
                continue
            stem = node.name or f"{node.outputs[0].name}/{node.op_type}"
            name, count = stem, 1
            while name in taken:
                name, count = f"{stem}_{count}", count + 1
            taken.add(name)
            node.name = name
            rewriter.changes += 1
