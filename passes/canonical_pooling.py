"""Canonical forms of windowed ops: explicit pads, pads folded in, global pooling."""

from __future__ import annotations

import math
from collections.abc import Mapping

from qcc.ir.core import Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.canonical_arithmetic import LARGEST
from qcc.passes.canonical_movement import Rule
from qcc.passes.constants import axes_of, integers, ints, scalar
from qcc.passes.replacement import supersede


def kernel_shape(node: Node) -> list[int] | None:
    """The window of a Conv or pool: the attribute, or the weight's spatial dimensions."""
    given = ints(node, "kernel_shape")
    if given or node.op != "Conv":
        return given
    weight = node.operand(1).tensor
    return list(weight.static_shape[2:]) if weight.is_static else None


def per_dimension(node: Node, name: str, count: int) -> list[int]:
    """Strides or dilations; absent ones are 1."""
    return ints(node, name) or [1] * count


def explicit_window(node: Node, rewriter: Rewriter) -> bool:
    """Write pads (``auto_pad`` resolved), kernel, strides and dilations as attributes."""
    kernel = kernel_shape(node)
    pads = None if kernel is None else explicit_pads(node, kernel)
    if kernel is None or pads is None:
        return False
    wanted = {
        "kernel_shape": kernel,
        "pads": pads,
        "strides": per_dimension(node, "strides", len(kernel)),
        "dilations": per_dimension(node, "dilations", len(kernel)),
    }
    if "auto_pad" in node.attributes:
        rewriter.changes += 1
        del node.attributes["auto_pad"]
    elif all(node.attributes.get(name) == value for name, value in wanted.items()):
        return False
    for name, value in wanted.items():
        rewriter.set_attribute(node, name, value)
    return True


def explicit_pads(node: Node, kernel: list[int]) -> list[int] | None:
    """The pads ``[begin..., end...]`` of a Conv or pool; None while SAME needs an unknown size."""
    mode = attribute(node, "auto_pad")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    count = len(kernel)
    if mode in (None, "", "NOTSET"):
        return ints(node, "pads") or [0] * (2 * count)
    if mode == "VALID":
        return [0] * (2 * count)
    shape = node.operand(0).tensor.shape
    sizes = [dim for dim in (shape or ())[2:] if isinstance(dim, int)]
    if len(sizes) != count:
        return None
    strides, dilations = (per_dimension(node, n, count) for n in ("strides", "dilations"))
    totals = [
        max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
        for size, stride, window, dilation in zip(sizes, strides, kernel, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if mode == "SAME_UPPER" else large + small


def fold_pad(node: Node, rewriter: Rewriter) -> bool:
    """Take a constant Pad of the spatial dimensions into this Conv or pool, where that is exact."""
    source = node.operand(0)
    pad = source.producer
    if pad is None or pad.op != "Pad" or "auto_pad" in node.attributes:
        return False
    extra = spatial_pads(pad)
    own = ints(node, "pads")
    if extra is None or own is None or len(own) != len(extra):
        return False
    if not _pads_mean_the_same(node, pad, own, extra):
        return False
    rewriter.set_attribute(node, "pads", [a + b for a, b in zip(own, extra, strict=True)])
    if node.op == "AveragePool":
        rewriter.set_attribute(node, "count_include_pad", 1)
    rewriter.replace_input(node, 0, pad.operand(0))
    rewriter.erase_dead(source)
    return True


def spatial_pads(pad: Node) -> list[int] | None:
    """``[begin..., end...]`` of a constant Pad that grows spatial dimensions only, else None."""
    rank, pads = pad.operand(0).tensor.rank, integers(pad.input(1))
    if rank is None or rank < 3 or pads is None or attribute(pad, "mode") not in MODES:
        return None
    axes = list(range(rank)) if pad.input(3) is None else integers(pad.input(3))
    if axes is None:
        return None
    begin, end = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        begin[axis], end[axis] = pads[index], pads[index + len(axes)]
    if any(begin[:2] + end[:2]) or min(begin + end) < 0:
        return None
    return begin[2:] + end[2:]


MODES = ("constant", b"constant")


def _pads_mean_the_same(node: Node, pad: Node, own: list[int], extra: list[int]) -> bool:
    """Whether the padding that the op itself does gives what the Pad gave."""
    fill = pad.input(2)
    value = 0.0 if fill is None else scalar(fill)
    if value is None or attribute(node, "ceil_mode"):
        return False  # a rounded-up window reaches past the pads, where nothing is counted
    if node.op == "Conv":
        return value == 0.0
    kernel = kernel_shape(node) or []
    grown = [a + b for a, b in zip(own, extra, strict=True)]
    if any(amount >= kernel[index % len(kernel)] for index, amount in enumerate(grown)):
        return False  # runtimes refuse pools whose windows may lie in the padding alone
    if node.op == "MaxPool":
        # Every window holds an element, so a fill that no element is below changes no maximum.
        dense = all(step == 1 for step in ints(node, "dilations") or ())
        unseen = value <= max(-LARGEST, never_below(pad.operand(0)) if dense else -LARGEST)
        return unseen and len(node.outputs) == 1
    return value == 0.0 and (not any(own) or bool(attribute(node, "count_include_pad")))


def global_from_window(node: Node, rewriter: Rewriter) -> bool:
    """A pool whose one unpadded window is the whole static image is the global pool."""
    shape, kernel, pads = (
        node.operand(0).tensor.shape,
        ints(node, "kernel_shape"),
        ints(node, "pads"),
    )
    if shape is None or kernel is None or list(shape[2:]) != kernel or any(pads or ()):
        return False
    if any(step != 1 for step in ints(node, "dilations") or ()) or len(node.outputs) != 1:
        return False
    if "auto_pad" in node.attributes:
        return False
    supersede(node, f"Global{node.op_type}", [node.operand(0)], rewriter)
    return True


def global_from_mean(node: Node, rewriter: Rewriter) -> bool:
    """ReduceMean over height and width of an image is GlobalAveragePool (and Flatten)."""
    source = node.operand(0)
    if source.tensor.rank != 4 or not source.tensor.is_float:
        return False
    if axes_of(node, 4) != (2, 3):
        return False
    if attribute(node, "keepdims"):
        supersede(node, "GlobalAveragePool", [source], rewriter)
        return True
    shape = source.tensor.shape or ()
    pooled_type = source.tensor.with_shape((*shape[:2], 1, 1))
    pooled = rewriter.insert(
        "GlobalAveragePool", [source], [pooled_type], name=node.name, before=node
    )
    flat = supersede(node, "Flatten", [pooled.output], rewriter, {"axis": 1})
    flat.name = rewriter.graph.fresh_name(f"{pooled.label}_flatten")
    return True


def never_below(value: Value) -> float:
    """A bound that ``value`` provably keeps to from below; -inf where nothing is known."""
    node = value.producer
    data = constant_array(value)
    if data is not None and data.dtype.kind == "f" and data.size:
        return float(data.min())
    if node is None:
        return -math.inf
    if node.op in ("Relu", "Sigmoid", "Softmax", "Abs", "Exp"):
        return 0.0
    low = scalar(node.input(1)) if node.op == "Clip" else None
    return -math.inf if low is None else low


POOLING_RULES: Mapping[str, tuple[Rule, ...]] = {
    "Conv": (explicit_window, fold_pad),
    "AveragePool": (explicit_window, global_from_window, fold_pad),
    "MaxPool": (explicit_window, global_from_window, fold_pad),
    "ReduceMean": (global_from_mean,),
}
"""Op type to its rules, tried in order."""
