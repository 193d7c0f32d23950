"""Nodes that scale and shift channels: ``y[c] = scale[c] * x[c] + shift[c]``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Node, Value
from qcc.ir.ops import attribute
from qcc.passes.constants import reals

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """One scale and shift a channel, or one for all of them; float64, shape [C] or [1]."""

    scale: Float64
    shift: Float64

    @property
    def size(self) -> int:
        """The number of channels (1 may stand for any number)."""
        return max(len(self.scale), len(self.shift))

    def then(self, other: Affine) -> Affine:
        """This, and then ``other``."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)

    def spread(self, channels: int) -> Affine:
        """The same for exactly ``channels`` channels."""
        return Affine(
            np.broadcast_to(self.scale, (channels,)), np.broadcast_to(self.shift, (channels,))
        )


def affine_node(node: Node, value: Value, axis: int | None) -> Affine | None:
    """What ``node`` does to the channels of its operand ``value`` along ``axis``; else None."""
    rank = value.tensor.rank
    if rank is None or axis is None or not value.tensor.is_float:
        return None
    if node.op == "BatchNormalization":
        return batch_norm(node) if axis == 1 and node.operand(0) is value else None
    if node.op not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    first = node.operand(0) is value
    constant = node.operand(1) if first else node.operand(0)
    numbers = reals(constant)
    if numbers is None or constant is value or constant.tensor.storage != "float32":
        return None
    channels = _by_channel(numbers, rank, axis)
    return None if channels is None else _arithmetic(node.op, first, channels)


def _by_channel(numbers: Float64, rank: int, axis: int) -> Float64 | None:
    """A constant that differs along the channel axis only, as a vector."""
    shape = (1,) * (rank - numbers.ndim) + numbers.shape
    if len(shape) != rank or any(dim != 1 for place, dim in enumerate(shape) if place != axis):
        return None
    return numbers.reshape(-1)


def _arithmetic(op: str, first: bool, c: Float64) -> Affine | None:
    one, zero = np.ones_like(c), np.zeros_like(c)
    if op == "Mul":
        return Affine(c, zero)
    if op == "Add":
        return Affine(one, c)
    if op == "Sub":
        return Affine(one, -c) if first else Affine(-one, c)
    # c / x is no affine function, and a division by zero is left to the model.
    return Affine(one / c, zero) if first and np.all(c != 0.0) else None


def batch_norm(node: Node) -> Affine | None:
    """A BatchNormalization at inference with constant statistics; else None."""
    if node.op != "BatchNormalization" or attribute(node, "training_mode"):
        return None
    if any(extra.uses for extra in node.outputs[1:]) or not node.output.tensor.is_float:
        return None
    found = [reals(node.input(index)) for index in (1, 2, 3, 4)]
    gamma, beta, mean, variance = found
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    scale = gamma / np.sqrt(variance + float(attribute(node, "epsilon")))
    if not np.all(np.isfinite(scale)):
        return None
    return Affine(scale, beta - mean * scale)
