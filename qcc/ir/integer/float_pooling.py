"""Pools of float32 images (contract 16)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node
from qcc.ir.integer.linear import from_channels_first, to_channels_first
from qcc.ir.integer.pooling import POOL_ATTRIBUTES, average_counts, pool_windows
from qcc.ir.ops import OpDefinition, Operand, attribute, define


def _taps(node: Node, x: Array, fill: float) -> list[Array]:
    """One array ``[N, C, *out]`` a tap of the window, by rows and then columns."""
    windows = pool_windows(node, x, fill)
    rank = x.ndim - 2
    places: list[tuple[Any, ...]] = [(..., *tap) for tap in np.ndindex(*windows.shape[-rank:])]
    return [windows[place] for place in places]


def _evaluate_max(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = str(attribute(node, "layout"))
    x = to_channels_first(np.asarray(arrays[0], np.float32), layout)
    y = numerics.window_maximum(_taps(node, x, -np.inf))
    return [from_channels_first(y, layout)]


def _evaluate_average(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    layout = str(attribute(node, "layout"))
    x = to_channels_first(np.asarray(arrays[0], np.float32), layout)
    y = numerics.window_mean(_taps(node, x, 0.0), average_counts(node, x.shape[2:]))
    return [from_channels_first(y, layout)]


def _check(node: Node) -> str | None:
    if {node.operand(0).tensor.element, node.output.tensor.element} != {"float32"}:
        return "the operand and the result must be float32"
    return None


FLOAT_MAX_POOL = define(
    OpDefinition(
        "q.float_max_pool",
        (Operand("x"),),
        _evaluate_max,
        attributes=POOL_ATTRIBUTES,
        check=_check,
        doc="Maximum over windows of float32; padding never wins, NaN always does.",
    )
)

FLOAT_AVERAGE_POOL = define(
    OpDefinition(
        "q.float_average_pool",
        (Operand("x"),),
        _evaluate_average,
        attributes={**POOL_ATTRIBUTES, "count_include_pad": 0},
        check=_check,
        doc="Mean over windows of float32: a float64 sum by rows and then columns, divided by the "
        "count in float64 and rounded once.",
    )
)
