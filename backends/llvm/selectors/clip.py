"""Clip of integers (the indices of a lookup) and of float32."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from qcc.backends.llvm.kernels.integer_clip import IntegerClipKernel
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.floats import select_float_unary
from qcc.ir.core import Node, Value
from qcc.ref.float_ops import is_integer_clip


def select_clip(planner: Planner, node: Node) -> None:
    """The limits are constants; an absent one is that of the type."""
    if not is_integer_clip(node):
        select_float_unary(planner, node)
        return
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    kind = np.iinfo(np.dtype(node.output.tensor.storage))
    bits: Literal[32, 64] = 32 if kind.bits == 32 else 64
    low, high = _limit(node.input(1), int(kind.min)), _limit(node.input(2), int(kind.max))
    kernel = IntegerClipKernel(math.prod(target.shape), bits, low, high)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer})


def _limit(value: Value | None, default: int) -> int:
    return default if value is None else int(np.asarray(value.constant).reshape(()))
