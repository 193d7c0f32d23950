"""Canonical forms of arithmetic: Clip and Relu, Gemm, Sum."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from qcc.ir.core import Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.canonical_movement import Rule
from qcc.passes.constants import scalar, split_constant
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
    "Add": (bias_of_matmul,),
    "Gemm": (plain_gemm,),
}
"""Op type to its rules, tried in order."""
