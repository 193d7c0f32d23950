"""The integer dialect: every ``q.*`` op, with its numpy reference beside its definition.

Importing this package registers the ops with :mod:`qcc.ir.ops`.
"""

from __future__ import annotations

from qcc.ir.integer import (
    boundary,
    elementwise,
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
    "linear",
    "movement",
    "pooling",
    "region",
    "resize",
    "softmax",
]
