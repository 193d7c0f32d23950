"""The integers of torch's ``qnnpack`` backend, for the AArch64 kernels.

As ``get_qnnpack_backend_config`` of torch.ao.quantization (torch 2.13) constrains them: int8
operands have a scale of at least 2^-12 and int8 weights leave out -128.
"""

from __future__ import annotations

from dataclasses import replace

from qcc.backends.arm import config
from qcc.quant.backend_config import BackendPatternConfig
from qcc.quant.dtype_config import DTypeConfig, DTypeWithConstraints
from qcc.quant.qconfig import get_default_qconfig

LEAST_SCALE = 2.0**-12
_SIGNED = DTypeWithConstraints("int8", scale_min_lower_bound=LEAST_SCALE)
_WEIGHT = DTypeWithConstraints("int8", -127, 127, LEAST_SCALE)


def constrained(row: BackendPatternConfig) -> BackendPatternConfig:
    """``row`` with these constraints on what its dtype configs say of int8."""
    return replace(row, dtype_configs=tuple(map(_constrained, row.dtype_configs)))


def _constrained(dtypes: DTypeConfig) -> DTypeConfig:
    if not is_signed(dtypes):
        return dtypes
    output = dtypes.constraints("output")
    return replace(
        dtypes,
        input=_SIGNED,
        output=_SIGNED if output is not None and output.dtype == "int8" else output,
        weight=None if dtypes.weight is None else _WEIGHT,
    )


def is_signed(dtypes: DTypeConfig) -> bool:
    """Whether the input is int8."""
    given = dtypes.constraints("input")
    return given is not None and given.dtype == "int8"


CONFIG = replace(
    config.CONFIG,
    name="qnnpack",
    patterns=tuple(map(constrained, config.CONFIG.patterns)),
    default_qconfig=get_default_qconfig("qnnpack"),
)
"""Unsigned (or constrained signed) activations, weights per tensor by default."""
