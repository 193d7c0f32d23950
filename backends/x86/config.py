"""What the x86 kernels run on integers."""

from __future__ import annotations

from qcc.backends import patterns as p
from qcc.backends.entries import gemm_axis, longest_first, movements, plain, sharing, weighted
from qcc.quant.backend_config import BackendConfig, Speeds
from qcc.quant.qconfig import get_default_qconfig

_ROWS = (
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

CONFIG = BackendConfig(
    "x86",
    target="x86_64-unknown-linux-gnu",
    patterns=longest_first(_ROWS),
    default_qconfig=get_default_qconfig("x86"),
    speeds=Speeds(200.0, 50.0, 16.0, 4.0, 5.0),
)
"""Unsigned (or signed) 8-bit activations, signed 8-bit weights per channel, int32 biases."""
