"""The integer dialect: every ``q.*`` op, with its numpy reference beside its definition.

The ops ``q.float_*`` are its float32 forms: what native code fuses around float weights.

Importing this package registers the ops with :mod:`qcc.ir.ops`.
"""

from __future__ import annotations

from qcc.ir.integer import (
    boundary,
    elementwise,
    float_linear,
    float_pooling,
    linear,
    movement,
    pooling,
    region,
    resize,
    softmax,
)

__all__ = [
    "boundary",
    "elementwise",
    "float_linear",
    "float_pooling",
    "linear",
    "movement",
    "pooling",
    "region",
    "resize",
    "softmax",
]
