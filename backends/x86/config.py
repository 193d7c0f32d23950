"""What the x86 kernels run on integers."""

from __future__ import annotations

from qcc.backends.native_patterns import NATIVE_PATTERNS
from qcc.quant.backend_config import BackendConfig, Speeds
from qcc.quant.qconfig import get_default_qconfig

CONFIG = BackendConfig(
    "x86",
    target="x86_64-unknown-linux-gnu",
    patterns=NATIVE_PATTERNS,
    default_qconfig=get_default_qconfig("x86"),
    speeds=Speeds(200.0, 50.0, 16.0, 4.0, 5.0),
)
"""Unsigned (or signed) 8-bit activations, signed 8-bit weights per channel, int32 biases."""
