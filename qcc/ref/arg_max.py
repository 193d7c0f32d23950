"""ArgMax of float32 (contract 19): numpy reference and what is covered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Array, Node
from qcc.ir.ops import attribute


def is_arg_max(node: Node) -> bool:
    """Whether ``node`` is an ArgMax of float32."""
    return (
        node.op == "ArgMax"
        and node.operand(0).tensor.is_float
        and bool(node.operand(0).tensor.shape)
    )


def arg_max(x: Any, axis: int, *, last: bool = False) -> NDArray[np.int64]:
    """Contract 19: where the greatest element along ``axis`` is, which stays with size 1.

    The first of equal ones, or the last; NaN counts as -inf.
    """
    data = np.asarray(x, np.float32)
    data = np.where(np.isnan(data), np.float32(-np.inf), data)
    if not last:
        return np.asarray(np.argmax(data, axis, keepdims=True), np.int64)
    found = np.argmax(np.flip(data, axis), axis, keepdims=True)
    return np.asarray(data.shape[axis] - 1 - found, np.int64)


def evaluate_arg_max(node: Node, arrays: Sequence[Array | None]) -> Array:
    """The result of an ArgMax node."""
    last = bool(attribute(node, "select_last_index"))
    found = arg_max(arrays[0], int(attribute(node, "axis")), last=last)
    return found.reshape(node.output.tensor.static_shape)
