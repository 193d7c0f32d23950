"""Re-fuse GELU, written out with Erf or with Tanh, into one Gelu node.

``x * 0.5 * (1 + erf(x / sqrt 2))`` and ``x * 0.5 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`` in
any order of factors.  Hendrycks & Gimpel, "Gaussian Error Linear Units", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage
from qcc.ir.rewrite import Rewriter
from qcc.passes.algebra import Polynomial, close, descend, polynomial, product, same_polynomial
from qcc.passes.manager import Pass
from qcc.passes.replacement import Found, supersede_found

_TANH = math.sqrt(2.0 / math.pi)

ARGUMENTS: Mapping[str, tuple[str, Polynomial]] = {
    "Erf": ("none", (0.0, math.sqrt(0.5))),
    "Tanh": ("tanh", (0.0, _TANH, 0.0, _TANH * 0.044715)),
}
"""Inner op to Gelu's ``approximate`` and the polynomial of x that it is applied to."""


@dataclass(frozen=True)
class RefuseGelu(Pass):
    """Replace written-out GELUs by Gelu; equal up to the order of float operations."""

    name: ClassVar[str] = "refuse-gelu"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        supersede_found(reversed(tuple(graph.walk())), gelu, rewriter)


def gelu(node: Node) -> Found | None:
    """Gelu of x where ``node`` computes it, else None."""
    if node.op not in ("Mul", "Div") or not node.output.tensor.is_float:
        return None
    whole = product(node.output)
    if len(whole.numerators) != 2 or whole.denominators or whole.roots or whole.tensors:
        return None
    for x, gate in (whole.numerators, whole.numerators[::-1]):
        curve = descend(gate, frozenset(ARGUMENTS))
        if curve is None or curve.producer is None:
            continue
        approximate, argument = ARGUMENTS[curve.producer.op_type]
        weights = polynomial(gate, curve)
        if weights is None or len(weights) != 2:
            continue
        halves = all(close(whole.factor * weight, 0.5) for weight in weights)
        inner = polynomial(curve.producer.operand(0), x)
        if halves and same_polynomial(inner, argument):
            return Found("Gelu", x, {"approximate": approximate})
    return None
