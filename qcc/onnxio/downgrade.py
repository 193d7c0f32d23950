"""Adapters that lower a node to an older opset, where attributes say what operands say today.

``DOWNGRADES`` maps an op to the opsets at which its meaning was written differently, newest first.
An adapter edits the node in place; where it cannot, it leaves the node as it is and the check of
the result against the older schema refuses it by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qcc.errors import ModelError
from qcc.ir.core import Node
from qcc.onnxio import edits
from qcc.onnxio.elements import element_code

Adapter = Callable[[Node], None]


def _input_to_attribute(node: Node, index: int, name: str, *, scalar: bool = False) -> None:
    """Turn a constant operand, which must be the last one, into an attribute."""
    operand = node.input(index)
    data = edits.constant_of(operand)
    if operand is None or data is None or len(node.inputs) > index + 1:
        return
    plain: Any = data.reshape(-1).tolist()
    node.attributes[name] = plain[0] if scalar else plain
    edits.set_inputs(node, node.inputs[:index])


def _reduce_18(node: Node) -> None:
    """No axes with ``noop_with_empty_axes`` is an Identity."""
    axes = edits.constant_of(node.input(1))
    if axes is not None and axes.size == 0:
        edits.set_inputs(node, node.inputs[:1])
    if node.input(1) is None and node.attributes.get("noop_with_empty_axes", 0):
        node.op_type, node.attributes = "Identity", {}
        return
    if node.input(1) is None or axes is not None:
        node.attributes.pop("noop_with_empty_axes", None)
    _input_to_attribute(node, 1, "axes")


def _axes_13(node: Node) -> None:
    _input_to_attribute(node, 1, "axes")


def _split_18(node: Node) -> None:
    count = len(node.outputs)
    dims = edits.dims_of(node.operand(0))
    axis = node.attributes.get("axis", 0)
    size = None if dims is None else dims[axis]
    if node.input(1) is None and isinstance(size, int) and size % count == 0:
        node.attributes.pop("num_outputs", None)


def _split_13(node: Node) -> None:
    _input_to_attribute(node, 1, "split")


def _softmax_13(node: Node) -> None:
    """Where the dimensions behind the axis are 1 both meanings agree, else move the axis there."""
    x = node.operand(0)
    dims = edits.dims_of(x)
    if dims is None:
        raise ModelError(
            f"The {node.op_type} cannot be written in an opset before 13 while the rank of its "
            "input is unknown; give the model's inputs shapes.",
            node=node.label,
        )
    axis, last = int(node.attributes.get("axis", -1)) % len(dims), len(dims) - 1
    if all(dim == 1 for dim in dims[axis + 1 :]):
        node.attributes["axis"] = axis
        return
    order = list(range(len(dims)))
    order[axis], order[last] = last, axis
    type = x.tensor.with_shape(tuple(dims[i] for i in order))
    moved = edits.before(node, "Transpose", (x,), "moved", type=type, attributes={"perm": order})
    edits.set_inputs(node, (moved,))
    node.attributes["axis"] = last
    edits.after(node, "Transpose", (), inner_type=type, attributes={"perm": order})


def _clip_11(node: Node) -> None:
    _input_to_attribute(node, 2, "max", scalar=True)
    if len(node.inputs) == 2:
        _input_to_attribute(node, 1, "min", scalar=True)


def _pad_11(node: Node) -> None:
    _input_to_attribute(node, 2, "value", scalar=True)
    _input_to_attribute(node, 1, "pads")


def _dropout_12(node: Node) -> None:
    training = edits.constant_of(node.input(2))
    if node.input(2) is None or (training is not None and not training):
        edits.set_inputs(node, node.inputs[:2])
        _input_to_attribute(node, 1, "ratio", scalar=True)


def _batchnorm_14(node: Node) -> None:
    if len(node.outputs) == 1:
        edits.drop_default(node, "training_mode", 0)


def _resize_13(node: Node) -> None:
    operands = [*node.inputs, *[None] * (4 - len(node.inputs))]
    for index in (1, 2):
        if operands[index] is None:
            operands[index] = edits.constant(node, "empty", np.zeros(0, np.float32))
    edits.set_inputs(node, operands)


def _roi_align_16(node: Node) -> None:
    if node.attributes.pop("coordinate_transformation_mode", "half_pixel") != "output_half_pixel":
        raise ModelError(
            "A RoiAlign of half_pixel coordinates cannot be written in an opset before 16; write "
            "with opset 16 or newer.",
            node=node.label,
        )


def _grid_sample_20(node: Node) -> None:
    mode = node.attributes.get("mode", "linear")
    node.attributes["mode"] = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)


def _dft_20(node: Node) -> None:
    if node.input(2) is None:
        rank = edits.dims_of(node.operand(0))
        if rank is not None:
            node.attributes["axis"] = len(rank) - 2
        return
    _input_to_attribute(node, 2, "axis", scalar=True)


def _dilations(node: Node) -> None:
    dilations = node.attributes.get("dilations")
    if dilations is not None and all(step == 1 for step in dilations):
        del node.attributes["dilations"]


def _cast_24(node: Node) -> None:
    """``round_mode`` speaks only of a type that the older opset does not have."""
    node.attributes.pop("round_mode", None)


def _cast_19(node: Node) -> None:
    """``saturate`` speaks only of float8, which the older opset does not have."""
    node.attributes.pop("saturate", None)


def _cast_like_15(node: Node) -> None:
    """CastLike did not exist; where the type is known, a Cast says the same."""
    element = edits.element_of(node.input(1))
    if element is not None:
        node.op_type, node.attributes = "Cast", {"to": element_code(element)}
        edits.set_inputs(node, node.inputs[:1])


def _dequantize_23(node: Node) -> None:
    """``output_dtype`` may repeat what the scale's type says."""
    scale = edits.element_of(node.input(1))
    if scale is not None:
        edits.drop_default(node, "output_dtype", element_code(scale))


_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)

DOWNGRADES: dict[str, tuple[tuple[int, Adapter], ...]] = {
    "AveragePool": ((19, _dilations),),
    "BatchNormalization": ((14, _batchnorm_14),),
    "Cast": ((24, _cast_24), (19, _cast_19)),
    "CastLike": ((24, _cast_24), (19, _cast_19), (15, _cast_like_15)),
    "Clip": ((11, _clip_11),),
    "DFT": ((20, _dft_20),),
    "DequantizeLinear": ((23, _dequantize_23),),
    "Dropout": ((12, _dropout_12),),
    "GridSample": ((20, _grid_sample_20),),
    "Hardmax": ((13, _softmax_13),),
    "LogSoftmax": ((13, _softmax_13),),
    "LpPool": ((18, _dilations),),
    "Pad": ((11, _pad_11),),
    **dict.fromkeys(_REDUCTIONS, ((18, _reduce_18),)),
    "ReduceSum": ((13, _reduce_18),),
    "Resize": ((13, _resize_13),),
    "RoiAlign": ((16, _roi_align_16),),
    "Softmax": ((13, _softmax_13),),
    "Split": ((18, _split_18), (13, _split_13)),
    "Squeeze": ((13, _axes_13),),
    "Unsqueeze": ((13, _axes_13),),
}
"""Op to (first opset of today's meaning, adapter), descending."""
