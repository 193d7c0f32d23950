"""Float32 ops that native code computes itself."""

from __future__ import annotations

import numpy as np

from qcc.backends.llvm.kernels.elementwise import (
    FloatBinaryKernel,
    FloatOp,
    FloatUnaryKernel,
    UnaryOp,
)
from qcc.backends.llvm.kernels.float_softmax import FloatSoftmaxKernel
from qcc.backends.llvm.kernels.nest import broadcast_view, dense_view
from qcc.backends.llvm.planner import Planner
from qcc.ir.core import Node, Value

_BINARY: dict[str, FloatOp] = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Max": "maximum",
    "Min": "minimum",
}
_UNARY: dict[str, UnaryOp] = {"Relu": "relu", "Neg": "neg", "Clip": "clip", "Sigmoid": "sigmoid"}


def select_float_binary(planner: Planner, node: Node) -> None:
    """Two float32 operands that broadcast."""
    a, b = (planner.source(node.operand(i)) for i in range(2))
    target = planner.result(node.output)
    sizes = target.shape or (1,)
    kernel = FloatBinaryKernel(
        _BINARY[node.op],
        sizes,
        broadcast_view(a.shape, sizes, 4),
        broadcast_view(b.shape, sizes, 4),
        dense_view(sizes, 4),
    )
    planner.emit(kernel, {"a": a.pointer, "b": b.pointer, "target": target.pointer})


def select_float_unary(planner: Planner, node: Node) -> None:
    """One float32 operand; the limits of a Clip are constants."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    sizes = target.shape or (1,)
    view = dense_view(sizes, 4)
    kernel = FloatUnaryKernel(_UNARY[node.op], sizes, view, view)
    low, high = (_limit(node.input(i), d) for i, d in ((1, -np.inf), (2, np.inf)))
    packed = kernel.pack(planner.isa, low=low, high=high)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer}, packed)


def select_float_softmax(planner: Planner, node: Node) -> None:
    """Along the last axis, which is where the layout pass puts a softmax."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    view = dense_view(target.shape, 4)
    kernel = FloatSoftmaxKernel(target.shape, view, view)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer})


def _limit(value: Value | None, default: float) -> float:
    if value is None or value.constant is None:
        return default
    return float(np.asarray(value.constant, np.float32).reshape(()))
