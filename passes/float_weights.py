"""float-weights: weights as float constants behind a quantize of their own, instead of integers.

Tools that read and change weights (pruning, further training) find them as they know them; a
runtime folds the quantize when it loads the model.  The file is four times as large.  The stored
integers are the same: what a weight's integer means is rounded to that integer again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qcc import numerics
from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant
from qcc.passes.manager import Pass


@dataclass(frozen=True)
class FloatWeights(Pass):
    """Put a q.quantize behind the float values of every 8-bit weight."""

    name: ClassVar[str] = "float-weights"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite the main graph: bodies of control flow hold nothing quantized."""
        made: dict[Value, Value] = {}
        for node in graph.nodes:
            if node.op != "q.dequantize":
                continue
            stored = node.operand(0)
            quant = stored.tensor.quant
            if stored.constant is None or quant is None or quant.storage not in ("int8", "uint8"):
                continue
            if stored not in made:
                made[stored] = _quantized_anew(stored, quant, node, rewriter)
            rewriter.replace_input(node, 0, made[stored])
            rewriter.erase_dead(stored)


def _quantized_anew(stored: Value, quant: Quant, before: Node, rewriter: Rewriter) -> Value:
    data = numerics.dequantize(
        np.asarray(stored.constant), quant.scales, quant.zero_points, axis=quant.axis
    )
    real = rewriter.constant(stored.name.removesuffix("_quantized"), data)
    # The values are within a narrowed range already, so nothing has to clamp them.
    whole = stored.tensor.with_element(replace(quant, low=None, high=None))
    return rewriter.insert(
        "q.quantize",
        [real],
        [whole],
        output_names=[rewriter.graph.fresh_name(f"{stored.name}_stored")],
        before=before,
    ).output
