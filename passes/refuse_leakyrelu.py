"""Re-fuse LeakyRelu written as ``Max(x, a * x)`` with a number a between 0 and 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.rewrite import Rewriter
from qcc.passes.algebra import polynomial
from qcc.passes.manager import Pass
from qcc.passes.replacement import supersede


@dataclass(frozen=True)
class RefuseLeakyRelu(Pass):
    """Replace ``Max(x, a * x)`` by LeakyRelu."""

    name: ClassVar[str] = "refuse-leakyrelu"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        for node in graph.walk():
            found = leaky_relu(node)
            if found is None or node.graph is None:
                continue
            operands, (x, slope) = node.inputs, found
            supersede(node, "LeakyRelu", [x], rewriter, {"alpha": slope})
            for value in operands:
                rewriter.erase_dead(value)


def leaky_relu(node: Node) -> tuple[Value, float] | None:
    """(x, slope) where ``node`` computes LeakyRelu of x, else None."""
    if node.op != "Max" or len(node.inputs) != 2 or not node.output.tensor.is_float:
        return None
    first, second = node.operand(0), node.operand(1)
    for x, scaled in ((first, second), (second, first)):
        line = polynomial(scaled, x)
        if line is not None and len(line) == 2 and line[0] == 0.0 and 0.0 < line[1] < 1.0:
            return x, float(np.float32(line[1]))
    return None
