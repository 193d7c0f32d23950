"""What the AArch64 kernels run on integers."""

from __future__ import annotations

from qcc.backends.native_patterns import NATIVE_PATTERNS
from qcc.quant.backend_config import BackendConfig, Speeds
from qcc.quant.qconfig import get_default_qconfig

CONFIG = BackendConfig(
    "arm",
    target="aarch64-unknown-linux-gnu",
    patterns=NATIVE_PATTERNS,
    default_qconfig=get_default_qconfig("arm"),
    speeds=Speeds(60.0, 20.0, 8.0, 2.0, 2.5),
)
"""Signed (or unsigned) 8-bit activations, signed 8-bit weights per channel, int32 biases."""
