"""The rows that a linear op multiplies with its weight matrix: a random choice of them.

A Conv, Gemm or MatMul with a constant weight is ``rows @ matrix.T`` for each of its groups: a row
is a patch of the padded input for a Conv, a vector along the last axis otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Array, Node
from qcc.ir.ops import attribute

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class LinearForm:
    """How a node's weight is seen as matrices float64 [groups, outputs a group, inputs a group]."""

    node: Node
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Groups of a Conv, else 1."""
        return int(attribute(self.node, "group") or 1) if self.node.op == "Conv" else 1

    @property
    def transposed(self) -> bool:
        """Whether the stored weight is [inputs, outputs]."""
        if self.node.op == "Conv":
            return False
        return self.node.op == "MatMul" or not attribute(self.node, "transB")

    def matrices(self, weight: Array) -> Float64:
        """``weight`` as the matrices."""
        matrix = np.asarray(weight, np.float64)
        if self.transposed:
            return np.asarray(matrix.T[None])
        return np.asarray(matrix.reshape(self.groups, self.shape[0] // self.groups, -1))

    def weight(self, matrices: NDArray[np.float64]) -> Float64:
        """The inverse of :meth:`matrices`."""
        if self.transposed:
            return np.ascontiguousarray(matrices[0].T)
        return matrices.reshape(self.shape)

    def rows(self, x: Array, count: int, random: np.random.Generator) -> Float32:
        """At most ``count`` rows, float32 [groups, count, inputs a group], of the operand ``x``."""
        if self.node.op == "Conv":
            return self._patches(np.asarray(x, np.float32), count, random)
        flat = np.asarray(x, np.float32).reshape(-1, np.shape(x)[-1])
        return flat[_choice(len(flat), count, random)][None]

    def _patches(self, x: Float32, count: int, random: np.random.Generator) -> Float32:
        window, axes = self.shape[2:], range(x.ndim - 2)
        strides = attribute(self.node, "strides") or [1] * len(window)
        dilations = attribute(self.node, "dilations") or [1] * len(window)
        pads = attribute(self.node, "pads") or [0] * (2 * len(window))
        around = [(int(pads[i]), int(pads[i + len(window)])) for i in axes]
        x = np.pad(x, [(0, 0), (0, 0), *around])
        reach = [dilations[i] * (window[i] - 1) for i in axes]
        places = (x.shape[0], *((x.shape[2 + i] - reach[i] - 1) // strides[i] + 1 for i in axes))
        batch, *corner = np.unravel_index(_choice(int(np.prod(places)), count, random), places)
        taps = []
        for tap in np.ndindex(*window):
            place = tuple(corner[i] * strides[i] + tap[i] * dilations[i] for i in axes)
            taps.append(x[(batch, slice(None)) + place])  # noqa: RUF005 - no * in a subscript of 3.10
        found = np.stack(taps, axis=-1)  # [rows, channels, taps]
        found = found.reshape(len(found), self.groups, -1)
        return np.ascontiguousarray(found.transpose(1, 0, 2))


def linear_form(node: Node, weight: Array) -> LinearForm | None:
    """How ``node`` multiplies ``weight``, its second operand; None for what has no such form."""
    shape = tuple(np.shape(weight))
    if node.op == "Conv":
        explicit = attribute(node, "auto_pad") in (None, b"NOTSET", "NOTSET")
        return LinearForm(node, shape) if explicit else None
    plain = node.op == "MatMul" or (node.op == "Gemm" and not attribute(node, "transA"))
    return LinearForm(node, shape) if plain and len(shape) == 2 else None


def _choice(total: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    if total <= count:
        return np.arange(total)
    return np.sort(random.choice(total, count, replace=False))
