"""q.float_conv and q.float_matmul: the float32 convolution kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcc.backends.llvm.buffers import Stored, image_shape
from qcc.backends.llvm.kernels.float_conv import FloatConvKernel
from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.backends.llvm.planner import NO_HALO, Planner
from qcc.backends.llvm.selectors.moving import copy_view
from qcc.backends.llvm.selectors.views import view_of
from qcc.backends.llvm.selectors.windows import conv_kernel_shape, wanted_halo, window_of
from qcc.ir.core import Array, Node, Value
from qcc.ir.ops import attribute


def select_float_conv(planner: Planner, node: Node) -> None:
    """A convolution in NHWC; its input lies with the halo that the windows want."""
    window = window_of(node, conv_kernel_shape(node))
    weight = np.asarray(node.operand(1).constant)
    source = _with_halo(planner, node)
    target = planner.result(node.output)
    kernel = FloatConvKernel(
        image_shape(target.shape),
        weight.shape[1],
        view_of(source).shifted((0, -window.pads[0], -window.pads[1], 0)),
        view_of(target),
        window.kernel,
        window.strides,
        window.dilations,
        int(attribute(node, "group")),
        low=attribute(node, "low") is not None,
        high=attribute(node, "high") is not None,
    )
    _emit(planner, node, kernel, weight, (source, target))


def _with_halo(planner: Planner, node: Node) -> Stored:
    """The input; a copy with a halo where it lies without one."""
    value, halo = node.operand(0), wanted_halo(node, planner.isa)
    source = planner.source(value)
    if halo is None or halo == NO_HALO or _reaches(source, halo):
        return source
    copy = planner.float_image(value.name, source.shape, halo)
    copy_view(planner, source.shape, (source, view_of(source)), (copy, view_of(copy)))
    return copy


def _reaches(source: Stored, halo: tuple[int, int, int, int]) -> bool:
    layout = source.layout
    if layout is None:
        return False
    there = (layout.halo_top, layout.halo_left, layout.halo_bottom, layout.halo_right)
    return all(a >= b for a, b in zip(there, halo, strict=True))


def select_float_product(planner: Planner, node: Node) -> None:
    """A product by constants: a pointwise convolution over the rows."""
    weight = np.asarray(node.operand(1).constant)
    source = planner.source(node.operand(0))
    target = planner.result(node.output)
    depth, columns = weight.shape
    rows = int(np.prod(source.shape[:-1], dtype=np.int64))
    kernel = FloatConvKernel(
        (1, 1, rows, columns),
        depth,
        dense_view((1, 1, rows, depth), 4),
        dense_view((1, 1, rows, columns), 4),
        low=attribute(node, "low") is not None,
        high=attribute(node, "high") is not None,
    )
    factors = np.ascontiguousarray(weight.T)[:, :, None, None]
    _emit(planner, node, kernel, factors, (source, target))


def _emit(
    planner: Planner,
    node: Node,
    kernel: FloatConvKernel,
    weight: Array,
    places: tuple[Stored, Stored],
) -> None:
    source, target = places
    pointers = {"input": source.pointer, "output": target.pointer}
    if node.input(3) is not None:
        residual, view = _residual(planner, node.operand(3), kernel)
        pointers["residual"] = residual.pointer
        kernel = replace(kernel, residual=view)
    if kernel.sizes[2] == 1 and kernel.kernel[1] == 1:
        kernel, weight = _upright(kernel), weight.swapaxes(2, 3)
    packed = kernel.pack(
        planner.isa,
        weight=weight,
        bias=_numbers(node.input(2)),
        low=attribute(node, "low"),
        high=attribute(node, "high"),
    )
    planner.emit(kernel, pointers, packed)


def _residual(planner: Planner, value: Value, kernel: FloatConvKernel) -> tuple[Stored, View]:
    stored = planner.source(value)
    if stored.layout is None:
        return stored, dense_view(kernel.sizes, 4)
    return stored, view_of(stored)


def _upright(kernel: FloatConvKernel) -> FloatConvKernel:
    """An image of one column as one of one row."""

    def turned(view: View) -> View:
        return view.permuted((0, 2, 1, 3))

    def swapped(pair: tuple[int, int]) -> tuple[int, int]:
        return pair[1], pair[0]

    images, rows, columns, channels = kernel.sizes
    return replace(
        kernel,
        sizes=(images, columns, rows, channels),
        input=turned(kernel.input),
        output=turned(kernel.output),
        residual=None if kernel.residual is None else turned(kernel.residual),
        kernel=swapped(kernel.kernel),
        strides=swapped(kernel.strides),
        dilations=swapped(kernel.dilations),
    )


def _numbers(value: Value | None) -> Array | None:
    return None if value is None else np.asarray(value.constant)
