"""Movement ops: views where nothing has to move, copies elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qcc.backends.llvm.buffers import (
    Stored,
    activation_layout,
    is_activation,
    is_contiguous,
    shift_of,
)
from qcc.backends.llvm.kernels.copy import CopyKernel, FillKernel, border_parts
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.planner import NO_HALO, Planner
from qcc.backends.llvm.selectors.boundary import defer_transpose
from qcc.backends.llvm.selectors.views import view_of
from qcc.ir.core import Array, Node
from qcc.ir.ops import attribute
from qcc.ir.types import TensorType


def copy_view(
    planner: Planner,
    sizes: Sequence[int],
    source: tuple[Stored, View],
    target: tuple[Stored, View],
) -> None:
    """Emit ``target[i] = source[i]`` for every index within ``sizes``."""
    kernel = CopyKernel(
        tuple(sizes) or (1,), _ranked(source[1]), _ranked(target[1]), target[0].element_bytes
    )
    planner.emit(kernel, {"source": source[0].pointer, "target": target[0].pointer})


def _ranked(view: View) -> View:
    """A view with at least one axis."""
    return view if view.strides else View(view.offset, (0,))


def copy_into(planner: Planner, source: Stored, target: Stored) -> None:
    """Copy all elements in logical order; the shapes may differ, their element counts may not."""
    if source.shape == target.shape:
        shape = source.shape
    elif source.is_contiguous:
        shape, source = target.shape, as_dense(source, target.shape)
    elif target.is_contiguous:
        shape, target = source.shape, as_dense(target, source.shape)
    else:
        between = temporary(planner, source, source.shape)
        copy_into(planner, source, between)
        copy_into(planner, between, target)
        return
    copy_view(planner, shape, (source, view_of(source)), (target, view_of(target)))


def as_dense(stored: Stored, shape: tuple[int, ...]) -> Stored:
    """Contiguous elements under another shape."""
    return replace(stored, layout=None, shape=shape)


def temporary(planner: Planner, like: Stored, shape: tuple[int, ...]) -> Stored:
    """Dense memory for elements of the size of ``like``'s."""
    size = math.prod(shape) * like.element_bytes
    return planner.dense(like.buffer.name, size, shape, like.element_bytes)


def select_reshape(planner: Planner, node: Node) -> None:
    """A view of the same bytes where both shapes are contiguous, else a copy."""
    result = node.output
    source = planner.source(node.operand(0))
    shape = result.tensor.static_shape
    viewed = None if result.is_output else _reshaped(planner, node, source, shape)
    if viewed is None:
        copy_into(planner, source, planner.result(result))
    else:
        planner.bind(result, viewed)


def _reshaped(
    planner: Planner, node: Node, source: Stored, shape: tuple[int, ...]
) -> Stored | None:
    if not is_activation(node.output.tensor):
        return replace(source, shape=shape) if source.layout is None else None
    if planner.halo(node.output) != NO_HALO or source.layout is None or source.layout.has_halo:
        return None
    layout = activation_layout(shape)
    if shape[-1:] == source.shape[-1:]:
        layout = replace(layout, channel_stride=source.layout.channel_stride)
        return replace(source, shape=shape, layout=layout)
    if source.is_contiguous and is_contiguous(layout):
        return replace(source, shape=shape, layout=layout)
    return None


def select_transpose(planner: Planner, node: Node) -> None:
    """A strided copy, unless the reader turns the tensor itself."""
    if defer_transpose(planner, node):
        return
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    turned = view_of(source).permuted([int(p) for p in attribute(node, "perm")])
    copy_view(planner, target.shape, (source, turned), (target, view_of(target)))


def select_slice(planner: Planner, node: Node) -> None:
    """A view where all readers take one, else a copy from shifted and larger strides."""
    if planner.placement.is_view(node.output):
        planner.bind(node.output, planner.shared(node.output))
        return
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    starts, steps = ([int(i) for i in attribute(node, name)] for name in ("starts", "steps"))
    view = view_of(source).shifted(starts)
    strides = tuple(stride * step for stride, step in zip(view.strides, steps, strict=True))
    picked = View(view.offset, strides)
    copy_view(planner, target.shape, (source, picked), (target, view_of(target)))


def select_expand(planner: Planner, node: Node) -> None:
    """A copy whose source stands still along the repeated axes."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    added = len(target.shape) - len(source.shape)
    view = view_of(source)
    strides = [0] * added + [
        0 if size == 1 else stride for size, stride in zip(source.shape, view.strides, strict=True)
    ]
    repeated = View(view.offset, tuple(strides))
    copy_view(planner, target.shape, (source, repeated), (target, view_of(target)))


def select_pad(planner: Planner, node: Node) -> None:
    """A copy of the inside, and fills of the blocks around it."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    pads = [int(p) for p in attribute(node, "pads")]
    before, after = pads[: len(source.shape)], pads[len(source.shape) :]
    view = view_of(target)
    copy_view(planner, source.shape, (source, view_of(source)), (target, view.shifted(before)))
    value = fill_value(node.output.tensor, attribute(node, "value"))
    for first, sizes in border_parts(source.shape, before, after):
        kernel = FillKernel(sizes, view.shifted(first), target.element_bytes)
        packed = kernel.pack(planner.isa, value=value)
        planner.emit(kernel, {"target": target.pointer}, packed)


def fill_value(type_: TensorType, value: float) -> Array:
    """A stored value of ``type_`` as native memory holds it, 0-dimensional."""
    if is_activation(type_):
        return np.asarray(int(value) + shift_of(type_), np.uint8)
    return np.asarray(value, np.dtype(type_.storage))


def select_gather(planner: Planner, node: Node) -> None:
    """A copy with a table of source offsets along the gathered axis."""
    source, target = planner.source(node.operand(0)), planner.result(node.output)
    indices = np.asarray(node.operand(1).constant, np.int64)
    axis = int(attribute(node, "axis")) % len(source.shape)
    shape = (*source.shape[:axis], indices.size, *source.shape[axis + 1 :])
    flat = target if shape == target.shape else temporary(planner, target, shape)
    view = view_of(source)
    still = tuple(0 if a == axis else stride for a, stride in enumerate(view.strides))
    kernel = CopyKernel(
        shape, View(view.offset, still), view_of(flat), target.element_bytes, indexed=(axis,)
    )
    offsets = indices.ravel() * view.strides[axis]
    packed = kernel.pack(planner.isa, **{f"indices{axis}": offsets})
    planner.emit(kernel, {"source": source.pointer, "target": flat.pointer}, packed)
    if flat is not target:
        copy_into(planner, flat, target)
