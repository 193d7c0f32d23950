"""Rows of a BackendConfig: patterns of :mod:`qcc.backends.patterns` with their dtypes and roles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from qcc.backends import patterns as p
from qcc.ir.ops import attribute
from qcc.ir.pattern import Match, Pattern
from qcc.quant.backend_config import BackendPatternConfig, ObservationType, WeightAxis
from qcc.quant.dtype_config import DTypeConfig

SHARE = ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT

ACTIVATION_DTYPES = ("uint8", "int8")
WEIGHT_DTYPE = "int8"

QUANTIZED = tuple(DTypeConfig(dtype, dtype) for dtype in ACTIVATION_DTYPES)
"""8-bit in, the same 8-bit type out."""
TO_FLOAT = tuple(DTypeConfig(dtype, "float32") for dtype in ACTIVATION_DTYPES)
"""8-bit in, float32 out."""
WEIGHTED = tuple(DTypeConfig(dtype, dtype, WEIGHT_DTYPE, "int32") for dtype in ACTIVATION_DTYPES)
WEIGHTED_TO_FLOAT = tuple(
    DTypeConfig(dtype, "float32", WEIGHT_DTYPE, "int32") for dtype in ACTIVATION_DTYPES
)


def gemm_axis(match: Match) -> int:
    """The output channels of a Gemm's weight: rows where it is transposed, else columns."""
    return 0 if attribute(match.node("matmul"), "transB") else 1


def weighted(
    patterns: Iterable[Pattern], lowering: str, axis: WeightAxis, *, floats: bool
) -> tuple[BackendPatternConfig, ...]:
    """Rows of ops with a constant weight; ``floats`` offers a float32 result too."""
    dtypes = (*WEIGHTED, *WEIGHTED_TO_FLOAT) if floats else WEIGHTED
    return tuple(
        BackendPatternConfig(
            pattern.name,
            pattern,
            dtype_configs=dtypes,
            lowering=lowering,
            weight_role="w",
            weight_axis=axis,
            bias_role="bias",
        )
        for pattern in patterns
    )


def floating_bias(rows: Iterable[BackendPatternConfig]) -> tuple[BackendPatternConfig, ...]:
    """The same rows, with biases that stay float32."""
    return tuple(
        row.set_dtype_configs(
            replace(dtypes, bias="float32") if dtypes.bias else dtypes
            for dtypes in row.dtype_configs
        )
        for row in rows
    )


def plain(
    patterns: Iterable[Pattern], lowering: str, *, floats: bool = False
) -> tuple[BackendPatternConfig, ...]:
    """Rows of ops without weights whose result has its own range."""
    dtypes = (*QUANTIZED, *TO_FLOAT) if floats else QUANTIZED
    return tuple(
        BackendPatternConfig(pattern.name, pattern, dtype_configs=dtypes, lowering=lowering)
        for pattern in patterns
    )


def sharing(patterns: Iterable[Pattern], lowering: str) -> tuple[BackendPatternConfig, ...]:
    """Rows of ops whose result keeps its operand's parameters."""
    return tuple(replace(config, observation_type=SHARE) for config in plain(patterns, lowering))


def movements(op_types: Iterable[str]) -> tuple[BackendPatternConfig, ...]:
    """Rows of movement ops."""
    return tuple(
        row for op_type in op_types for row in sharing([p.movement(op_type)], p.MOVEMENT[op_type])
    )


def longest_first(rows: Iterable[BackendPatternConfig]) -> tuple[BackendPatternConfig, ...]:
    """Rows with more nodes first: a pattern comes before its parts."""
    return tuple(sorted(rows, key=lambda row: -len(row.pattern.roles)))
