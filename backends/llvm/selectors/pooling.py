"""q.max_pool, q.average_pool and q.reduce_mean."""

from __future__ import annotations

from typing import Any

from qcc.backends.llvm.buffers import (
    Stored,
    activation_layout,
    native_bounds,
    native_quant,
)
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.kernels.pooling import AveragePoolKernel, MaxPoolKernel
from qcc.backends.llvm.kernels.reduce import Form, ReduceMeanKernel, mean_needs_clamp
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.layouts import layout_of
from qcc.backends.llvm.selectors.views import view_of
from qcc.backends.llvm.selectors.windows import window_of
from qcc.ir.core import Node
from qcc.ir.ops import attribute


def select_max_pool(planner: Planner, node: Node) -> None:
    """Maximum over windows; int8 storage is shifted, which keeps the order."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    kernel = MaxPoolKernel(layout_of(source), layout_of(target), window_of(node, _shape(node)))
    packed = kernel.pack(planner.isa)
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer}, packed)


def select_average_pool(planner: Planner, node: Node) -> None:
    """Mean over windows, as bytes or as float32."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    pads = attribute(node, "pads") or [0, 0, 0, 0]
    constants, form, clamp = _mean_constants(node)
    kernel = AveragePoolKernel(
        layout_of(source),
        activation_layout(target.shape) if target.layout is None else target.layout,
        window_of(node, _shape(node)),
        bool(attribute(node, "count_include_pad")),
        (int(pads[2]), int(pads[3])),
        form,
        clamp,
    )
    packed = kernel.pack(planner.isa, **constants)
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer}, packed)


def select_reduce_mean(planner: Planner, node: Node) -> None:
    """Mean over whole axes, as bytes or as float32."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    axes = tuple(int(a) % len(source.shape) for a in attribute(node, "axes"))
    constants, form, clamp = _mean_constants(node)
    kernel = ReduceMeanKernel(
        source.shape,
        axes,
        view_of(source),
        _reduced_view(target, axes, len(source.shape), bool(attribute(node, "keepdims"))),
        form,
        clamp,
    )
    packed = kernel.pack(planner.isa, **constants)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer}, packed)


def _reduced_view(target: Stored, axes: tuple[int, ...], rank: int, keep: bool) -> View:
    """The result with a stride for each axis of the operand: 0 along the reduced ones."""
    view = view_of(target)
    remaining = iter(view.strides)
    strides = []
    for axis in range(rank):
        stride = next(remaining) if keep or axis not in axes else 0
        strides.append(0 if axis in axes else stride)
    return View(view.offset, tuple(strides))


def _shape(node: Node) -> tuple[int, int]:
    rows, columns = attribute(node, "kernel_shape")
    return int(rows), int(columns)


def _mean_constants(node: Node) -> tuple[dict[str, Any], Form, bool]:
    """Packed numbers, the form of the result, and whether it must be clamped as a float."""
    scale, zero = native_quant(node.operand(0))
    constants: dict[str, Any] = {"input_scale": scale, "input_zero_point": zero}
    quant = node.output.tensor.quant
    if quant is None:
        return constants, "float32", False
    low, high = native_bounds(quant, attribute(node, "low"), attribute(node, "high"))
    out_scale, out_zero = native_quant(node.output)
    constants |= {"output_scale": out_scale, "output_zero_point": out_zero}
    constants |= {"low": low, "high": high}
    return constants, "uint8", mean_needs_clamp(scale, out_scale)
