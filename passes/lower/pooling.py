"""Pools, spatial means and Resize on quantized tensors."""

from __future__ import annotations

from typing import Any

import numpy as np

from qcc.ir.core import Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.lower.group import Group, activation, eight_bit, result_type
from qcc.passes.lower.linear import explicit_pads


def _quantized_input(group: Group) -> Value | str:
    node = group.root
    x = activation(node.input(0))
    if x is None or not eight_bit(x.tensor.quant):
        return f"the input of '{node.label}' is not quantized in 8 bits per tensor"
    if group.quant is not None and not eight_bit(group.quant):
        return "the result is not quantized in 8 bits per tensor"
    return x


def _pool_attributes(node: Node, rank: int) -> dict[str, Any] | str:
    if rank not in (1, 2):
        return f"a pool over {rank} spatial axes has no integer form"
    pads = explicit_pads(node, rank)
    if isinstance(pads, str):
        return pads
    kernel = attribute(node, "kernel_shape")
    if kernel is None:
        return f"'{node.label}' has no kernel_shape"
    return {
        "kernel_shape": [int(k) for k in kernel],
        "strides": [int(s) for s in attribute(node, "strides") or [1] * rank],
        "pads": pads,
        "dilations": [int(d) for d in attribute(node, "dilations") or [1] * rank],
        "ceil_mode": int(attribute(node, "ceil_mode") or 0),
    }


def same_scale(
    group: Group, rewriter: Rewriter, op: str, x: Value, attributes: dict[str, Any]
) -> None:
    """Emit an op whose result keeps x's quantization, then fit the result to its readers.

    A reader that wants another scale gets a q.requantize; float readers get a q.dequantize.
    """
    made = rewriter.insert(
        op,
        [x],
        [group.result.tensor.with_element(x.tensor.element)],
        attributes=attributes,
        name=group.root.name,
        before=group.root,
    )
    quantizer = group.quantizer
    if quantizer is None:
        real = rewriter.insert(
            "q.dequantize", [made.output], [group.result.tensor], before=group.root
        )
        group.finish(rewriter, real.output)
        return
    value = made.output
    if quantizer.output.tensor.element != x.tensor.element:
        fitted = rewriter.insert(
            "q.requantize", [value], [quantizer.output.tensor], before=group.root
        )
        value = fitted.output
    group.finish(rewriter, value)


def lower_max_pool(group: Group, rewriter: Rewriter) -> str | None:
    """MaxPool and GlobalMaxPool; the maximum of stored values is the stored maximum."""
    node, x = group.root, _quantized_input(group)
    if isinstance(x, str):
        return x
    if len(node.outputs) > 1 and node.outputs[1].uses:
        return f"the indices of '{node.label}' are used"
    shape = x.tensor.static_shape if x.tensor.is_static else None
    if node.op == "GlobalMaxPool":
        if shape is None or len(shape) not in (3, 4):
            return "GlobalMaxPool needs a static shape with one or two spatial axes"
        attributes: dict[str, Any] | str = {"kernel_shape": list(shape[2:])}
    else:
        attributes = _pool_attributes(node, len(x.tensor.shape or ()) - 2)
    if isinstance(attributes, str):
        return attributes
    same_scale(group, rewriter, "q.max_pool", x, attributes)
    return None


def lower_average_pool(group: Group, rewriter: Rewriter) -> str | None:
    """AveragePool; the int32 sum is requantized."""
    node, x = group.root, _quantized_input(group)
    if isinstance(x, str):
        return x
    attributes = _pool_attributes(node, len(x.tensor.shape or ()) - 2)
    if isinstance(attributes, str):
        return attributes
    attributes["count_include_pad"] = int(attribute(node, "count_include_pad") or 0)
    return _mean(group, rewriter, "q.average_pool", x, attributes)


def lower_reduce_mean(group: Group, rewriter: Rewriter) -> str | None:
    """GlobalAveragePool and ReduceMean over constant axes."""
    node, x = group.root, _quantized_input(group)
    if isinstance(x, str):
        return x
    rank = len(x.tensor.shape or ())
    if node.op == "GlobalAveragePool":
        attributes = {"axes": list(range(2, rank)), "keepdims": 1}
        return _mean(group, rewriter, "q.reduce_mean", x, attributes)
    axes = constant_array(node.input(1))
    if axes is None and node.input(1) is not None:
        return f"the axes of '{node.label}' are not constant"
    if axes is None or axes.size == 0:
        if attribute(node, "noop_with_empty_axes"):
            return f"'{node.label}' reduces nothing"
        axes = np.arange(rank)
    keep = attribute(node, "keepdims")
    attributes = {
        "axes": sorted(int(a) % rank for a in axes.ravel()),
        "keepdims": 1 if keep is None else int(keep),
    }
    return _mean(group, rewriter, "q.reduce_mean", x, attributes)


def _mean(
    group: Group, rewriter: Rewriter, op: str, x: Value, attributes: dict[str, Any]
) -> str | None:
    made = rewriter.insert(
        op,
        [x],
        [result_type(group)],
        attributes=attributes,
        name=group.root.name,
        before=group.root,
    )
    group.finish(rewriter, made.output)
    return None


_MODES = ("nearest", "linear")
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


def lower_resize(group: Group, rewriter: Rewriter) -> str | None:
    """Resize of the spatial axes, nearest or linear, with constant scales or sizes."""
    node, x = group.root, _quantized_input(group)
    if isinstance(x, str):
        return x
    attributes = resize_attributes(node, x)
    if isinstance(attributes, str):
        return attributes
    if attributes["mode"] == "nearest":
        same_scale(group, rewriter, "q.resize", x, attributes)
        return None
    if group.quant is None:
        return "a linear Resize needs a quantized result"
    return _mean(group, rewriter, "q.resize", x, attributes)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def resize_attributes(node: Node, x: Value) -> dict[str, Any] | str:
    """Attributes of the q.resize of ``x`` that a Resize is, or a sentence why it is none."""
    mode = _text(attribute(node, "mode"))
    coordinates = _text(attribute(node, "coordinate_transformation_mode"))
    if mode not in _MODES:
        return f"Resize mode '{mode}' has no integer form"
    if coordinates not in _COORDINATES:
        return f"Resize with coordinates '{coordinates}' has no integer form"
    if attribute(node, "antialias") or attribute(node, "axes"):
        return "Resize with antialias or axes has no integer form"
    if not (x.tensor.is_static and node.output.tensor.is_static):
        return "Resize needs static shapes"
    source, target = x.tensor.static_shape, node.output.tensor.static_shape
    if source[:2] != target[:2] or len(source) != 4:
        return "Resize of other than two spatial axes has no integer form"
    scales = constant_array(node.input(2))
    if scales is not None and scales.size == len(source):
        factors = [float(s) for s in np.asarray(scales, np.float32)[2:]]
    else:
        factors = [
            float(np.float32(b) / np.float32(a))
            for a, b in zip(source[2:], target[2:], strict=True)
        ]
    return {
        "sizes": list(target[2:]),
        "scales": factors,
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": _text(attribute(node, "nearest_mode")),
    }
