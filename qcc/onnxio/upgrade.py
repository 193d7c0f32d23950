"""Adapters that raise a node to the pinned opset, where more than its version number changes.

``UPGRADES`` maps an op to the opsets at which its meaning was written differently.  An adapter
edits the node in place and may assume that the target is the pinned opset.  Whatever has no entry
has compatible signatures over all versions, which the tests check against ``onnx.defs``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qcc.errors import ModelError
from qcc.ir.core import Node, Value
from qcc.ir.types import UNDEFINED, UNKNOWN, TensorType
from qcc.onnxio import edits
from qcc.onnxio.edits import attribute_to_input, before, constant, element_of, plain, scalar_like
from qcc.onnxio.scan8 import upgrade_scan_8

Adapter = Callable[[Node], None]

FLOAT_MAX = float(np.finfo(np.float32).max)


def _batchnorm_9(node: Node) -> None:
    """``spatial=0`` normalizes each position: no newer op does, so spell it out."""
    if plain(node, "spatial", 1):
        node.attributes.pop("spatial", None)
        return
    if len(node.outputs) > 1 and any(output.uses for output in node.outputs[1:]):
        raise ModelError(
            "A BatchNormalization with spatial=0 in training form cannot be converted; export the "
            "model for inference.",
            node=node.label,
        )
    x, scale, bias, mean, variance = (node.operand(i) for i in range(5))
    epsilon = scalar_like(node, "epsilon", plain(node, "epsilon", 1e-5), variance)
    centred = before(node, "Sub", (x, mean), "centred", type=x.type)
    shifted = before(node, "Add", (variance, epsilon), "shifted", type=variance.type)
    deviation = before(node, "Sqrt", (shifted,), "deviation", type=variance.type)
    ratio = before(node, "Div", (centred, deviation), "normalized", type=x.type)
    scaled = before(node, "Mul", (ratio, scale), "scaled", type=x.type)
    node.op_type, node.attributes = "Add", {}
    node.outputs = node.outputs[:1]
    edits.set_inputs(node, (scaled, bias))


def _batchnorm_14(node: Node) -> None:
    """More than one output used to mean training."""
    if len(node.outputs) == 1:
        return
    if any(output.uses for output in node.outputs[3:]):
        raise ModelError(
            "The saved_mean and saved_var outputs of BatchNormalization do not exist any more; "
            "export the model for inference.",
            node=node.label,
        )
    node.outputs = node.outputs[:3]
    node.attributes["training_mode"] = 1


def _clip_11(node: Node) -> None:
    x = node.operand(0)
    for index, (name, default) in enumerate((("min", -FLOAT_MAX), ("max", FLOAT_MAX)), start=1):
        value = plain(node, name, default)
        node.attributes.pop(name, None)
        edits.set_input(node, index, scalar_like(node, name, value, x))


def _dropout_12(node: Node) -> None:
    """Dropout never dropped in inference; the mask was of the data's type before opset 10."""
    ratio = np.float32(plain(node, "ratio", 0.5))
    node.attributes.pop("ratio", None)
    edits.set_input(node, 1, constant(node, "ratio", ratio))


def _dropout_10(node: Node) -> None:
    """The mask had the type of the data; now it is boolean."""
    if len(node.outputs) < 2:
        return
    mask, x = node.outputs[1], node.operand(0)
    boolean = TensorType(edits.dims_of(x), "bool")
    if mask.uses:
        edits.after(node, "CastLike", (x,), index=1, inner_type=boolean)
    else:
        mask.type = boolean


def _flattened_axis(node: Node) -> None:
    """Softmax, LogSoftmax, Hardmax before opset 13 work on the input flattened at ``axis``."""
    x = node.operand(0)
    axis = int(plain(node, "axis", 1))
    dims = edits.dims_of(x)
    if dims is not None:
        start = axis % len(dims) if dims else 0
        wide = [i for i in range(start, len(dims)) if dims[i] != 1]
        if len(wide) <= 1:
            node.attributes["axis"] = wide[0] if wide else len(dims) - 1
            return
    element = element_of(x)
    matrix = UNKNOWN if element is None else TensorType((None, None), element)
    rank = None if dims is None else len(dims)
    shape = before(node, "Shape", (x,), "shape", type=TensorType((rank,), "int64"))
    flat = before(node, "Flatten", (x,), "flat", type=matrix, attributes={"axis": axis})
    node.attributes["axis"] = -1
    edits.set_inputs(node, (flat,))
    edits.after(node, "Reshape", (shape,), inner_type=matrix, attributes={"allowzero": 1})


def _upsample(node: Node) -> None:
    """Upsample and the first Resize: coordinates asymmetric, nearest rounds towards the origin."""
    attribute_to_input(node, "scales", 1, np.float32)
    _resize_11(node)


def _resize_11(node: Node) -> None:
    x, scales = node.operand(0), node.operand(1)
    mode = plain(node, "mode", "nearest")
    node.op_type = "Resize"
    node.attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    edits.set_inputs(node, (x, None, scales))
    if mode != "nearest":
        return
    node.attributes["nearest_mode"] = "floor"
    factors = edits.constant_of(scales)
    if factors is None or (factors >= 1).all():
        return
    # Shrinking rounded up, enlarging down (as onnxruntime always did); one Resize can do only one.
    if (factors > 1).any():
        grow = constant(node, "grow", np.maximum(factors, np.float32(1)))
        attributes = dict(node.attributes)
        x = before(node, "Resize", (x, None, grow), "grown", attributes=attributes)
        scales = constant(node, "shrink", np.minimum(factors, np.float32(1)))
        edits.set_inputs(node, (x, None, scales))
    node.attributes["nearest_mode"] = "ceil"


def _resize_13(node: Node) -> None:
    """``roi`` and ``scales`` were mandatory, empty where they did not apply."""
    operands = list(node.inputs)
    for index in (1, 2):
        data = edits.constant_of(operands[index]) if index < len(operands) else None
        if data is not None and data.size == 0:
            operands[index] = None
    edits.set_inputs(node, operands)


def _roi_align_16(node: Node) -> None:
    node.attributes["coordinate_transformation_mode"] = "output_half_pixel"


def _pad_11(node: Node) -> None:
    attribute_to_input(node, "pads", 1)
    value = float(plain(node, "value", 0.0))
    node.attributes.pop("value", None)
    if value:
        edits.set_input(node, 2, scalar_like(node, "value", value, node.operand(0)))


def _slice_10(node: Node) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        attribute_to_input(node, name, index)


def _topk_10(node: Node) -> None:
    attribute_to_input(node, "k", 1, np.int64, (1,))


def _axes_to_input(node: Node) -> None:
    """No axes, or an empty list of them, always meant all axes."""
    if edits.reference(node.attributes.get("axes")) is None and not plain(node, "axes"):
        node.attributes.pop("axes", None)
    attribute_to_input(node, "axes", 1)


def _split_13(node: Node) -> None:
    attribute_to_input(node, "split", 1)


def _split_18(node: Node) -> None:
    if node.input(1) is None:
        node.attributes["num_outputs"] = len(node.outputs)


def _scatter_11(node: Node) -> None:
    node.op_type = "ScatterElements"


def _grid_sample_20(node: Node) -> None:
    mode = plain(node, "mode", "bilinear")
    node.attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


def _dft_20(node: Node) -> None:
    axis = constant(node, "axis", np.int64(plain(node, "axis", 1)))
    node.attributes.pop("axis", None)
    edits.set_input(node, 2, axis)


def _group_norm_21(node: Node) -> None:
    """Scale and bias were one a group; now they are one a channel."""
    if node.output.type == UNKNOWN:
        node.output.type = node.operand(0).type
    dims = edits.dims_of(node.operand(0))
    channels = dims[1] if dims is not None and len(dims) > 1 else None
    if not isinstance(channels, int):
        raise ModelError(
            "The opset of this GroupNormalization cannot be raised while its number of channels is "
            "unknown; give the model's input a static channel dimension.",
            node=node.label,
        )
    groups = int(plain(node, "num_groups"))
    for index, role in ((1, "scale"), (2, "bias")):
        edits.set_input(
            node, index, _per_channel(node, node.operand(index), role, groups, channels)
        )


def _per_channel(node: Node, value: Value, role: str, groups: int, channels: int) -> Value:
    data = edits.constant_of(value)
    if data is not None:
        return constant(node, role, np.repeat(data, channels // groups))
    column = constant(node, f"{role}_column", np.asarray([groups, 1], np.int64))
    matrix = constant(node, f"{role}_matrix", np.asarray([groups, channels // groups], np.int64))
    line = constant(node, f"{role}_line", np.asarray([channels], np.int64))
    standing = before(node, "Reshape", (value, column), f"{role}_standing")
    spread = before(node, "Expand", (standing, matrix), f"{role}_spread")
    type = TensorType((channels,), element_of(value) or UNDEFINED)
    return before(node, "Reshape", (spread, line), f"{role}_channels", type=type)


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

UPGRADES: dict[str, tuple[tuple[int, Adapter], ...]] = {
    "BatchNormalization": ((9, _batchnorm_9), (14, _batchnorm_14)),
    "Clip": ((11, _clip_11),),
    "DFT": ((20, _dft_20),),
    "Dropout": ((10, _dropout_10), (12, _dropout_12)),
    "GridSample": ((20, _grid_sample_20),),
    "GroupNormalization": ((21, _group_norm_21),),
    "Hardmax": ((13, _flattened_axis),),
    "LogSoftmax": ((13, _flattened_axis),),
    "Pad": ((11, _pad_11),),
    **dict.fromkeys(_REDUCTIONS, ((18, _axes_to_input),)),
    "ReduceSum": ((13, _axes_to_input),),
    "Resize": ((11, _resize_11), (13, _resize_13)),
    "RoiAlign": ((16, _roi_align_16),),
    "Scan": ((9, upgrade_scan_8),),
    "Scatter": ((11, _scatter_11),),
    "Slice": ((10, _slice_10),),
    "Softmax": ((13, _flattened_axis),),
    "Split": ((13, _split_13), (18, _split_18)),
    "Squeeze": ((13, _axes_to_input),),
    "TopK": ((10, _topk_10),),
    "Unsqueeze": ((13, _axes_to_input),),
    "Upsample": ((10, _upsample),),
}
"""Op to (first opset of the new meaning, adapter), ascending."""
