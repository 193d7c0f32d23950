"""What OpenVINO's CPU plugin runs on integers when it reads a Q/DQ model, and where it wants Q/DQ.

Quantize and dequantize stand in front of what reads 8 bits: activations, SiLU and bias are computed
inside the kernels of the layers in front of them, in float, and a quantization between them and
their layer would only cost a pass over the tensor.  The same holds behind what moves values, so
none stands there; joined tensors have one scale.  Unsigned activations with zero points cost
nothing in its kernels; signed ones, with a zero point other than 0, leave some layers float.
"""

from __future__ import annotations

from dataclasses import replace

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
from qcc.ir.core import Value
from qcc.ir.pattern import Match
from qcc.quant.backend_config import BackendConfig, Placement
from qcc.quant.qconfig import get_default_qconfig

MOVED = (
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"),
    *("DepthToSpace", "SpaceToDepth", "Gather", "Expand", "Tile", "Identity"),
)
"""Movement ops that it runs on stored values."""

FUSED = (
    *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"),
    *("Gelu", "Mish", "Softplus", "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sqrt"),
    *("Abs", "Neg", "Erf", "Exp", "Round", "Floor", "Ceil", "BatchNormalization"),
)
"""Pointwise ops that it computes in the kernel of a layer in front of them."""

NO_CONVOLUTION = "no operand comes from a convolution, whose kernel could add the other one"


def joins_convolution(match: Match) -> str | None:
    """A matched Add of a convolution's result, which pointwise ops may have changed."""
    pending: list[Value | None] = [*match.node("add").inputs]
    seen: set[Value] = set()
    while pending:
        value = pending.pop()
        node = None if value is None or value in seen else value.producer
        if node is None or value is None:
            continue
        seen.add(value)
        if node.op in ("Conv", "ConvTranspose"):
            return None
        if node.op in FUSED:
            pending += node.inputs
    return NO_CONVOLUTION


_ROWS = (
    *weighted(p.CONV, "q.conv", 0, floats=True),
    *weighted(p.GEMM, "q.matmul", gemm_axis, floats=True),
    *weighted((*p.MATMUL, *p.MATMUL_ADD), "q.matmul", 1, floats=True),
    *(replace(row, check=joins_convolution) for row in plain(p.ADD, "q.add", floats=True)),
    *sharing([p.MAX_POOL], "q.max_pool"),
    *plain([p.AVERAGE_POOL], "q.average_pool", floats=True),
    *plain([p.GLOBAL_AVERAGE_POOL, p.REDUCE_MEAN], "q.reduce_mean", floats=True),
    *sharing([p.NEAREST_RESIZE], "q.resize"),
    *sharing([p.concat], "q.concat"),
    *movements(MOVED),
)

CONFIG = BackendConfig(
    "onnx-openvino",
    patterns=longest_first(floating_bias(_ROWS)),
    default_qconfig=get_default_qconfig("onnx-openvino"),
    weight_pair_limit=128,
    keeps_grids=False,
    placement=Placement.BEFORE_READERS,
    fuses=FUSED,
    concat_shares_scale=True,
    export_passes="bare-movements",
    description="Q/DQ model for OpenVINO",
)
"""Unsigned (or signed) 8-bit activations, signed 8-bit weights per channel, float32 biases.

Weights keep the limit of x86 CPUs without VNNI, where the runtimes' kernels would saturate.
"""
