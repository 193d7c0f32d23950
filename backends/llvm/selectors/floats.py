"""Float32 ops that native code computes itself."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from qcc.backends.llvm.buffers import Buffer, Pointer, Stored
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.elementwise import (
    FloatBinaryKernel,
    FloatOp,
    FloatUnaryKernel,
    UnaryOp,
)
from qcc.backends.llvm.kernels.float_matmul import FloatMatmulKernel
from qcc.backends.llvm.kernels.float_reduce import FloatReduceKernel, Reduction
from qcc.backends.llvm.kernels.float_softmax import FloatSoftmaxKernel
from qcc.backends.llvm.kernels.layer_norm import LayerNormKernel
from qcc.backends.llvm.kernels.lookup import LookupKernel
from qcc.backends.llvm.kernels.nest import View, broadcast_view, dense_view
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.views import view_of
from qcc.backends.llvm.sync import FAULT_OFFSET
from qcc.ir.core import Node, Value
from qcc.ir.ops import attribute
from qcc.ref.float_ops import gelu_form, normalized_length

FAULT = Buffer("fault", 16, offset=FAULT_OFFSET)
"""The words of the arena's control block that a program looks at after a call."""

_BINARY: dict[str, FloatOp] = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Max": "maximum",
    "Min": "minimum",
}
_UNARY: dict[str, UnaryOp] = {
    "Relu": "relu",
    "Neg": "neg",
    "Clip": "clip",
    "Sigmoid": "sigmoid",
    "Pow": "square",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Tanh": "tanh",
    "Exp": "exp",
    "HardSigmoid": "hard_sigmoid",
    "HardSwish": "hard_swish",
    "LeakyRelu": "leaky_relu",
}
_NUMBERS = {"HardSigmoid": ("alpha", "beta"), "LeakyRelu": ("alpha",)}
"""Attributes that are numbers of a unary function."""
_GELUS: dict[str, UnaryOp] = {"none": "gelu", "tanh": "gelu_tanh"}
_REDUCTIONS: dict[str, Reduction] = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceL2": "length"}


def select_float_binary(planner: Planner, node: Node) -> None:
    """Two float32 operands that broadcast."""
    a, b = (planner.source(node.operand(i)) for i in range(2))
    target = planner.result(node.output)
    sizes = target.shape or (1,)
    kernel = FloatBinaryKernel(
        _BINARY[node.op],
        sizes,
        _broadcast(a, sizes),
        _broadcast(b, sizes),
        _with_axes(view_of(target)),
    )
    planner.emit(kernel, {"a": a.pointer, "b": b.pointer, "target": target.pointer})


def _broadcast(stored: Stored, sizes: tuple[int, ...]) -> View:
    """The operand's view, which stands still along axes that only the result has."""
    if stored.layout is None:
        return broadcast_view(stored.shape, sizes, 4)
    view = view_of(stored)
    strides = [0 if n == 1 else s for n, s in zip(stored.shape, view.strides, strict=True)]
    return View(view.offset, (*[0] * (len(sizes) - len(strides)), *strides))


def _with_axes(view: View) -> View:
    """A view with at least one axis."""
    return view if view.strides else View(view.offset, (4,))


def select_float_unary(planner: Planner, node: Node) -> None:
    """One float32 operand; the limits of a Clip are constants.

    A product with the operand that alone reads a Sigmoid of it becomes part of the function.
    """
    product = _gating_product(planner, node)
    op = _unary_op(node) if product is None else "silu"
    if product is not None:
        planner.fused.add(product)
    source = planner.source(node.operand(0))
    target = planner.result(node.output if product is None else product.output)
    x, y = (_with_axes(view_of(stored)) for stored in (source, target))
    kernel = FloatUnaryKernel(op, target.shape or (1,), x, y, _numbers_of(node))
    packed: Packed = {}
    if node.op == "Clip":
        low, high = (_limit(node.input(i), d) for i, d in ((1, -np.inf), (2, np.inf)))
        packed = kernel.pack(planner.isa, low=low, high=high)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer}, packed)


def _unary_op(node: Node) -> UnaryOp:
    return _GELUS[gelu_form(node)] if node.op == "Gelu" else _UNARY[node.op]


def _numbers_of(node: Node) -> tuple[float, ...]:
    """The numbers of a unary function."""
    return tuple(float(attribute(node, name)) for name in _NUMBERS.get(node.op, ()))


def _gating_product(planner: Planner, node: Node) -> Node | None:
    """The Mul by its operand that alone reads a Sigmoid."""
    product = planner.only_user(node.output, "Mul") if node.op == "Sigmoid" else None
    fits = product is not None and node.operand(0) in product.inputs
    return product if fits else None


def select_float_softmax(planner: Planner, node: Node) -> None:
    """Along the last axis, which is where the layout pass puts a softmax."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    view = dense_view(target.shape, 4)
    kernel = FloatSoftmaxKernel(target.shape, view, view)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer})


def select_float_reduction(planner: Planner, node: Node) -> None:
    """Along the last axes, which is where the layout pass puts a reduction."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    rows = math.prod(target.shape)
    kernel = FloatReduceKernel(_REDUCTIONS[node.op], rows, math.prod(source.shape) // rows)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer})


def select_layer_norm(planner: Planner, node: Node) -> None:
    """Over the last axes, which are one run of memory."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    length = normalized_length(node)
    sizes = (math.prod(target.shape) // length, length)
    view = dense_view(sizes, 4)
    bias = node.input(2)
    epsilon = float(attribute(node, "epsilon"))
    pointers = {
        "source": source.pointer,
        "scale": planner.source(node.operand(1)).pointer,
        "target": target.pointer,
    }
    if bias is not None:
        pointers["bias"] = planner.source(bias).pointer
    planner.emit(LayerNormKernel(sizes, view, view, epsilon, bias is not None), pointers)


def select_lookup(planner: Planner, node: Node) -> None:
    """Rows of a table; what a row holds lies side by side."""
    source, indices = (planner.source(node.operand(i)) for i in range(2))
    target = planner.result(node.output)
    row = math.prod(source.shape[1:]) * source.element_bytes
    size: Literal[4, 8] = 4 if indices.element_bytes == 4 else 8
    kernel = LookupKernel(math.prod(indices.shape), source.shape[0], row, size)
    pointers = {
        "source": source.pointer,
        "indices": indices.pointer,
        "fault": Pointer(FAULT),
        "target": target.pointer,
    }
    planner.emit(kernel, pointers)


def select_float_matmul(planner: Planner, node: Node) -> None:
    """Two matrices; leading axes broadcast."""
    a, b = (planner.source(node.operand(i)) for i in range(2))
    target = planner.result(node.output)
    rows, columns = target.shape[-2:]
    depth, batch = a.shape[-1], target.shape[:-2]
    kernel = FloatMatmulKernel(
        batch,
        rows,
        depth,
        columns,
        broadcast_view(a.shape, (*batch, rows, depth), 4),
        broadcast_view(b.shape, (*batch, depth, columns), 4),
        dense_view(target.shape, 4),
    )
    planner.emit(kernel, {"a": a.pointer, "b": b.pointer, "output": target.pointer})


def _limit(value: Value | None, default: float) -> float:
    if value is None or value.constant is None:
        return default
    return float(np.asarray(value.constant, np.float32).reshape(()))
