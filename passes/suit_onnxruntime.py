"""suit-onnxruntime: what onnxruntime's CPU kernels need to compute what a Q/DQ model says.

* AveragePool loses dilations of 1: its integer form does not know the attribute.
* With ``unsigned-weights=true``, weights are stored as uint8 with zero point 128 instead of int8
  with 0.  Both mean the same numbers, but on x86 without VNNI its unsigned-by-signed kernels add
  two products in saturating 16-bit arithmetic (``vpmaddubsw``), so int8 weights can give other
  answers there than on newer CPUs; unsigned ones are exact everywhere, and slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant
from qcc.passes.manager import Pass

_READERS = ("Conv", "Gemm", "MatMul")
_SHIFT = 128


@dataclass(frozen=True)
class SuitOnnxruntime(Pass):
    """Drop attributes that integer kernels do not know; store weights unsigned if asked."""

    unsigned_weights: bool = False

    name: ClassVar[str] = "suit-onnxruntime"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite the main graph: bodies of control flow hold nothing quantized."""
        for node in graph.nodes:
            if node.op == "q.dequantize" and self.unsigned_weights:
                _store_unsigned(node, rewriter)
            elif node.op == "AveragePool" and _is_undilated(node):
                rewriter.remove_attribute(node, "dilations")


def _is_undilated(node: Node) -> bool:
    return all(step == 1 for step in node.attributes.get("dilations", ()))


def _store_unsigned(node: Node, rewriter: Rewriter) -> None:
    weight = node.operand(0)
    quant = weight.tensor.quant
    if weight.constant is None or quant is None or quant.storage != "int8":
        return
    if any(quant.zero_point) or not _is_weight(node, quant):
        return
    data = (np.asarray(weight.constant, np.int16) + _SHIFT).astype(np.uint8)
    low, high = quant.range
    unsigned = Quant.make("uint8", quant.scales, _SHIFT, quant.axis, low + _SHIFT, high + _SHIFT)
    made = rewriter.constant(f"{weight.name}_u8", data, weight.tensor.with_element(unsigned))
    rewriter.replace_input(node, 0, made)
    rewriter.erase_dead(weight)


def _is_weight(node: Node, quant: Quant) -> bool:
    """Whether only unsigned activations meet this weight: int8 ones need int8 weights."""
    users = node.output.users
    return bool(users) and all(
        user.op in _READERS and _activation_storage(user) == "uint8" for user in users
    )


def _activation_storage(node: Node) -> str | None:
    source: Value = node.operand(0)
    if source.producer is None or source.producer.op != "q.dequantize":
        return None
    return source.producer.operand(0).tensor.storage
