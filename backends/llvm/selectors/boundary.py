"""q.quantize and q.dequantize, the change between NCHW and NHWC fused."""

from __future__ import annotations

from qcc.backends.llvm.buffers import native_bounds, native_quant
from qcc.backends.llvm.kernels.boundary import DequantizeKernel, Order, QuantizeKernel
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.layouts import layout_of
from qcc.ir.core import Node
from qcc.ir.integer.operands import quant_of
from qcc.ir.ops import attribute

TO_LAST = [0, 2, 3, 1]
TO_FIRST = [0, 3, 1, 2]


def select_quantize(planner: Planner, node: Node) -> None:
    """Read a dense float tensor, channels first where a transposition to NHWC follows."""
    quant, result, order = quant_of(node.output), node.output, "nhwc"
    turned = planner.only_user(node.output, "q.transpose")
    if turned is not None and list(attribute(turned, "perm")) == TO_LAST:
        planner.fused.add(turned)
        result, order = turned.output, "nchw"
    source = planner.source(node.operand(0))
    target = planner.result(result)
    scale, zero = native_quant(node.output)
    low, high = native_bounds(quant, None, None)
    kernel = QuantizeKernel.of(layout_of(target), _order(order), scale)
    packed = kernel.pack(planner.isa, scale=scale, zero_point=zero, low=low, high=high)
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer}, packed)


def _order(order: str) -> Order:
    return "nchw" if order == "nchw" else "nhwc"


def select_dequantize(planner: Planner, node: Node) -> None:
    """Write a dense float tensor, channels first where the operand was turned back from NHWC."""
    value, order = node.operand(0), "nhwc"
    if value in planner.turned:
        value, order = planner.turned[value], "nchw"
    source = planner.source(value)
    target = planner.result(node.output)
    scale, zero = native_quant(node.operand(0))
    kernel = DequantizeKernel(layout_of(source), _order(order))
    packed = kernel.pack(planner.isa, scale=scale, zero_point=zero)
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer}, packed)


def defer_transpose(planner: Planner, node: Node) -> bool:
    """Leave a transposition to NCHW to the q.dequantize that alone reads it."""
    if list(attribute(node, "perm")) != TO_FIRST:
        return False
    if planner.only_user(node.output, "q.dequantize") is None:
        return False
    planner.turned[node.output] = node.operand(0)
    return True
