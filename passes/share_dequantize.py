"""share-dequantize: one q.dequantize for all readers of a stored activation.

Numbering gives every reader one of its own, which is what onnxruntime fuses.  TensorRT looks for
layers that read the same tensor (the projections of an attention block) to run them as one, and
finds them only where that is one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.rewrite import Rewriter
from qcc.passes.manager import Pass


@dataclass(frozen=True)
class ShareDequantize(Pass):
    """Merge the q.dequantize nodes of one value; results of the graph keep theirs."""

    name: ClassVar[str] = "share-dequantize"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite the main graph: bodies of control flow hold nothing quantized."""
        first: dict[Value, Node] = {}
        for node in tuple(graph.nodes):
            if node.op != "q.dequantize" or node.output.is_output:
                continue
            source = node.operand(0)
            known = first.setdefault(source, node)
            if known is not node and known.output.type == node.output.type:
                rewriter.replace_uses(node.output, known.output)
                rewriter.erase(node)
