"""q.add, q.sub and q.mul: of two activations, or of one and a float32 constant."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np

from qcc.backends.llvm.buffers import Stored, activation_layout, native_bounds, native_quant
from qcc.backends.llvm.kernels.binary import BinaryKernel, ConstantBinaryKernel
from qcc.backends.llvm.kernels.formulas import (
    ConstantOp,
    Numbers,
    Op,
    binary_formula,
    constant_formula,
)
from qcc.backends.llvm.kernels.nest import View, broadcast_view
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.layouts import layout_of
from qcc.backends.llvm.selectors.views import view_of
from qcc.ir.core import Node
from qcc.ir.integer.operands import quant_of
from qcc.ir.ops import attribute


def select_binary(planner: Planner, node: Node) -> None:
    """Two quantized operands, or one and a constant (on either side)."""
    left, right = node.operand(0), node.operand(1)
    if right.tensor.quant is None:
        _select_constant(planner, node, 0, cast("ConstantOp", node.op_type))
    elif left.tensor.quant is None:
        reversed_op = "reversed_sub" if node.op == "q.sub" else node.op_type
        _select_constant(planner, node, 1, cast("ConstantOp", reversed_op))
    else:
        _select_pair(planner, node)


def _bounds(node: Node) -> tuple[int, int]:
    return native_bounds(quant_of(node.output), attribute(node, "low"), attribute(node, "high"))


def _select_pair(planner: Planner, node: Node) -> None:
    rank = len(node.output.tensor.static_shape)
    a, b = (_ranked(planner.source(node.operand(i)), rank) for i in range(2))
    target = planner.result(node.output)
    low, high = _bounds(node)
    numbers = Numbers(
        native_quant(node.operand(0)),
        native_quant(node.operand(1)),
        native_quant(node.output),
        low,
        high,
    )
    op = cast("Op", node.op_type)
    if _as_images(a, target) and _as_images(b, target):
        kernel = BinaryKernel.of(op, layout_of(a), layout_of(b), layout_of(target), numbers)
    else:
        views = _broadcast(a, target.shape), _broadcast(b, target.shape), view_of(target)
        formula = binary_formula(op, numbers)
        kernel = BinaryKernel(
            op, target.shape, *views, formula.kind, formula.division, formula.bounded
        )
    packed = kernel.pack(planner.isa, numbers=numbers)
    pointers = {"a": a.pointer, "b": b.pointer, "target": target.pointer}
    planner.emit(kernel, pointers, packed)


def _ranked(stored: Stored, rank: int) -> Stored:
    """The operand with leading axes of one element, as many as it lacks."""
    missing = rank - len(stored.shape)
    if missing <= 0 or stored.layout is None:
        return stored
    shape = (1,) * missing + stored.shape
    layout = replace(activation_layout(shape), channel_stride=stored.layout.channel_stride)
    return replace(stored, shape=shape, layout=layout)


def _as_images(operand: Stored, target: Stored) -> bool:
    """Whether broadcasting the images is broadcasting the tensors (no collapsed axis differs)."""
    lead = max(0, len(target.shape) - 3)
    same = operand.shape[:lead] == target.shape[:lead]
    return same or lead == 1 or all(d == 1 for d in operand.shape[:lead])


def _broadcast(operand: Stored, shape: tuple[int, ...]) -> View:
    view = view_of(operand)
    strides = tuple(
        0 if have == 1 and want > 1 else stride
        for have, want, stride in zip(operand.shape, shape, view.strides, strict=True)
    )
    return View(view.offset, strides)


def _select_constant(planner: Planner, node: Node, index: int, op: ConstantOp) -> None:
    rank = len(node.output.tensor.static_shape)
    a, target = _ranked(planner.source(node.operand(index)), rank), planner.result(node.output)
    data = np.asarray(node.operand(1 - index).constant, np.float32)
    numbers, result = native_quant(node.operand(index)), native_quant(node.output)
    low, high = _bounds(node)
    formula, coefficients = constant_formula(op, data, numbers, result, low, high)
    kernel = ConstantBinaryKernel(
        op,
        target.shape,
        _broadcast(a, target.shape),
        broadcast_view(data.shape, target.shape, 4),
        view_of(target),
        formula,
    )
    packed = kernel.pack(
        planner.isa,
        constant=data,
        coefficients=coefficients,
        a=numbers,
        y=result,
        low=low,
        high=high,
    )
    planner.emit(kernel, {"a": a.pointer, "target": target.pointer}, packed)
