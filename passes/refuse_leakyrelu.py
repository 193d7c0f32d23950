"""Re-fuse LeakyRelu written as ``Max(x, a * x)`` with a number a between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Graph, Node, Stage
from qcc.ir.rewrite import Rewriter
from qcc.passes.algebra import polynomial
from qcc.passes.manager import Pass
from qcc.passes.replacement import Found, supersede_found


@dataclass(frozen=True)
class RefuseLeakyRelu(Pass):
    """Replace ``Max(x, a * x)`` by LeakyRelu."""

    name: ClassVar[str] = "refuse-leakyrelu"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        supersede_found(graph.walk(), leaky_relu, rewriter)


def leaky_relu(node: Node) -> Found | None:
    """LeakyRelu of x where ``node`` computes it, else None."""
    if node.op != "Max" or len(node.inputs) != 2 or not node.output.tensor.is_float:
        return None
    first, second = node.operand(0), node.operand(1)
    for x, scaled in ((first, second), (second, first)):
        line = polynomial(scaled, x)
        if line is not None and len(line) == 2 and line[0] == 0.0 and 0.0 < line[1] < 1.0:
            return Found("LeakyRelu", x, {"alpha": float(np.float32(line[1]))})
    return None
