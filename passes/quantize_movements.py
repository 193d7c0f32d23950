"""quantize-movements: what moves dequantized values is quantized again behind.

Some quantizers (NNCF) leave it to the runtime to see that a pool, a join or a reshaping of values
of one scale lies on the same grid.  Saying so lets integer kernels read it; no value changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.import_movers import MOVERS, moved_operands, moved_outputs
from qcc.passes.manager import Pass

INEXACT = frozenset({"Pad", "Where"})
"""Movers that may bring in values of another grid."""


@dataclass(frozen=True)
class QuantizeMovements(Pass):
    """Put a q.quantize and q.dequantize behind movers of values that have one scale."""

    name: ClassVar[str] = "quantize-movements"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite the main graph in place: bodies of control flow hold nothing quantized."""
        for node in graph.nodes:
            quant = _grid(node)
            if quant is None:
                continue
            for output in moved_outputs(node):
                if any(user.op != "q.quantize" for user in output.users):
                    _store(node, output, quant, rewriter)


def _grid(node: Node) -> Quant | None:
    """The numbers of all that a mover moves, where these are the same."""
    if node.op not in MOVERS or node.op in INEXACT:
        return None
    if node.op == "Resize" and attribute(node, "mode") not in ("nearest", b"nearest"):
        return None
    found: set[Quant | None] = set()
    for value in moved_operands(node):
        maker = value.producer
        if maker is None or maker.op != "q.dequantize" or maker.operand(0).is_constant:
            return None
        found.add(maker.operand(0).tensor.quant)
    (quant,) = found if len(found) == 1 else (None,)
    return quant if quant is not None and quant.per_tensor else None


def _store(node: Node, output: Value, quant: Quant, rewriter: Rewriter) -> None:
    """The readers of ``output`` but for quantizes, and the caller, read it through its integers."""
    graph = node.graph
    assert graph is not None
    following = graph.nodes[graph.nodes.index(node) + 1 :]
    before = following[0] if following else None
    type_ = output.tensor
    stored = rewriter.insert(
        "q.quantize",
        [output],
        [TensorType(type_.shape, quant)],
        output_names=[graph.fresh_name(f"{output.name}_stored")],
        before=before,
    )
    real = rewriter.insert(
        "q.dequantize",
        [stored.output],
        [type_],
        output_names=[graph.fresh_name(f"{output.name}_real")],
        before=before,
    )
    for use in output.uses:
        user = use.user
        if isinstance(user, Node) and user.op != "q.quantize":
            rewriter.replace_input(user, use.index, real.output)
