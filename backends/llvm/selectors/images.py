"""q.resize and q.softmax."""

from __future__ import annotations

from typing import Any

from qcc.backends.llvm.buffers import native_bounds, native_quant
from qcc.backends.llvm.kernels.resize import (
    ResizeLinearKernel,
    nearest_kernel,
    nearest_tables,
)
from qcc.backends.llvm.kernels.softmax import SoftmaxKernel
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.float_pooling import select_float_resize
from qcc.backends.llvm.selectors.layouts import layout_of
from qcc.backends.llvm.selectors.views import view_of
from qcc.ir.core import Node
from qcc.ir.integer.operands import quant_of
from qcc.ir.integer.resize import linear_taps, nearest_indices
from qcc.ir.ops import attribute


def select_resize(planner: Planner, node: Node) -> None:
    """Rows and columns by tables of source places, and of weights where it is linear."""
    if node.output.tensor.element == "float32":
        select_float_resize(planner, node)
        return
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    layouts = layout_of(source), layout_of(target)
    extents = [(source.shape[1 + i], target.shape[1 + i]) for i in range(2)]
    if attribute(node, "mode") == "nearest":
        rows, columns = (nearest_indices(node, i, *extents[i]) for i in range(2))
        copy = nearest_kernel(*layouts)
        packed = copy.pack(planner.isa, **nearest_tables(layouts[0], rows, columns))
        planner.emit(copy, {"source": source.pointer, "target": target.pointer}, packed)
        return
    (s_x, z_x), (s_y, z_y) = native_quant(node.operand(0)), native_quant(node.output)
    low, high = native_bounds(
        quant_of(node.output), attribute(node, "low"), attribute(node, "high")
    )
    kernel = ResizeLinearKernel.of(*layouts, s_x, s_y)
    packed = kernel.pack(
        planner.isa,
        rows=linear_taps(node, 0, *extents[0]),
        columns=linear_taps(node, 1, *extents[1]),
        input_scale=s_x,
        input_zero_point=z_x,
        output_scale=s_y,
        output_zero_point=z_y,
        low=low,
        high=high,
    )
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer}, packed)


def select_softmax(planner: Planner, node: Node) -> None:
    """Along the last axis, as bytes or as float32."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    s_x, _ = native_quant(node.operand(0))
    quant = node.output.tensor.quant
    scale = None if quant is None else quant.scale[0]
    kernel = SoftmaxKernel.of(source.shape, view_of(source), view_of(target), scale)
    numbers: dict[str, Any] = {}
    if quant is not None:
        low, high = native_bounds(quant, attribute(node, "low"), attribute(node, "high"))
        s_y, z_y = native_quant(node.output)
        numbers = {"output_scale": s_y, "output_zero_point": z_y, "low": low, "high": high}
    packed = kernel.pack(planner.isa, input_scale=s_x, **numbers)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer}, packed)
