"""Tables: q.lut, q.requantize, and q.concat with its requantized operands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.buffers import Stored, shift_of
from qcc.backends.llvm.kernels.lut import LutKernel, clamp_bounds
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.layouts import layout_of
from qcc.backends.llvm.selectors.moving import copy_view
from qcc.backends.llvm.selectors.views import view_of
from qcc.ir.core import Node, Value
from qcc.ir.integer.operands import quant_of
from qcc.ir.ops import attribute


def native_table(node: Node) -> NDArray[np.uint8]:
    """The table of a q.lut in native units: indexed by, and giving, unsigned bytes."""
    table = np.asarray(node.operand(1).constant)
    index = np.arange(256) ^ shift_of(node.operand(0).tensor)
    values = table.view(np.uint8)[index]
    return np.asarray(values ^ shift_of(node.output.tensor), np.uint8)


def requantize_table(source: Value, target: Value) -> NDArray[np.uint8]:
    """What each byte of ``source`` becomes at the scale of ``target``, in native units."""
    x, y = quant_of(source), quant_of(target)
    stored = np.arange(256) - shift_of(source.tensor)
    real = numerics.dequantize(stored, x.scales[0], x.zero_point[0])
    low, high = y.range
    found = numerics.quantize(
        real, y.scales[0], y.zero_point[0], y.storage, low=low, high=high
    ).astype(np.int16)
    return (found + shift_of(target.tensor)).astype(np.uint8)


def emit_table(planner: Planner, source: Stored, target: Stored, table: NDArray[np.uint8]) -> None:
    """``target = table[source]``; both may be the same memory."""
    kernel = LutKernel.between(layout_of(source), layout_of(target), table)
    packed = kernel.pack(planner.isa, table=table)
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer}, packed)


def select_lut(planner: Planner, node: Node) -> None:
    """A table lookup of every byte."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    emit_table(planner, source, target, native_table(node))


def select_requantize(planner: Planner, node: Node) -> None:
    """Another scale: a table, too."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    emit_table(planner, source, target, requantize_table(node.operand(0), node.output))


def select_concat(planner: Planner, node: Node) -> None:
    """Operands that do not lie there yet are copied, or requantized by a table, to their place."""
    target = planner.result(node.output)
    axis = int(attribute(node, "axis")) % len(target.shape)
    first = 0
    for value in filter(None, node.inputs):
        if not planner.placement.holds(node.output, first, value):
            _into_place(planner, value, node.output, _part(target, axis, first, value))
        first += value.tensor.static_shape[axis]


def _part(target: Stored, axis: int, first: int, value: Value) -> tuple[Stored, View]:
    """Where ``value`` goes: the elements from ``first`` on along ``axis``."""
    if axis == len(target.shape) - 1 and target.layout is not None:
        place = target.channels(first, value.tensor.static_shape)
        return place, view_of(place)
    start = [0] * len(target.shape)
    start[axis] = first
    return target, view_of(target).shifted(start)


def _into_place(planner: Planner, value: Value, whole: Value, target: tuple[Stored, View]) -> None:
    source = planner.source(value)
    if value.tensor.element == whole.tensor.element:
        copy_view(planner, source.shape, (source, view_of(source)), target)
    else:
        _table_into(planner, source, target, requantize_table(value, whole))


def _table_into(
    planner: Planner, source: Stored, target: tuple[Stored, View], table: NDArray[np.uint8]
) -> None:
    clamps = clamp_bounds(table) is not None
    kernel = LutKernel(source.shape, view_of(source), target[1], clamps)
    packed = kernel.pack(planner.isa, table=table)
    planner.emit(kernel, {"source": source.pointer, "target": target[0].pointer}, packed)
