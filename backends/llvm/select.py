"""Which kernels compute which op: one table."""

from __future__ import annotations

from qcc.backends.llvm.planner import Selector
from qcc.backends.llvm.selectors.boundary import select_dequantize, select_quantize
from qcc.backends.llvm.selectors.linear import select_conv, select_matmul
from qcc.backends.llvm.selectors.moving import select_reshape, select_transpose

SELECTORS: dict[str, Selector] = {
    "q.quantize": select_quantize,
    "q.dequantize": select_dequantize,
    "q.conv": select_conv,
    "q.matmul": select_matmul,
    "q.reshape": select_reshape,
    "q.transpose": select_transpose,
}
"""Op of the LOWERED graph to the function that plans its kernels."""
