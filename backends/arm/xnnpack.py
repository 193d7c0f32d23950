"""The integers of XNNPACK, as ExecuTorch's quantizer gives them, for the AArch64 kernels."""

from __future__ import annotations

from dataclasses import replace

from qcc.backends.arm import qnnpack
from qcc.quant.backend_config import BackendPatternConfig
from qcc.quant.qconfig import get_default_qconfig


def _signed(row: BackendPatternConfig) -> BackendPatternConfig:
    """``row`` without its unsigned forms, which XNNPACK's quantizer does not make."""
    return replace(row, dtype_configs=tuple(filter(qnnpack.is_signed, row.dtype_configs)))


CONFIG = replace(
    qnnpack.CONFIG,
    name="xnnpack",
    patterns=tuple(map(_signed, qnnpack.CONFIG.patterns)),
    default_qconfig=get_default_qconfig("xnnpack"),
)
"""Signed affine activations, signed weights per channel in [-127, 127], least scale 2^-12."""
