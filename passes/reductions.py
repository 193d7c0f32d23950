"""Reductions that are broadcast back over what they reduced, however an exporter writes them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.ir.core import Value
from qcc.ir.ops import attribute
from qcc.ir.types import Dim, Shape
from qcc.passes.algebra import close
from qcc.passes.constants import axes_of, scalar, split_constant

SHAPING = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand"})


@dataclass(frozen=True)
class Reduced:
    """``source`` reduced over ``axes`` (sorted, non-negative)."""

    source: Value
    axes: tuple[int, ...]


def restored(value: Value) -> Value:
    """``value`` without the reshapes that only move dimensions of size one about."""
    while True:
        node = value.producer
        if node is None or node.op not in SHAPING:
            return value
        inner = node.operand(0)
        if not _only_units_differ(inner.tensor.shape, value.tensor.shape):
            return value
        value = inner


def _only_units_differ(a: Shape, b: Shape) -> bool:
    if a is None or b is None:
        return False
    left, right = ([dim for dim in shape if dim != 1] for shape in (a, b))
    if len(left) != len(right):
        return False
    unsure = [1 for x, y in zip(left, right, strict=True) if x is None or x != y]
    known_conflict = any(
        isinstance(x, int) and isinstance(y, int) and x != y
        for x, y in zip(left, right, strict=True)
    )
    return not known_conflict and len(unsure) <= 1


def keeps_rank(value: Value, source: Value, axes: tuple[int, ...]) -> bool:
    """Whether ``value`` has the rank of ``source`` and size one along ``axes``."""
    shape = value.tensor.shape
    return (
        shape is not None
        and len(shape) == source.tensor.rank
        and all(shape[axis] == 1 for axis in axes)
    )


def reduction(value: Value, op: str) -> Reduced | None:
    """What a ``op`` (ReduceMax, ReduceSum, ReduceMean) node reduces, or None."""
    node = value.producer
    if node is None or node.op != op:
        return None
    axes = axes_of(node, node.operand(0).tensor.rank)
    return Reduced(node.operand(0), axes) if axes else None


def mean(value: Value) -> Reduced | None:
    """What ``value`` is the mean of: ReduceMean, or ReduceSum times one over the count."""
    value = restored(value)
    found = reduction(value, "ReduceMean")
    node = value.producer
    if found is not None or node is None or node.op not in ("Mul", "Div"):
        return found
    pair = split_constant(node)
    number = None if pair is None else scalar(pair[1])
    if pair is None or not number or (node.op == "Div" and pair[0] is not node.operand(0)):
        return None
    total = reduction(restored(pair[0]), "ReduceSum")
    if total is None:
        return None
    dims = lengths(total)
    if dims is None:
        return None
    count = float(np.prod(dims, dtype=np.float64))
    return total if close(number, 1.0 / count if node.op == "Mul" else count) else None


def lengths(reduced: Reduced) -> tuple[int, ...] | None:
    """The static sizes of the reduced axes, or None."""
    shape: tuple[Dim, ...] = reduced.source.tensor.shape or ()
    found = tuple(dim for axis in reduced.axes if isinstance(dim := shape[axis], int))
    return found if len(found) == len(reduced.axes) else None


def at_least_zero(value: Value) -> Value:
    """``value`` without clamps to zero from below, which change no variance."""
    while True:
        value = restored(value)
        node = value.producer
        if node is None or node.op not in ("Relu", "Clip", "Max"):
            return value
        if node.op == "Clip" and (scalar(node.input(1)) != 0.0 or node.input(2) is not None):
            return value
        inner: Value | None = node.operand(0)
        if node.op == "Max":
            pair = split_constant(node)
            inner = pair[0] if pair is not None and scalar(pair[1]) == 0.0 else None
        if inner is None:
            return value
        value = inner


def kept_dimensions(value: Value) -> bool:
    """Whether the producing Reduce op keeps reduced dimensions (as size one)."""
    return value.producer is not None and bool(attribute(value.producer, "keepdims"))
