"""Canonical forms of arithmetic: Clip and Relu, Gemm, Sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from qcc.ir.core import Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.canonical_movement import Rule
from qcc.passes.constants import integers, scalar, split_constant
from qcc.passes.replacement import forward, supersede

LARGEST = float(np.finfo(np.float32).max)

Bounds = tuple[float, float]


def clip_bounds(node: Node) -> Bounds | None:
    """The constant bounds of a float32 Clip or Relu; an open side is infinite.  Else None."""
    if not node.inputs or not node.output.tensor.is_float:
        return None
    if node.op == "Relu":
        return (0.0, math.inf)
    if node.op != "Clip":
        return None
    low = -math.inf if node.input(1) is None else scalar(node.input(1))
    high = math.inf if node.input(2) is None else scalar(node.input(2))
    if low is None or high is None:
        return None
    return (-math.inf if low <= -LARGEST else low, math.inf if high >= LARGEST else high)


def put_clip(node: Node, source: Value, bounds: Bounds, rewriter: Rewriter) -> bool:
    """Make ``node`` the canonical clamp of ``source``: nothing, Relu, or Clip."""
    if bounds == (-math.inf, math.inf):
        return forward(node, source, rewriter)
    op = "Relu" if bounds == (0.0, math.inf) else "Clip"
    limits = [] if op == "Relu" else [_limit(node, bound, rewriter) for bound in bounds]
    while limits and limits[-1] is None:
        limits.pop()
    supersede(node, op, [source, *limits], rewriter)
    return True


def _limit(node: Node, bound: float, rewriter: Rewriter) -> Value | None:
    if math.isinf(bound):
        return None
    return rewriter.constant(f"{node.label}_bound", np.asarray(bound, np.float32))


def clip(node: Node, rewriter: Rewriter) -> bool:
    """Drop infinite bounds, write Clip at zero as Relu, and merge Clip with a clamp before it."""
    outer = clip_bounds(node)
    if outer is None:
        return False
    source = node.operand(0)
    before = source.producer
    inner = None if before is None else clip_bounds(before)
    if before is not None and inner is not None and inner[0] <= inner[1]:
        # clamp(clamp(x)): the outer bounds move the inner ones, never the other way round.
        merged = (_clamp(inner[0], outer), _clamp(inner[1], outer))
        put_clip(node, before.operand(0), merged, rewriter)
        rewriter.erase_dead(source)
        return True
    written = 1 + sum(value is not None for value in node.inputs[1:])
    finite = 1 + sum(not math.isinf(bound) for bound in outer)
    if node.op == "Relu" or (written == finite and outer != (0.0, math.inf)):
        return False
    return put_clip(node, source, outer, rewriter)


def _clamp(value: float, bounds: Bounds) -> float:
    return min(max(value, bounds[0]), bounds[1])


def bound_by_constant(node: Node, rewriter: Rewriter) -> bool:
    """``Min(x, c)`` and ``Max(x, c)`` with a number c are Clip."""
    pair = split_constant(node)
    if pair is None or not node.output.tensor.is_float:
        return False
    source, constant = pair
    bound, rank = scalar(constant), source.tensor.rank
    if bound is None or math.isnan(bound) or rank is None or (constant.tensor.rank or 0) > rank:
        return False
    bounds = (bound, math.inf) if node.op == "Max" else (-math.inf, bound)
    return put_clip(node, source, bounds, rewriter)


def sum_of_two(node: Node, rewriter: Rewriter) -> bool:
    """Sum of two operands is Add."""
    if len(node.inputs) != 2:
        return False
    supersede(node, "Add", node.inputs, rewriter)
    return True


def bias_of_matmul(node: Node, rewriter: Rewriter) -> bool:
    """``MatMul(x, W) + b`` is Gemm where x and W are matrices and b adds to every row."""
    pair = split_constant(node)
    if pair is None:
        return False
    product, bias = pair
    matmul = product.producer
    if matmul is None or matmul.op != "MatMul" or len(product.uses) != 1:
        return False
    x, weight = matmul.operand(0), matmul.operand(1)
    if not weight.is_constant or not node.output.tensor.is_float or matmul.graph is not node.graph:
        return False
    if x.tensor.rank != 2 or weight.tensor.rank != 2:
        return False
    columns = weight.tensor.static_shape[1]
    data = constant_array(bias)
    if data is None or data.shape not in ((), (1,), (columns,), (1, 1), (1, columns)):
        return False
    row = bias
    if data.shape != (columns,):
        full = np.broadcast_to(data.reshape(-1), (columns,)).astype(np.float32)
        row = rewriter.constant(bias.name, full)
    gemm = supersede(node, "Gemm", [x, weight, row], rewriter)
    gemm.name = matmul.name or gemm.name  # a config speaks of the node that holds the weight
    gemm.doc = matmul.doc or gemm.doc
    gemm.metadata = {**gemm.metadata, **matmul.metadata}
    rewriter.erase(matmul)
    rewriter.erase_dead(bias)
    return True


def before_squeeze(node: Node, rewriter: Rewriter) -> bool:
    """``squeeze(conv(x)) + b`` is ``squeeze(conv(x) + b)`` where b has one number a channel.

    So it can become the convolution's bias.  Unsqueeze and Mul alike; batch and channels must stay.
    """
    pair = split_constant(node)
    if pair is None or not node.output.tensor.is_float:
        return False
    moved, constant = pair
    mover, data = moved.producer, constant_array(constant)
    if mover is None or mover.op not in ("Squeeze", "Unsqueeze") or len(moved.uses) != 1:
        return False
    conv, axes = mover.operand(0), integers(mover.input(1))
    rank, shape = moved.tensor.rank, conv.tensor.shape
    made_by_conv = conv.producer is not None and conv.producer.op == "Conv"
    if not made_by_conv or len(conv.uses) != 1 or axes is None or data is None:
        return False
    if shape is None or rank is None or rank < 2 or mover.graph is not node.graph:
        return False
    if any(axis % max(rank, len(shape)) < 2 for axis in axes):
        return False
    if data.ndim > rank or (1,) * (rank - data.ndim) + data.shape != _channels(shape[1], rank):
        return False
    numbers = np.ascontiguousarray(data.reshape((-1, *(1,) * (len(shape) - 2))))
    early = rewriter.insert(
        node.op,
        [conv, rewriter.constant(constant.name, numbers)],
        [conv.type],
        name=node.name,
        before=mover,
    )
    rewriter.replace_input(mover, 0, early.output)
    return forward(node, moved, rewriter)


def _channels(count: object, rank: int) -> tuple[object, ...]:
    """The shape of one number a channel among values of ``rank`` axes."""
    return (1, count, *(1,) * (rank - 2))


def plain_gemm(node: Node, rewriter: Rewriter) -> bool:
    """Move ``alpha`` and ``beta`` of Gemm into constant operands, in float64, rounded once."""
    changed = False
    for name, index in (("alpha", 1), ("beta", 2)):
        factor, value = attribute(node, name), node.input(index)
        data = constant_array(value)
        if factor == 1.0 or (value is not None and (data is None or data.dtype != np.float32)):
            continue
        if value is not None and data is not None:
            scaled = (np.asarray(data, np.float64) * factor).astype(np.float32)
            rewriter.replace_input(node, index, rewriter.constant(value.name, scaled))
            rewriter.erase_dead(value)
        elif index == 1:
            continue
        rewriter.set_attribute(node, name, 1.0)
        changed = True
    return changed


ARITHMETIC_RULES: Mapping[str, tuple[Rule, ...]] = {
    "Clip": (clip,),
    "Relu": (clip,),
    "Min": (bound_by_constant,),
    "Max": (bound_by_constant,),
    "Sum": (sum_of_two,),
    "Add": (bias_of_matmul, before_squeeze),
    "Mul": (before_squeeze,),
    "Gemm": (plain_gemm,),
}
"""Op type to its rules, tried in order."""
