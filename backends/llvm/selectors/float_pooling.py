"""q.float_max_pool and q.float_average_pool."""

from __future__ import annotations

from qcc.backends.llvm.kernels.float_pool import FloatPoolKernel, Pool
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.views import view_of
from qcc.backends.llvm.selectors.windows import window_of
from qcc.ir.core import Node
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
