"""Which float nodes native code computes itself."""

from __future__ import annotations

from qcc.ir.core import Node
from qcc.ref.float_ops import is_native_float


def has_native_kernel(node: Node) -> bool:
    """Whether the float kernels cover ``node``."""
    return is_native_float(node)
