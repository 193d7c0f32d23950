"""What TensorRT runs on integers when it reads a Q/DQ model, and where it wants Q/DQ.

Symmetric int8 activations and weights, float biases; quantize and dequantize stand in front of the
layers that read 8 bits, so that bias, activation and skip connection are computed in the kernel of
the layer before, in float, and its result is rounded once.  Attention, normalizations (but behind
convolutions) and activations have no row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qcc.backends import patterns as p
from qcc.backends.entries import gemm_axis, longest_first, movements, sharing
from qcc.backends.tensorrt import placement
from qcc.ir.pattern import Pattern
from qcc.quant.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    Check,
    FloatRoles,
    Placement,
    WeightAxis,
)
from qcc.quant.dtype_config import DTypeConfig, DTypeWithConstraints
from qcc.quant.qconfig import get_default_qconfig

SYMMETRIC = DTypeWithConstraints("int8", symmetric=True)
INT8 = DTypeConfig(SYMMETRIC, SYMMETRIC)
TO_FLOAT = DTypeConfig(SYMMETRIC, "float32")
WEIGHTED = (
    DTypeConfig(SYMMETRIC, SYMMETRIC, SYMMETRIC, "float32"),
    DTypeConfig(SYMMETRIC, "float32", SYMMETRIC, "float32"),
)

MOVED = (
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"),
    *("DepthToSpace", "SpaceToDepth", "Expand", "Tile", "Gather"),
)
"""Data movement that commutes with Q/DQ of one scale."""


def _weighted(
    patterns: Iterable[Pattern], lowering: str | None, axis: WeightAxis, check: Check | None = None
) -> tuple[BackendPatternConfig, ...]:
    return tuple(
        BackendPatternConfig(
            pattern.name,
            pattern,
            dtype_configs=WEIGHTED,
            lowering=lowering,
            check=check,
            weight_role="w",
            weight_axis=axis,
            bias_role="bias",
        )
        for pattern in patterns
    )


def _plain(
    patterns: Iterable[Pattern], lowering: str | None, check: Check | None = None
) -> tuple[BackendPatternConfig, ...]:
    return tuple(
        BackendPatternConfig(
            pattern.name, pattern, dtype_configs=(INT8, TO_FLOAT), lowering=lowering, check=check
        )
        for pattern in patterns
    )


def _joined(
    patterns: Iterable[Pattern], roles: FloatRoles, check: Check
) -> tuple[BackendPatternConfig, ...]:
    """Rows of arithmetic of which one operand stays float: nothing that integers compute."""
    return tuple(replace(row, float_roles=roles) for row in _plain(patterns, None, check))


def _sharing(rows: Iterable[BackendPatternConfig]) -> tuple[BackendPatternConfig, ...]:
    """Rows whose result keeps its operand's parameters."""
    return tuple(row.set_dtype_configs([INT8]) for row in rows)


_ROWS = (
    *_weighted(p.CONV, "q.conv", 0, placement.takes_channels),
    *_weighted(p.CONV_ADD, "q.conv", 0, placement.adds_skip_to_conv),
    *_weighted(p.CONV_TRANSPOSE, None, 1),
    *_weighted(p.GEMM, "q.matmul", gemm_axis, placement.is_no_vector),
    *_weighted((*p.MATMUL, *p.MATMUL_ADD), "q.matmul", 1, placement.is_no_vector),
    *_joined(p.ADD, placement.fused_roles, placement.adds_skip),
    *_plain([p.SUM_OF_STORED], None, placement.adds_stored),
    *_joined(p.MUL[:1], placement.gate_roles, placement.scales_by_gate),
    *_plain([p.AVERAGE_POOL], "q.average_pool"),
    *_plain([p.GLOBAL_AVERAGE_POOL], "q.reduce_mean"),
    *_plain([p.LAYER_NORM], None, placement.follows_conv),
    *_plain([p.scale_shift], None, placement.normalizes_stored),
    *_sharing(sharing([p.MAX_POOL], "q.max_pool")),
    *_sharing(sharing([p.NEAREST_RESIZE], "q.resize")),
    *_sharing(sharing([p.concat], "q.concat")),
    *_sharing(movements(MOVED)),
)

CONFIG = BackendConfig(
    "tensorrt",
    patterns=longest_first(_ROWS),
    default_qconfig=get_default_qconfig("tensorrt"),
    placement=Placement.BEFORE_READERS,
    fuses=placement.FUSED,
    concat_shares_scale=True,
    keeps=("use-lookups", "expand-conv-transpose"),
    export_passes="share-dequantize,name-nodes",
    equalizes_dense=True,
    description="Q/DQ model for TensorRT",
)
"""Signed symmetric 8-bit activations and weights (per output channel), float32 biases."""
