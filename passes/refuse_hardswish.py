"""Re-fuse HardSwish, ``x * clip(x + 3, 0, 6) / 6`` in any order, or ``x * HardSigmoid(x)``.

Howard et al., "Searching for MobileNetV3", 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.algebra import close, polynomial, product
from qcc.passes.canonical_arithmetic import clip_bounds
from qcc.passes.manager import Pass
from qcc.passes.replacement import Found, supersede_found

SLOPE, OFFSET = 1.0 / 6.0, 0.5


@dataclass(frozen=True)
class RefuseHardSwish(Pass):
    """Replace written-out hard swishes by HardSwish; equal up to the order of float operations."""

    name: ClassVar[str] = "refuse-hardswish"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        supersede_found(reversed(tuple(graph.walk())), hard_swish, rewriter)


def hard_swish(node: Node) -> Found | None:
    """HardSwish of x where ``node`` computes it, else None."""
    if node.op not in ("Mul", "Div") or not node.output.tensor.is_float:
        return None
    whole = product(node.output)
    if len(whole.numerators) != 2 or whole.denominators or whole.roots or whole.tensors:
        return None
    for x, gate in (whole.numerators, whole.numerators[::-1]):
        found = hard_gate(gate, x)
        if found is None:
            continue
        slope, offset, top = (whole.factor * item for item in found)
        if close(slope, SLOPE) and close(offset, OFFSET) and close(top, 1.0):
            return Found("HardSwish", x)
    return None


def hard_gate(gate: Value, x: Value) -> tuple[float, float, float] | None:
    """(slope, offset, top) where ``gate`` is ``clip(slope * x + offset, 0, top)``, else None."""
    node = gate.producer
    if node is None:
        return None
    if node.op == "HardSigmoid" and node.operand(0) is x:
        return float(attribute(node, "alpha")), float(attribute(node, "beta")), 1.0
    bounds = clip_bounds(node)
    line = None if bounds is None else polynomial(node.operand(0), x)
    if bounds is None or bounds[0] != 0.0 or line is None or len(line) != 2:
        return None
    return line[1], line[0], bounds[1]
