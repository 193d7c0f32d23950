"""x86 without VNNI: the same integers, with weights whose pairs do not saturate ``vpmaddubsw``."""

from __future__ import annotations

from dataclasses import replace

from qcc.backends.x86 import config
from qcc.quant.backend_config import Speeds
from qcc.quant.qconfig import get_default_qconfig

CONFIG = replace(
    config.CONFIG,
    name="x86-avx2",
    features=("avx2",),
    default_qconfig=get_default_qconfig("x86-avx2"),
    weight_pair_limit=128,
    speeds=Speeds(95.0, 45.0, 16.0, 4.0, 5.0),
)
"""255 * 128 is the largest sum of two products that fits 16 bits."""
