"""Small questions about stored values."""

from __future__ import annotations

from qcc.backends.llvm.buffers import Stored
from qcc.backends.llvm.kernels.activation import ActivationLayout


def layout_of(stored: Stored) -> ActivationLayout:
    """The activation layout of a stored value; raises TypeError for a dense one."""
    if stored.layout is None:
        raise TypeError(f"'{stored.buffer.name}' is not an 8-bit activation")
    return stored.layout
