"""ArgMax."""

from __future__ import annotations

import math

from qcc.backends.llvm.kernels.arg_max import ArgMaxKernel
from qcc.backends.llvm.planner import Planner
from qcc.ir.core import Node
from qcc.ir.ops import attribute


def select_arg_max(planner: Planner, node: Node) -> None:
    """Along the last axis, which is where the layout pass puts it."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    last = bool(attribute(node, "select_last_index"))
    kernel = ArgMaxKernel(math.prod(target.shape), source.shape[-1], last)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer})
