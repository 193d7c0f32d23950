"""Q/DQ models for runtimes that nobody here knows: only what nearly all of them run on integers.

Convolutions, matrix products by weights, sums, pools and movement, each between quantize and
dequantize, and so are results of the model that such a layer gives.  Unsigned activations with a
zero point, since onnxruntime on x86 and OpenVINO leave layers float where it is signed; signed
symmetric weights per output channel, float32 biases (each runtime stores them as it likes), one
scale over a Concat; every zero point is written, every node has a name.
"""

from __future__ import annotations

from qcc.backends import patterns as p
from qcc.backends.entries import (
    floating_bias,
    gemm_axis,
    longest_first,
    movements,
    plain,
    sharing,
    weighted,
)
from qcc.quant.backend_config import BackendConfig
from qcc.quant.qconfig import get_default_qconfig

MOVED = (
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"),
    *("DepthToSpace", "Gather"),
)
"""Movement ops that are common on stored values."""

_ROWS = (
    *weighted(p.CONV, "q.conv", 0, floats=False),
    *weighted(p.GEMM, "q.matmul", gemm_axis, floats=False),
    *weighted((*p.MATMUL, *p.MATMUL_ADD), "q.matmul", 1, floats=False),
    *plain(p.ADD, "q.add"),
    *sharing([p.MAX_POOL], "q.max_pool"),
    *plain([p.AVERAGE_POOL], "q.average_pool"),
    *plain([p.GLOBAL_AVERAGE_POOL], "q.reduce_mean"),
    *sharing([p.NEAREST_RESIZE], "q.resize"),
    *sharing([p.concat], "q.concat"),
    *movements(MOVED),
)

CONFIG = BackendConfig(
    "onnx-generic",
    patterns=longest_first(floating_bias(_ROWS)),
    default_qconfig=get_default_qconfig("onnx-generic"),
    weight_pair_limit=128,
    keeps_grids=False,
    concat_shares_scale=True,
    keeps=("use-lookups", "expand-conv-transpose"),
    export_passes="suit-onnxruntime,name-nodes",
    description="Q/DQ model for any runtime: only what nearly all run on integers",
)
"""Unsigned (or signed) 8-bit activations, signed 8-bit weights per channel, float32 biases.

Weights keep the limit of x86 CPUs without VNNI, where the runtimes' kernels would saturate.
"""
