"""What onnxruntime's CPU provider runs on integers when it reads a Q/DQ model.

Only patterns that it fuses are here (onnxruntime 1.31, ``qdq_selectors.cc``): around anything else
quantize and dequantize would only cost time.  A Conv needs a quantized result, MatMul and Gemm do
not; Relu and Clip disappear where the zero point implies them, as with unsigned activations.
"""

from __future__ import annotations

from qcc.backends import patterns as p
from qcc.backends.entries import gemm_axis, longest_first, movements, plain, sharing, weighted
from qcc.quant.backend_config import BackendConfig
from qcc.quant.qconfig import get_default_qconfig

MOVED = (
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"),
    *("DepthToSpace", "Gather", "Expand", "Tile", "Identity"),
)
"""Movement ops that it runs on stored values."""

_ROWS = (
    *weighted(p.CONV, "q.conv", 0, floats=False),
    *weighted(p.GEMM, "q.matmul", gemm_axis, floats=True),
    *weighted((*p.MATMUL, *p.MATMUL_ADD), "q.matmul", 1, floats=True),
    *plain([p.DYNAMIC_MATMUL], "q.matmul", floats=True),
    *plain(p.ADD, "q.add"),
    *plain(p.MUL, "q.mul"),
    *plain([p.unary("Sigmoid"), p.unary("LeakyRelu")], "q.lut"),
    *sharing([p.MAX_POOL], "q.max_pool"),
    *plain([p.AVERAGE_POOL], "q.average_pool"),
    *plain([p.GLOBAL_AVERAGE_POOL], "q.reduce_mean"),
    *sharing([p.NEAREST_RESIZE], "q.resize"),
    *sharing([p.concat], "q.concat"),
    *movements(MOVED),
    *plain([p.SOFTMAX], "q.softmax"),
)

CONFIG = BackendConfig(
    "onnx",
    patterns=longest_first(_ROWS),
    default_qconfig=get_default_qconfig("onnx"),
    weight_pair_limit=128,
    keeps_grids=False,
    export_passes="suit-onnxruntime",
    clamps_results=False,
    description="Q/DQ model for onnxruntime's CPU provider",
)
"""Unsigned (or signed) 8-bit activations, signed 8-bit weights per channel, int32 biases.

Weights keep the limit of x86 CPUs without VNNI, where the runtimes' kernels would saturate.
"""
