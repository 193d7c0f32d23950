"""Sliding windows of nodes: attributes as kernels want them, and the halo their input needs."""

from __future__ import annotations

from typing import Any

from qcc.backends.llvm.buffers import image_shape
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.window import Window
from qcc.ir.core import Node
from qcc.ir.ops import attribute


def window_of(node: Node, kernel: tuple[int, int]) -> Window:
    """The window of a q.conv or pool in NHWC."""
    strides, dilations = attribute(node, "strides"), attribute(node, "dilations")
    pads = attribute(node, "pads") or [0, 0, 0, 0]
    return Window(kernel, _pair(strides), _pair(dilations), (int(pads[0]), int(pads[1])))


def _pair(values: Any) -> tuple[int, int]:
    return (1, 1) if values is None else (int(values[0]), int(values[1]))


def conv_kernel_shape(node: Node) -> tuple[int, int]:
    """Rows and columns of a q.conv's kernel."""
    shape = node.operand(1).tensor.static_shape
    return shape[2], shape[3]


def wanted_halo(node: Node, isa: InstructionSet) -> tuple[int, int, int, int] | None:
    """Pixels (top, left, bottom, right) that the node reads around its first operand.

    Where it may run in Winograd's domain, whole tiles of two by two outputs are looked at.
    """
    if node.op not in ("q.conv", "q.float_conv"):
        return None
    window = window_of(node, conv_kernel_shape(node))
    source = image_shape(node.operand(0).tensor.static_shape)[1:3]
    target = image_shape(node.output.tensor.static_shape)[1:3]
    after = []
    for axis in range(2):
        span = (window.kernel[axis] - 1) * window.dilations[axis]
        reach = (target[axis] - 1) * window.strides[axis] + span - window.pads[axis]
        after.append(max(0, reach - source[axis] + 1))
    if node.op == "q.conv" and int(attribute(node, "group")) == 1 and window.fits_winograd(isa):
        after = [size + count % 2 for size, count in zip(after, target, strict=True)]
    return window.pads[0], window.pads[1], after[0], after[1]
