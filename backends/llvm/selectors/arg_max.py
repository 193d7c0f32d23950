"""ArgMax, alone and of a resized image."""

from __future__ import annotations

import math

from qcc.backends.llvm.kernels.arg_max import ArgMaxKernel
from qcc.backends.llvm.kernels.nest import dense_view
from qcc.backends.llvm.kernels.resize_arg_max import ResizeArgMaxKernel
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.views import view_of
from qcc.ir.core import Node
from qcc.ir.integer.resize import linear_taps
from qcc.ir.ops import attribute


def select_arg_max(planner: Planner, node: Node) -> None:
    """Along the last axis, which is where the layout pass puts it."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    kernel = ArgMaxKernel(math.prod(target.shape), source.shape[-1], _takes_last(node))
    planner.emit(kernel, {"source": source.pointer, "target": target.pointer})


def select_resize_arg_max(planner: Planner, node: Node) -> bool:
    """A linear resize of float32 in NHWC and the ArgMax that alone reads it; whether it is so."""
    reader = planner.only_user(node.output, "ArgMax")
    if attribute(node, "mode") != "linear":
        return False
    source = planner.source(node.operand(0))
    images, height, width, channels = source.shape
    dense = view_of(source) == dense_view(source.shape, 4)
    if reader is None or not dense or not ResizeArgMaxKernel.fits(width, channels):
        return False
    rows, columns = node.output.tensor.static_shape[1:3]
    kernel = ResizeArgMaxKernel(
        (images, rows, columns, channels), (height, width), _takes_last(reader)
    )
    packed = kernel.pack(
        planner.isa,
        rows=linear_taps(node, 0, height, rows),
        columns=linear_taps(node, 1, width, columns),
    )
    target = planner.result(reader.output)
    planner.fused.add(reader)
    planner.emit(kernel, {"input": source.pointer, "target": target.pointer}, packed)
    return True


def _takes_last(node: Node) -> bool:
    return bool(attribute(node, "select_last_index"))
