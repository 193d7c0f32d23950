"""Float32 images: q.float_max_pool, q.float_average_pool and q.resize."""

from __future__ import annotations

from qcc.backends.llvm.kernels.copy import CopyKernel
from qcc.backends.llvm.kernels.float_pool import FloatPoolKernel, Pool
from qcc.backends.llvm.kernels.float_resize import FloatResizeKernel
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.arg_max import select_resize_arg_max
from qcc.backends.llvm.selectors.views import view_of
from qcc.backends.llvm.selectors.windows import window_of
from qcc.ir.core import Node
from qcc.ir.integer.resize import linear_taps, nearest_indices
from qcc.ir.ops import attribute

_POOLS: dict[str, Pool] = {"q.float_max_pool": "max", "q.float_average_pool": "average"}


def select_float_pool(planner: Planner, node: Node) -> None:
    """Windows of an image in NHWC; padding needs no memory."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    rows, columns = (int(size) for size in attribute(node, "kernel_shape"))
    pads = attribute(node, "pads") or [0, 0, 0, 0]
    counts = node.op == "q.float_average_pool" and bool(attribute(node, "count_include_pad"))
    images, height, width, channels = target.shape
    kernel = FloatPoolKernel(
        _POOLS[node.op],
        (images, height, width, channels),
        (source.shape[1], source.shape[2]),
        window_of(node, (rows, columns)),
        view_of(source),
        view_of(target),
        (int(pads[2]), int(pads[3])) if counts else None,
    )
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer})


def select_float_resize(planner: Planner, node: Node) -> None:
    """A copy with tables of source rows and columns, or an interpolation."""
    if select_resize_arg_max(planner, node):
        return
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    view = view_of(source)
    extents = [(source.shape[1 + i], target.shape[1 + i]) for i in range(2)]
    if attribute(node, "mode") == "nearest":
        still = View(view.offset, (view.strides[0], 0, 0, view.strides[3]))
        copy = CopyKernel(target.shape, still, view_of(target), 4, indexed=(1, 2))
        offsets = {
            f"indices{1 + i}": nearest_indices(node, i, *extents[i]) * view.strides[1 + i]
            for i in range(2)
        }
        pointers = {"source": source.pointer, "target": target.pointer}
        planner.emit(copy, pointers, copy.pack(planner.isa, **offsets))
        return
    images, height, width, channels = target.shape
    kernel = FloatResizeKernel(
        (images, height, width, channels),
        (source.shape[1], source.shape[2]),
        view,
        view_of(target),
    )
    rows, columns = (linear_taps(node, i, *extents[i]) for i in range(2))
    packed = kernel.pack(planner.isa, rows=rows, columns=columns)
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer}, packed)
