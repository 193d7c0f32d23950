"""Bring a float graph into the forms that later passes look for.

The rules lie by subject in ``canonical_movement`` (what only moves elements),
``canonical_arithmetic`` (Clip, Relu, Gemm, Sum) and ``canonical_pooling`` (windows, pads, global
pooling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage
from qcc.ir.rewrite import Rewriter
from qcc.passes.canonical_arithmetic import ARITHMETIC_RULES
from qcc.passes.canonical_movement import MOVEMENT_RULES, Rule
from qcc.passes.canonical_pooling import POOLING_RULES
from qcc.passes.manager import Pass

ROUNDS = 32
"""Every round removes a node or settles its form, so this many are never needed in practice."""


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Apply the canonical rules to a graph and its subgraphs until none fits.

    Not exact: a mean written as a pool, or a bias taken into Gemm, may add floats in another order.
    """

    name: ClassVar[str] = "canonicalize"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place."""
        for _ in range(ROUNDS):
            changed = [node for node in graph.walk() if _apply(node, rewriter)]
            if not changed:
                return


def rules_of(op: str) -> tuple[Rule, ...]:
    """The rules of one op type, in the order in which they are tried."""
    tables = (MOVEMENT_RULES, ARITHMETIC_RULES, POOLING_RULES)
    return tuple(rule for table in tables for rule in table.get(op, ()))


def _apply(node: Node, rewriter: Rewriter) -> bool:
    if node.graph is None or not any(output.uses for output in node.outputs):
        return False
    return any(rule(node, rewriter) for rule in rules_of(node.op))
