"""Re-fuse HardSigmoid, ``clip(x + 3, 0, 6) / 6`` or ``clip(a x + 0.5, 0, 1)``.

Only the two slopes that frameworks use (1/6 and 0.2) count: any other clamped line is left as
arithmetic, which can fold into the op before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Graph, Node, Stage
from qcc.ir.rewrite import Rewriter
from qcc.passes.algebra import affine_base, close, product
from qcc.passes.manager import Pass
from qcc.passes.refuse_hardswish import hard_gate
from qcc.passes.replacement import Found, supersede_found

SLOPES = tuple(float(np.float32(slope)) for slope in (1.0 / 6.0, 0.2))


@dataclass(frozen=True)
class RefuseHardSigmoid(Pass):
    """Replace written-out hard sigmoids by HardSigmoid; equal up to float rounding."""

    name: ClassVar[str] = "refuse-hardsigmoid"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        supersede_found(reversed(tuple(graph.walk())), hard_sigmoid, rewriter)


def hard_sigmoid(node: Node) -> Found | None:
    """HardSigmoid of x where ``node`` computes ``clip(slope * x + 0.5, 0, 1)``, else None."""
    if node.op not in ("Mul", "Div", "Clip") or not node.output.tensor.is_float:
        return None
    whole = product(node.output)
    if len(whole.numerators) != 1 or whole.denominators or whole.roots or whole.tensors:
        return None
    clip = whole.numerators[0].producer
    if clip is None or clip.op != "Clip":
        return None
    x = affine_base(clip.operand(0))
    found = hard_gate(clip.output, x)
    if found is None:
        return None
    slope, offset, top = (whole.factor * item for item in found)
    if not close(offset, 0.5) or not close(top, 1.0):
        return None
    known = next((known for known in SLOPES if close(slope, known)), None)
    return None if known is None else Found("HardSigmoid", x, {"alpha": known, "beta": 0.5})
