"""Movement ops: views where nothing has to move, copies elsewhere."""

from __future__ import annotations

from dataclasses import replace

from qcc.backends.llvm.buffers import Stored, activation_layout, is_activation, is_contiguous
from qcc.backends.llvm.planner import NO_HALO, Planner
from qcc.backends.llvm.selectors.boundary import defer_transpose
from qcc.errors import ModelError
from qcc.ir.core import Node


def copy_into(planner: Planner, source: Stored, target: Stored) -> None:
    """Copy elements in logical order from one storage to another of as many elements."""
    raise ModelError("no copy")


def select_reshape(planner: Planner, node: Node) -> None:
    """A view of the same bytes where both shapes are contiguous, else a copy."""
    value, result = node.operand(0), node.output
    source = planner.source(value)
    shape = result.tensor.static_shape
    if not is_activation(result.tensor):
        if not result.is_output:
            planner.bind(result, replace(source, shape=shape))
            return
    elif planner.halo(result) == NO_HALO and not result.is_output:
        layout = activation_layout(shape)
        same_rows = source.layout is not None and not source.layout.has_halo
        same_rows = same_rows and shape[-1:] == source.shape[-1:]
        if same_rows or (source.is_contiguous and is_contiguous(layout)):
            planner.bind(result, replace(source, shape=shape, layout=layout))
            return
    copy_into(planner, source, planner.result(result))


def select_transpose(planner: Planner, node: Node) -> None:
    """A strided copy, unless the reader turns the tensor itself."""
    if defer_transpose(planner, node):
        return
    raise ModelError("no transpose")
