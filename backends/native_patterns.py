"""What the native kernels run on integers, the same on every architecture."""

from __future__ import annotations

from qcc.backends import patterns as p
from qcc.backends.entries import gemm_axis, longest_first, movements, plain, sharing, weighted

NATIVE_PATTERNS = longest_first(
    (
        *weighted((*p.CONV, *p.CONV_ADD), "q.conv", 0, floats=True),
        *weighted(p.GEMM, "q.matmul", gemm_axis, floats=True),
        *weighted((*p.MATMUL, *p.MATMUL_ADD), "q.matmul", 1, floats=True),
        *plain([p.DYNAMIC_MATMUL], "q.matmul", floats=True),
        *plain(p.ADD, "q.add"),
        *plain(p.SUB, "q.sub"),
        *plain(p.MUL, "q.mul"),
        *plain([p.silu, *map(p.unary, (*p.UNARY, *p.UNARY_FIXED))], "q.lut"),
        *plain((*p.SCALAR, *p.SCALAR_FIRST), "q.lut"),
        *plain(p.ADD_CONSTANT, "q.add"),
        *plain(p.SUB_CONSTANT, "q.sub"),
        *plain(p.MUL_CONSTANT, "q.mul"),
        *sharing([p.MAX_POOL, p.GLOBAL_MAX_POOL], "q.max_pool"),
        *plain([p.AVERAGE_POOL], "q.average_pool", floats=True),
        *plain([p.GLOBAL_AVERAGE_POOL, p.REDUCE_MEAN], "q.reduce_mean", floats=True),
        *sharing([p.RESIZE], "q.resize"),
        *sharing([p.PAD], "q.pad"),
        *sharing([p.concat], "q.concat"),
        *movements(p.MOVEMENT),
        *plain([p.SOFTMAX], "q.softmax", floats=True),
    )
)
"""Rows of every native BackendConfig, patterns of more nodes first."""
