"""bare-movements: what moves dequantized values is not quantized again behind.

Numbering quantizes and dequantizes the result of every group, which is what onnxruntime fuses.
OpenVINO moves the scale and zero point of a tensor through pools, reshaping and joining by itself;
a quantization behind them that changes nothing costs it a pass over the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcc.ir.core import Graph, Node, Stage
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant
from qcc.passes.manager import Pass

MOVES = frozenset(
    {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"}
    | {"DepthToSpace", "SpaceToDepth", "Gather", "Expand", "Tile", "Identity", "Concat"}
)
"""Ops whose results hold elements of their operands, whatever the attributes."""


@dataclass(frozen=True)
class BareMovements(Pass):
    """Let readers of a moved value read it as it is, where it lies on the grid of its operands."""

    name: ClassVar[str] = "bare-movements"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite the main graph: bodies of control flow hold nothing quantized."""
        grids: dict[str, Quant] = {}
        for node in tuple(graph.nodes):
            grid = _grid(node, grids)
            if grid is None:
                continue
            grids.update(dict.fromkeys((value.name for value in node.outputs), grid))
            for value in node.outputs:
                for quantizer in value.users:
                    if quantizer.op == "q.quantize" and quantizer.output.tensor.quant == grid:
                        _drop(quantizer, rewriter)


def _grid(node: Node, grids: dict[str, Quant]) -> Quant | None:
    """The quantization that all operands, and so the results, of a moving node lie on."""
    moved = node.inputs if node.op == "Concat" else node.inputs[:1]
    if node.op not in MOVES and not _is_nearest(node):
        return None
    found = {None if value is None else _lies_on(value.producer, grids) for value in moved}
    return found.pop() if len(found) == 1 else None


def _is_nearest(node: Node) -> bool:
    mode = node.attributes.get("mode", b"nearest")
    return node.op == "Resize" and mode in (b"nearest", "nearest")


def _lies_on(producer: Node | None, grids: dict[str, Quant]) -> Quant | None:
    if producer is None:
        return None
    if producer.op == "q.dequantize":
        return producer.operand(0).tensor.quant
    return grids.get(producer.output.name)


def _drop(quantizer: Node, rewriter: Rewriter) -> None:
    """Hand the readers of a quantized value the float one, where all of them dequantize it."""
    value, stored = quantizer.operand(0), quantizer.output
    readers = stored.users
    if stored.is_output or any(user.op != "q.dequantize" for user in readers):
        return
    if any(user.output.is_output for user in readers):
        return
    for user in readers:
        rewriter.replace_uses(user.output, value)
        rewriter.erase(user)
    rewriter.erase(quantizer)
