"""Which float nodes native code computes itself."""

from __future__ import annotations

import numpy as np

from qcc.ir.core import Node
from qcc.ref.float_ops import given_values, is_native_float

_ONE_OR_TWO = ("Add", "Sub", "Mul", "Div", "Max", "Min")


def has_native_kernel(node: Node) -> bool:
    """Whether the float kernels cover ``node``: float32, static shapes, constant Clip limits."""
    values = given_values(node)
    if not is_native_float(node) or any(0 in v.tensor.static_shape for v in values):
        return False
    if node.op in _ONE_OR_TWO:
        return len(node.inputs) == 2
    if node.op == "Softmax":
        return bool(node.output.tensor.static_shape)
    if node.op == "Clip":
        limits = [value for value in node.inputs[1:] if value is not None]
        return all(v.constant is not None and not np.isnan(v.constant).any() for v in limits)
    return True
