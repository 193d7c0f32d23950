"""q.conv and q.matmul by constant weights: the convolution kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc import numerics
from qcc.backends.llvm.buffers import (
    activation_layout,
    native_bounds,
    native_quant,
)
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel, conv_kernel, with_partners
from qcc.backends.llvm.kernels.depthwise import depthwise_kernel
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.kernels.winograd import in_winograd_domain
from qcc.backends.llvm.planner import Planner
from qcc.backends.llvm.selectors.elementwise import native_table
from qcc.backends.llvm.selectors.layouts import layout_of
from qcc.backends.llvm.selectors.moving import copy_into
from qcc.backends.llvm.selectors.products import select_product
from qcc.backends.llvm.selectors.windows import conv_kernel_shape, window_of
from qcc.ir.core import Array, Node, Value
from qcc.ir.integer.operands import quant_of
from qcc.ir.ops import attribute


@dataclass(frozen=True)
class Linear:
    """A node as the kernels see it: integer weight [O, I/groups, kh, kw], zero point removed."""

    node: Node
    weight: Array
    window: Window
    groups: int = 1

    @property
    def bias(self) -> Array | None:
        """int32 [O], or None."""
        value = self.node.input(2)
        return None if value is None else np.asarray(value.constant, np.int32)

    @property
    def residual(self) -> Value | None:
        """The fourth operand."""
        return self.node.input(3)


def select_conv(planner: Planner, node: Node) -> None:
    """q.conv in NHWC by the convolution or the depthwise kernel."""
    linear = Linear(
        node,
        _weight(node.operand(1)),
        window_of(node, conv_kernel_shape(node)),
        int(attribute(node, "group")),
    )
    _select(planner, linear)


def select_matmul(planner: Planner, node: Node) -> None:
    """q.matmul by a constant: a pointwise convolution over the rows."""
    if node.operand(1).constant is None:
        select_product(planner, node)
        return
    weight = _weight(node.operand(1)).T[:, :, None, None]
    _select(planner, Linear(node, np.ascontiguousarray(weight), Window()))


def _weight(value: Value) -> Array:
    quant, data = quant_of(value), np.asarray(value.constant).astype(np.int32)
    zero = numerics.per_axis(quant.zero_points, data.ndim, quant.axis)
    return np.asarray(data - zero, np.int32)


def _multiplier(linear: Linear) -> numerics.FloatArray:
    """float32 [O]: s_x s_w / s_y, or s_x s_w for a float result."""
    node = linear.node
    out = node.output.tensor.quant
    s_x = quant_of(node.operand(0)).scales[0]
    s_y = np.float32(1.0) if out is None else out.scales[0]
    m = numerics.requantize_multiplier(s_x, quant_of(node.operand(1)).scales, s_y)
    return np.broadcast_to(m, len(linear.weight)).astype(np.float32)


def _select(planner: Planner, linear: Linear) -> None:
    node = linear.node
    if node.output.tensor.quant is None:
        _select_float(planner, linear)
        return
    quant = quant_of(node.output)
    table = planner.only_user(node.output, "q.lut")
    result_value = node.output if table is None else table.output
    source = planner.source(node.operand(0))
    result = planner.result(result_value)
    low, high = native_bounds(quant, attribute(node, "low"), attribute(node, "high"))
    constants: dict[str, Any] = {
        "output_zero_point": native_quant(node.output)[1],
        "low": low,
        "high": high,
    }
    pointers = {"input": source.pointer, "output": result.pointer}
    residual_layout, residual_multiplier = None, 0.0
    if linear.residual is not None:
        residual = planner.source(linear.residual)
        residual_layout = layout_of(residual)
        pointers["residual"] = residual.pointer
        s_r, z_r = native_quant(linear.residual)
        residual_multiplier = float(
            numerics.requantize_multiplier(np.float32(s_r), 1.0, quant.scales[0])
        )
        constants["residual_zero_point"] = z_r
        constants["residual_multiplier"] = residual_multiplier
    if table is not None:
        planner.fused.add(table)
        constants["table"] = native_table(table)
    kernel, packed = _kernel(
        planner,
        linear,
        layout_of(source),
        layout_of(result),
        constants,
        residual=residual_layout,
        residual_multiplier=residual_multiplier,
        table=table is not None,
    )
    planner.emit(kernel, pointers, packed)


def _select_float(planner: Planner, linear: Linear) -> None:
    """A float32 result is written with padded pixels where its channels are no multiple of 4."""
    node = linear.node
    source = planner.source(node.operand(0))
    shape = node.output.tensor.static_shape
    layout = activation_layout(shape)
    result = planner.result(node.output)
    padded = layout.channel_stride != layout.channels
    target = planner.activation(node.output.name, layout, shape, element=4) if padded else result
    kernel, packed = _kernel(planner, linear, layout_of(source), layout, {}, form="float32")
    planner.emit(kernel, {"input": source.pointer, "output": target.pointer}, packed)
    if padded:
        copy_into(planner, target, result)


def _kernel(
    planner: Planner,
    linear: Linear,
    source: ActivationLayout,
    target: ActivationLayout,
    constants: dict[str, Any],
    **options: Any,
) -> tuple[Any, Any]:
    """The kernel of a node and its packed constants."""
    multiplier = _multiplier(linear)
    _, zero = native_quant(linear.node.operand(0))
    depthwise = linear.groups == source.channels == target.channels and linear.groups > 1
    if not depthwise:
        options["groups"] = linear.groups
    make = depthwise_kernel if depthwise else conv_kernel
    kernel: Any = make(
        source,
        target,
        linear.weight,
        multiplier=multiplier,
        input_zero_point=zero,
        bias=linear.bias,
        window=linear.window,
        shifted=constants.get("output_zero_point", 0) != 0,
        clamped=(constants.get("low", 0), constants.get("high", 255)) != (0, 255),
        least_weight=planner.isa.least_weight,
        **options,
    )

    if isinstance(kernel, ConvKernel):
        kernel = with_partners(kernel, linear.weight, planner.isa)

    def pack(form: Any) -> Packed:
        packed: Packed = form.pack(
            planner.isa,
            weight=linear.weight,
            multiplier=multiplier,
            input_zero_point=zero,
            bias=linear.bias,
            **constants,
        )
        return packed

    if isinstance(kernel, ConvKernel):
        transformed = in_winograd_domain(kernel, linear.weight, planner.isa)
        if planner.chooser is not None:
            kernel = planner.chooser.choose(kernel, pack, transformed)
        elif transformed is not None and transformed.gains(planner.isa):
            kernel = transformed
    return kernel, pack(kernel)
