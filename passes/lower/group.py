"""A fusion group on the NUMBERED graph, as the lowering functions see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType


@dataclass(frozen=True)
class Group:
    """The float nodes of one match, in schedule order; the last one gives the group's result."""

    nodes: tuple[Node, ...]

    @property
    def root(self) -> Node:
        """The node whose first output is the group's result."""
        return self.nodes[-1]

    @property
    def result(self) -> Value:
        """The float value that leaves the group."""
        return self.root.output

    @property
    def quantizer(self) -> Node | None:
        """The q.quantize that alone reads the result, or None when the result leaves as float."""
        users = self.result.users
        if self.result.is_output or len(users) != 1 or users[0].op != "q.quantize":
            return None
        return users[0]

    @property
    def quant(self) -> Quant | None:
        """The quantization in which the result is stored, or None for a float result."""
        quantizer = self.quantizer
        return None if quantizer is None else quantizer.output.tensor.quant

    def one(self, *op_types: str) -> Node | None:
        """The first node of one of ``op_types``."""
        return next((node for node in self.nodes if node.op in op_types), None)

    @property
    def label(self) -> str:
        """The name that reports use for the whole group."""
        return self.nodes[0].label

    def finish(self, rewriter: Rewriter, value: Value) -> None:
        """Put ``value`` in the place of the stored (or float) result and erase the group."""
        quantizer = self.quantizer
        last = self.root if quantizer is None else quantizer
        rewriter.replace_uses(last.output, value)
        dead = [*self.nodes] if quantizer is None else [*self.nodes, quantizer]
        for node in reversed(dead):
            if node.graph is None or any(output.uses for output in node.outputs):
                continue
            operands = node.inputs
            rewriter.erase(node)
            for operand in operands:
                rewriter.erase_dead(operand)


Lowering: TypeAlias = "Callable[[Group, Rewriter], str | None]"
"""Rewrites a group into q.* nodes; gives a sentence, having changed nothing, when it cannot."""


def stored(value: Value | None) -> Value | None:
    """The quantized value behind the q.dequantize that makes ``value``, or None."""
    if value is None or value.producer is None or value.producer.op != "q.dequantize":
        return None
    return value.producer.operand(0)


def activation(value: Value | None) -> Value | None:
    """The per-tensor quantized, non-constant value behind ``value``, or None."""
    found = stored(value)
    if found is None or found.is_constant:
        return None
    quant = found.tensor.quant
    return found if quant is not None and quant.per_tensor else None


def float_constant(value: Value | None) -> Array | None:
    """The float32 data of a constant, read through its q.dequantize if it has one; else None."""
    if value is None:
        return None
    source = stored(value) or value
    if source.constant is None:
        return None
    quant = source.tensor.quant
    if quant is None:
        return np.asarray(source.constant)
    return numerics.dequantize(source.constant, quant.scales, quant.zero_points, axis=quant.axis)


def eight_bit(quant: Quant | None) -> bool:
    """Whether this is a per-tensor quantization stored in 8 bits."""
    return quant is not None and quant.per_tensor and quant.storage in ("int8", "uint8")


def clamp_of(nodes: Sequence[Node], quant: Quant) -> tuple[int | None, int | None] | str:
    """The stored bounds that a run of Relu and Clip nodes means for a result of ``quant``.

    Clamping commutes with the monotone quantization, so the bounds are the quantized limits.
    Gives a sentence when a limit is not a constant.
    """
    low: int | None = None
    high: int | None = None
    for node in nodes:
        if node.op == "Relu":
            limits: tuple[Array | None, Array | None] = (np.float32(0), None)
        else:
            limits = (float_constant(node.input(1)), float_constant(node.input(2)))
            given = [node.input(1), node.input(2)]
            if any(v is not None and a is None for v, a in zip(given, limits, strict=True)):
                return f"the limits of Clip '{node.label}' are not constants"
        bottom, top = (None if limit is None else _stored_limit(limit, quant) for limit in limits)
        # A later clamp acts on what the earlier ones left.
        if bottom is not None:
            low = bottom if low is None else max(low, bottom)
            high = None if high is None else max(high, bottom)
        if top is not None:
            high = top if high is None else min(high, top)
            low = None if low is None else min(low, top)
    return low, high


def _stored_limit(limit: Array, quant: Quant) -> int:
    bottom, top = quant.range
    stored_limit = numerics.quantize(
        np.asarray(limit, np.float32).reshape(()),
        np.float32(quant.scale[0]),
        quant.zero_point[0],
        quant.storage,
        low=bottom,
        high=top,
    )
    return int(stored_limit)


def bounds(low: int | None, high: int | None) -> dict[str, int]:
    """The attributes ``low`` and ``high`` of a node, without those that are absent."""
    pairs = {"low": low, "high": high}
    return {name: value for name, value in pairs.items() if value is not None}


def result_type(group: Group) -> TensorType:
    """The type of the lowered result: the quantizer's, or the float result's own."""
    quantizer = group.quantizer
    return group.result.tensor if quantizer is None else quantizer.output.tensor
