"""Reading small constants out of operands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Node, Value, constant_array
from qcc.ir.ops import attribute


def scalar(value: Value | None) -> float | None:
    """The number in a constant of exactly one element, or None."""
    data = constant_array(value)
    if data is None or data.size != 1 or data.dtype.kind not in "fiub":
        return None
    return float(data.reshape(()))


def integers(value: Value | None) -> list[int] | None:
    """The elements of an integer constant as a flat list, or None."""
    data = constant_array(value)
    if data is None or data.dtype.kind not in "iu":
        return None
    return [int(item) for item in data.reshape(-1)]


def reals(value: Value | None) -> NDArray[np.float64] | None:
    """A float32 or float64 constant as float64, in its own shape, or None."""
    data = constant_array(value)
    if data is None or data.dtype.kind != "f":
        return None
    return np.asarray(data, np.float64)


def axes_of(node: Node, rank: int | None, operand: int = 1) -> tuple[int, ...] | None:
    """The axes of a Reduce op, Squeeze or Unsqueeze as sorted non-negative integers.

    None where they are not constant.  Absent axes mean all of them, unless
    ``noop_with_empty_axes`` says none.
    """
    if rank is None:
        return None
    given = node.input(operand)
    listed = integers(given) if given is not None else []
    if listed is None:
        return None
    if not listed:
        return () if attribute(node, "noop_with_empty_axes") else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in listed))


def split_constant(node: Node) -> tuple[Value, Value] | None:
    """The operands of a two-operand node as (variable, constant), whichever order; else None."""
    if len(node.inputs) != 2:
        return None
    first, second = node.operand(0), node.operand(1)
    if first.is_constant == second.is_constant:
        return None
    return (second, first) if first.is_constant else (first, second)


def ints(node: Node, name: str) -> list[int] | None:
    """An integer-list attribute (or its default), or None where it is absent."""
    value: Any = attribute(node, name)
    return None if value is None else [int(item) for item in value]
