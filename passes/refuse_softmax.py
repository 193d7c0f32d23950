"""Re-fuse Softmax written as ``exp(x - max(x)) / sum(exp(x - max(x)))`` over one axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.rewrite import Rewriter
from qcc.passes.algebra import product
from qcc.passes.manager import Pass
from qcc.passes.reductions import Reduced, keeps_rank, reduction, restored
from qcc.passes.replacement import supersede


@dataclass(frozen=True)
class RefuseSoftmax(Pass):
    """Replace written-out softmaxes by Softmax; equal up to float rounding.

    Only the form that subtracts the maximum counts: without it large inputs overflow, and Softmax
    would compute something else.
    """

    name: ClassVar[str] = "refuse-softmax"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        for node in reversed(tuple(graph.walk())):
            if node.graph is None or node.op not in ("Mul", "Div"):
                continue
            found = softmax(node)
            if found is None:
                continue
            operands = node.inputs
            supersede(node, "Softmax", [found.source], rewriter, {"axis": found.axes[0]})
            for value in operands:
                rewriter.erase_dead(value)


def softmax(node: Node) -> Reduced | None:
    """The source and the one axis of the softmax whose last op is ``node``, or None."""
    if not node.output.tensor.is_float:
        return None
    whole = product(node.output)
    if len(whole.numerators) != 1 or len(whole.denominators) != 1:
        return None
    if whole.roots or whole.tensors or whole.factor != 1.0:
        return None
    exponential, divisor = whole.numerators[0], whole.denominators[0]
    total = reduction(restored(divisor), "ReduceSum")
    if total is None or total.source is not exponential or len(total.axes) != 1:
        return None
    if not keeps_rank(divisor, exponential, total.axes):
        return None
    source = _less_its_maximum(exponential, total.axes)
    return None if source is None else Reduced(source, total.axes)


def _less_its_maximum(exponential: Value, axes: tuple[int, ...]) -> Value | None:
    node = exponential.producer
    difference = None if node is None or node.op != "Exp" else node.operand(0).producer
    if difference is None or difference.op != "Sub":
        return None
    source, subtracted = difference.operand(0), difference.operand(1)
    largest = reduction(restored(subtracted), "ReduceMax")
    if largest is None or largest.source is not source or largest.axes != axes:
        return None
    return source if keeps_rank(subtracted, source, axes) else None
