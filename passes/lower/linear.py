"""Conv, Gemm and MatMul groups become q.conv and q.matmul."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node, Value
from qcc.ir.integer.operands import quant_of
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.lower.group import (
    Group,
    activation,
    bounds,
    clamp_of,
    eight_bit,
    float_constant,
    result_type,
    stored,
)

BIAS_LIMIT = 2**30
"""Largest magnitude of a stored bias (contract 3)."""

MAX_PRODUCT_DEPTH = 2048
"""Longest inner dimension of a product of two activations; kernels keep packed panels in cache."""


@dataclass(frozen=True)
class _Tail:
    """What follows the matrix product: an added constant, a residual, clamps, in this order."""

    bias: Array | None
    sources: tuple[Value, ...]
    """The constants that ``bias`` is the sum of."""
    residual: Value | None
    clamps: tuple[Node, ...]


def lower_conv(group: Group, rewriter: Rewriter) -> str | None:
    """Conv (+ Add of a residual) (+ Relu or Clip) becomes one q.conv."""
    conv = group.one("Conv")
    if conv is None:
        return "the group has no Conv"
    weight = stored(conv.input(1))
    if weight is None or weight.constant is None:
        return "the weight is not a quantized constant"
    pads = explicit_pads(conv, weight.constant.ndim - 2)
    if isinstance(pads, str):
        return pads
    rank = weight.constant.ndim - 2
    if rank not in (1, 2):
        return f"a convolution over {rank} spatial axes has no integer form"
    attributes: dict[str, Any] = {
        "strides": list(attribute(conv, "strides") or [1] * rank),
        "pads": pads,
        "dilations": list(attribute(conv, "dilations") or [1] * rank),
        "group": int(attribute(conv, "group") or 1),
    }
    return _lower(group, rewriter, conv, weight, "q.conv", attributes)


def lower_matmul(group: Group, rewriter: Rewriter) -> str | None:
    """Gemm or MatMul (+ Add of a bias or residual) (+ Relu or Clip) becomes one q.matmul."""
    node = group.one("Gemm", "MatMul")
    if node is None:
        return "the group has neither Gemm nor MatMul"
    refusal = _gemm_refusal(node) if node.op == "Gemm" else None
    if refusal is not None:
        return refusal
    weight = stored(node.input(1))
    if weight is None:
        return "the second operand is not quantized"
    if weight.constant is not None and weight.constant.ndim != 2:
        return "a constant second operand must be a matrix"
    if weight.constant is not None and node.op == "Gemm" and attribute(node, "transB"):
        weight = _transposed(weight, rewriter)
    return _lower(group, rewriter, node, weight, "q.matmul", {})


def _gemm_refusal(node: Node) -> str | None:
    if attribute(node, "transA"):
        return "Gemm with transA has no integer form"
    if float(attribute(node, "alpha")) != 1.0:
        return "Gemm with alpha other than 1 has no integer form"
    if node.input(2) is not None and float(attribute(node, "beta")) != 1.0:
        return "Gemm with beta other than 1 has no integer form"
    weight = stored(node.input(1))
    if attribute(node, "transB") and (weight is None or weight.constant is None):
        return "Gemm with transB needs a constant second operand"
    return None


def _transposed(weight: Value, rewriter: Rewriter) -> Value:
    """A constant [N, K] as [K, N]; its channel axis follows."""
    quant = quant_of(weight)
    axis = None if quant.axis is None else 1 - quant.axis % 2
    turned = np.ascontiguousarray(np.asarray(weight.constant).T)
    return rewriter.constant(
        f"{weight.name}_t", turned, TensorType(turned.shape, quant.with_axis(axis))
    )


def explicit_pads(node: Node, rank: int) -> list[int] | str:
    """The pads of a Conv or pool, auto_pad resolved; a sentence where the shape is not static."""
    mode = attribute(node, "auto_pad")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode or "NOTSET")
    if mode == "NOTSET":
        return [int(p) for p in attribute(node, "pads") or [0] * (2 * rank)]
    if mode == "VALID":
        return [0] * (2 * rank)
    shapes = (node.operand(0).tensor, node.output.tensor)
    if not all(t.is_static for t in shapes):
        return f"auto_pad {mode} needs static shapes"
    kernel = attribute(node, "kernel_shape") or node.operand(1).tensor.static_shape[2:]
    strides = attribute(node, "strides") or [1] * rank
    dilations = attribute(node, "dilations") or [1] * rank
    begins, ends = [], []
    for i in range(rank):
        size = shapes[0].static_shape[2 + i]
        out = -(-size // strides[i])
        total = max(0, (out - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - size)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def _lower(
    group: Group,
    rewriter: Rewriter,
    node: Node,
    weight: Value,
    op: str,
    attributes: dict[str, Any],
) -> str | None:
    x, w = activation(node.input(0)), weight.tensor.quant
    if x is None or not eight_bit(x.tensor.quant):
        return f"the input of '{node.label}' is not quantized in 8 bits per tensor"
    if w is None or w.storage not in ("int8", "uint8"):
        return f"the weight of '{node.label}' is not stored in 8 bits"
    shape = weight.tensor.static_shape
    channel_axis = 0 if op == "q.conv" else len(shape) - 1
    if w.axis is not None and w.axis % len(shape) != channel_axis:
        return f"the weight of '{node.label}' is not quantized along its output channels"
    channels = shape[channel_axis]
    tail = _tail(group, node, channels, channel_first=op == "q.conv")
    if isinstance(tail, str):
        return tail
    if weight.constant is None:
        refusal = _product_refusal(node, x, weight, tail)
        if refusal is not None:
            return refusal
    bias_value = _bias(rewriter, node, x, w, tail, channels)
    if isinstance(bias_value, str):
        return bias_value
    refusal = _accumulator_refusal(node, x, weight, bias_value, channel_axis)
    if refusal is not None:
        return refusal
    operands = [x, weight, bias_value, tail.residual]
    return _emit(group, rewriter, node, op, operands, attributes, tail)


def _emit(
    group: Group,
    rewriter: Rewriter,
    node: Node,
    op: str,
    operands: list[Value | None],
    attributes: dict[str, Any],
    tail: _Tail,
) -> str | None:
    quant = group.quant
    if quant is None:
        made = rewriter.insert(
            op,
            _present(operands[:3]),
            [group.result.tensor],
            attributes=attributes,
            name=node.name,
            before=group.nodes[-1],
        )
        _keep_float_tail(group, rewriter, node, made.output, tail)
        return None
    if not eight_bit(quant):
        return "the result is not quantized in 8 bits per tensor"
    clamp = clamp_of(tail.clamps, quant)
    if isinstance(clamp, str):
        return clamp
    made = rewriter.insert(
        op,
        _present(operands),
        [result_type(group)],
        attributes={**attributes, **bounds(*clamp)},
        name=node.name,
        before=group.root,
    )
    group.finish(rewriter, made.output)
    return None


def _present(operands: list[Value | None]) -> list[Value | None]:
    """The operands without absent ones at the end."""
    last = max(i for i, value in enumerate(operands) if value is not None)
    return operands[: last + 1]


def _keep_float_tail(
    group: Group, rewriter: Rewriter, node: Node, value: Value, tail: _Tail
) -> None:
    """A float result keeps its residual and its clamps as float nodes behind the integer node."""
    kept = list(tail.clamps)
    if tail.residual is not None:
        adds = [n for n in group.nodes if n.op == "Add"]
        kept = [n for n in adds if float_constant(_other(group, n)) is None] + kept
    if not kept:
        group.finish(rewriter, value)
        return
    inside = {output for n in group.nodes for output in n.outputs}
    index = next(i for i, operand in enumerate(kept[0].inputs) if operand in inside)
    # The integer node stands before the last node of the group; its readers come after it.
    rewriter.replace_input(kept[0], index, value)
    maker = value.producer
    if maker is not None:
        rewriter.move(maker, kept[0])
    for dead in reversed([n for n in group.nodes if n not in kept]):
        if dead.graph is not None and not dead.output.uses:
            operands = dead.inputs
            rewriter.erase(dead)
            for operand in operands:
                rewriter.erase_dead(operand)


def _tail(group: Group, node: Node, channels: int, *, channel_first: bool) -> _Tail | str:
    """Read the nodes after ``node``; a sentence when their order or operands do not fit."""
    constants: list[tuple[Value, Array]] = []
    own_bias = node.input(2)
    if own_bias is not None:
        flat = _per_channel(float_constant(own_bias), channels, -1)
        if flat is None:
            return "the bias is not one constant an output channel"
        constants.append((own_bias, flat))
    residual: Value | None = None
    clamps: list[Node] = []
    axis = -1 if not channel_first else 1 - len(node.output.tensor.shape or ())
    for follower in group.nodes[group.nodes.index(node) + 1 :]:
        if follower.op in ("Relu", "Clip"):
            clamps.append(follower)
            continue
        if follower.op != "Add" or clamps or residual is not None:
            return f"'{follower.label}' cannot be part of the integer node"
        side = _other(group, follower)
        if float_constant(side) is None:
            residual = activation(side)
            refusal = _residual_refusal(node, follower, residual)
            if refusal is not None:
                return refusal
            continue
        flat = _per_channel(float_constant(side), channels, axis)
        if flat is None or side is None:
            return f"the constant of '{follower.label}' is not one number an output channel"
        constants.append((side, flat))
    total = None if not constants else constants[0][1]
    for _, flat in constants[1:]:
        total = np.asarray(total + flat, np.float32)
    return _Tail(total, tuple(source for source, _ in constants), residual, tuple(clamps))


def _product_refusal(node: Node, a: Value, b: Value, tail: _Tail) -> str | None:
    """Why a product of two activations has no integer form, or None."""
    if tail.bias is not None or tail.residual is not None:
        return f"'{node.label}' adds something to a product of two activations"
    if not eight_bit(b.tensor.quant):
        return f"the second operand of '{node.label}' is not quantized in 8 bits per tensor"
    if not (a.tensor.is_static and b.tensor.is_static):
        return f"the operands of '{node.label}' have no static shapes"
    if min(len(a.tensor.static_shape), len(b.tensor.static_shape)) < 2:
        return f"'{node.label}' multiplies a vector"
    depth = a.tensor.static_shape[-1]
    if depth > MAX_PRODUCT_DEPTH:
        return f"'{node.label}' sums {depth} products of activations, more than {MAX_PRODUCT_DEPTH}"
    return None


def _residual_refusal(node: Node, add: Node, residual: Value | None) -> str | None:
    if residual is None or not eight_bit(residual.tensor.quant):
        return f"the other operand of '{add.label}' is not quantized in 8 bits"
    if residual.tensor.shape != node.output.tensor.shape:
        return f"the other operand of '{add.label}' has another shape"
    return None


def _other(group: Group, add: Node) -> Value | None:
    inside = {output for n in group.nodes for output in n.outputs}
    sides = [value for value in add.inputs if value not in inside]
    return sides[0] if sides else None


def _per_channel(data: Array | None, channels: int, axis: int) -> Array | None:
    """``data`` as one float32 a channel, or None unless it broadcasts along ``axis`` only."""
    if data is None:
        return None
    array = np.asarray(data, np.float32)
    if array.size == 1:
        return np.full(channels, array.reshape(()), np.float32)
    if array.size != channels or -axis > array.ndim or array.shape[axis] != channels:
        return None
    return array.reshape(channels)


def _bias(
    rewriter: Rewriter, node: Node, x: Value, w: Quant, tail: _Tail, channels: int
) -> Value | str | None:
    """The int32 bias constant (contract 3), None without bias, a sentence when it does not fit."""
    if tail.bias is None:
        return None
    scale = numerics.bias_scale(quant_of(x).scales[0], w.scales)
    data = _stored_bias(tail, scale, channels)
    if data is None:
        with np.errstate(over="ignore"):
            ratio = np.rint(np.asarray(tail.bias, np.float64) / np.asarray(scale, np.float64))
        if not np.abs(ratio).max(initial=0) <= BIAS_LIMIT:
            return (
                f"the bias of '{node.label}' passes 2^30 in units of its weight scale; "
                "raise the scale of that channel's weights"
            )
        data = ratio.astype(np.int32)
    quant = Quant.make("int32", scale, 0, None if scale.size == 1 else 0)
    return rewriter.constant(f"{node.label}_bias", data, TensorType((channels,), quant))


def _stored_bias(tail: _Tail, scale: numerics.FloatArray, channels: int) -> Array | None:
    """The integers of a single bias that is already stored with the right scale."""
    source = stored(tail.sources[0]) if len(tail.sources) == 1 else None
    quant = None if source is None else source.tensor.quant
    if source is None or source.constant is None or quant is None or quant.storage != "int32":
        return None
    fits = np.allclose(quant.scales, scale, rtol=1e-6, atol=0.0) and not any(quant.zero_point)
    if not fits or source.constant.size != channels:
        return None
    return np.asarray(source.constant, np.int32).reshape(channels)


def _accumulator_refusal(
    node: Node, x: Value, weight: Value, bias: Value | None, channel_axis: int
) -> str | None:
    """Contract 2: the proof that no accumulator can pass 2^31."""
    x_quant, w = quant_of(x), quant_of(weight)
    bottom, top = x_quant.range
    low, high = bottom - x_quant.zero_point[0], top - x_quant.zero_point[0]
    if weight.constant is None:
        depth = weight.tensor.static_shape[-2]
        extreme = max(abs(b - w.zero_point[0]) for b in w.range)
        bound = depth * max(abs(low), abs(high)) * extreme
    else:
        data = np.asarray(weight.constant, np.int64)
        data = data - numerics.per_axis(w.zero_points, data.ndim, w.axis)
        constant = None if bias is None else np.asarray(bias.constant)
        bound = numerics.accumulator_bound(data, constant, low, high, channel_axis)
    if bound < 2**31:
        return None
    return f"the accumulator of '{node.label}' could reach {bound}, past 2^31"
