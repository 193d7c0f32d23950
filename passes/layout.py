"""Channels last: image ops of a LOWERED graph become NHWC, and transpositions sink and cancel.

Every layout-sensitive op is wrapped into transpositions, and those are then pushed down through the
ops that do not care, until they meet their inverse.  After the pass the logical order of every
native tensor is its physical order (row major).  The result is bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.sink_transpose import Sinker, insert_transpose, transposed_type
from qcc.ref.float_ops import reduced_axes

TO_LAST = (0, 2, 3, 1)
TO_FIRST = (0, 3, 1, 2)


def convert_layout(graph: Graph) -> int:
    """Bring a LOWERED graph into channels-last form in place; gives the number of changes."""
    rewriter = Rewriter(graph)
    for node in graph.nodes:
        if node.graph is not graph:
            continue
        if node.op in _ONE_DIMENSIONAL and len(node.output.tensor.static_shape) == 3:
            node = _as_image(node, rewriter)
        if node.op in _IMAGE_OPS and len(node.output.tensor.static_shape) == 4:
            _to_channels_last(node, rewriter)
        elif node.op == "q.depth_to_space":
            _depth_to_space(node, rewriter)
        elif node.op in ("q.softmax", "Softmax"):
            _softmax_on_last_axis(node, rewriter)
        elif node.op in _REDUCTIONS:
            _reduce_last_axes(node, rewriter)
        elif node.op == "ArgMax":
            _search_last_axis(node, rewriter)
    Sinker(graph, rewriter).run()
    return rewriter.changes


_CONVOLUTIONS = ("q.conv", "q.float_conv")
_ONE_DIMENSIONAL = (
    *_CONVOLUTIONS,
    "q.max_pool",
    "q.average_pool",
    "q.float_max_pool",
    "q.float_average_pool",
)
_IMAGE_OPS = (*_ONE_DIMENSIONAL, "q.resize")
_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceL2")
_ACTIVATIONS = dict.fromkeys(_CONVOLUTIONS, (0, 3))
"""Operands that are images, where it is not only the first."""


def _image_operands(node: Node) -> list[int]:
    return [i for i in _ACTIVATIONS.get(node.op, (0,)) if node.input(i) is not None]


def _to_channels_last(node: Node, rewriter: Rewriter) -> None:
    if attribute(node, "layout") == "nhwc":
        return
    for index in _image_operands(node):
        turned = insert_transpose(rewriter, node.operand(index), TO_LAST, node)
        rewriter.replace_input(node, index, turned)
    rewriter.set_attribute(node, "layout", "nhwc")
    _turn_result(node, rewriter, TO_LAST)


def _turn_result(node: Node, rewriter: Rewriter, perm: Sequence[int]) -> None:
    """The node now computes its result transposed by ``perm``; readers get it turned back."""
    old = node.output.tensor
    inverse = [int(i) for i in np.argsort(perm)]
    rewriter.set_type(node.output, transposed_type(old, perm))
    following = _following(node)
    back = rewriter.insert(
        "q.transpose", [node.output], [old], attributes={"perm": inverse}, before=following
    )
    rewriter.replace_uses(node.output, back.output, except_node=back)


def _following(node: Node) -> Node | None:
    nodes = node.graph.nodes if node.graph is not None else ()
    position = nodes.index(node) + 1
    return nodes[position] if position < len(nodes) else None


def _reshape(rewriter: Rewriter, value: Value, shape: Sequence[int], before: Node | None) -> Value:
    made = rewriter.insert(
        "q.reshape",
        [value],
        [value.tensor.with_shape(tuple(shape))],
        attributes={"shape": list(shape)},
        before=before,
    )
    return made.output


def _as_image(node: Node, rewriter: Rewriter) -> Node:
    """A one-dimensional op on [N, C, T] as the same op on [N, C, 1, T]."""
    operands: list[Value | None] = list(node.inputs)
    for index in _image_operands(node):
        n, c, t = node.operand(index).tensor.static_shape
        operands[index] = _reshape(rewriter, node.operand(index), (n, c, 1, t), node)
    if node.op in _CONVOLUTIONS:
        operands[1] = _image_weight(node.operand(1), rewriter)
    n, c, t = node.output.tensor.static_shape
    made = rewriter.insert(
        node.op,
        operands,
        [node.output.tensor.with_shape((n, c, 1, t))],
        attributes=_image_attributes(node),
        name=node.name,
        before=node,
    )
    flat = _reshape(rewriter, made.output, (n, c, t), node)
    rewriter.replace(node, [flat])
    return made


def _image_weight(weight: Value, rewriter: Rewriter) -> Value:
    data = np.asarray(weight.constant)[:, :, None, :]
    type_ = TensorType(data.shape, weight.tensor.element)
    return rewriter.constant(f"{weight.name}_2d", data, type_)


def _image_attributes(node: Node) -> dict[str, Any]:
    attributes = dict(node.attributes)
    for name in ("strides", "dilations", "kernel_shape"):
        given = attributes.get(name)
        if given is not None:
            attributes[name] = [1, *given]
    pads = attributes.get("pads")
    if pads is not None:
        attributes["pads"] = [0, pads[0], 0, pads[1]]
    return attributes


def _depth_to_space(node: Node, rewriter: Rewriter) -> None:
    """DepthToSpace on NHWC is a transposition of blocks between two reshapes."""
    n, c, h, w = node.operand(0).tensor.static_shape
    b = int(attribute(node, "blocksize"))
    depth = c // (b * b)
    if attribute(node, "mode") == "DCR":
        split, perm = (n, h, w, b, b, depth), (0, 1, 3, 2, 4, 5)
    else:
        split, perm = (n, h, w, depth, b, b), (0, 1, 4, 2, 5, 3)
    x = insert_transpose(rewriter, node.operand(0), TO_LAST, node)
    x = _reshape(rewriter, x, split, node)
    x = insert_transpose(rewriter, x, perm, node)
    x = _reshape(rewriter, x, (n, h * b, w * b, depth), node)
    rewriter.replace(node, [insert_transpose(rewriter, x, TO_FIRST, node)])


def _softmax_on_last_axis(node: Node, rewriter: Rewriter) -> None:
    rank = len(node.output.tensor.static_shape)
    axis = int(attribute(node, "axis")) % rank
    rewriter.set_attribute(node, "axis", axis)
    if axis == rank - 1:
        return
    perm = [i for i in range(rank) if i != axis] + [axis]
    turned = insert_transpose(rewriter, node.operand(0), perm, node)
    rewriter.replace_input(node, 0, turned)
    rewriter.set_attribute(node, "axis", rank - 1)
    _turn_result(node, rewriter, perm)


def _reduce_last_axes(node: Node, rewriter: Rewriter) -> None:
    """A float reduction along the last axes; the result's sizes of 1 are put back by a reshape."""
    x, axes = node.operand(0), reduced_axes(node)
    rank = len(x.tensor.static_shape)
    if axes is None or axes == tuple(range(rank - len(axes), rank)):
        return
    others = [axis for axis in range(rank) if axis not in axes]
    turned = insert_transpose(rewriter, x, [*others, *axes], node)
    last = rewriter.constant("axes", np.arange(rank - len(axes), rank))
    shape = tuple(x.tensor.static_shape[axis] for axis in others)
    made = rewriter.insert(
        node.op,
        [turned, last],
        [node.output.tensor.with_shape(shape)],
        attributes={"keepdims": 0},
        name=node.name,
        before=node,
    )
    wanted = node.output.tensor.static_shape
    rewriter.replace(node, [_reshape(rewriter, made.output, wanted, node)])


def _search_last_axis(node: Node, rewriter: Rewriter) -> None:
    """An ArgMax along the last axis; a size of 1 that stays is put back by a reshape."""
    x = node.operand(0)
    rank = len(x.tensor.static_shape)
    axis = int(attribute(node, "axis")) % rank
    others = [i for i in range(rank) if i != axis]
    if axis < rank - 1:
        x = insert_transpose(rewriter, x, [*others, axis], node)
    shape = tuple(x.tensor.static_shape[:-1])
    made = rewriter.insert(
        "ArgMax",
        [x],
        [node.output.tensor.with_shape(shape)],
        attributes={
            "axis": rank - 1,
            "keepdims": 0,
            "select_last_index": int(attribute(node, "select_last_index")),
        },
        name=node.name,
        before=node,
    )
    wanted = node.output.tensor.static_shape
    same = shape == wanted
    rewriter.replace(node, [made.output if same else _reshape(rewriter, made.output, wanted, node)])


__all__ = ["convert_layout"]
