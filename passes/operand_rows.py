"""The rows that a linear op multiplies with its weight matrix: a random choice of them.

A Conv, Gemm or MatMul with a constant weight is ``rows @ matrix.T`` for each of its groups: a row
is a patch of the padded input for a Conv, a vector along the last axis otherwise.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Array, Node
from qcc.ir.ops import attribute

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class LinearForm:
    """How a node's weight is seen as matrices float32 [groups, outputs a group, inputs a group]."""

    node: Node
    shape: tuple[int, ...]

    @property
    def groups(self) -> int:
        """Groups of a Conv, else 1."""
        return int(attribute(self.node, "group") or 1) if self.node.op == "Conv" else 1

    @property
    def inputs(self) -> int:
        """Inputs a group."""
        return self.shape[0] if self.transposed else int(np.prod(self.shape[1:]))

    @property
    def transposed(self) -> bool:
        """Whether the stored weight is [inputs, outputs]."""
        if self.node.op == "Conv":
            return False
        return self.node.op == "MatMul" or not attribute(self.node, "transB")

    def matrices(self, weight: Array) -> Float32:
        """``weight`` as the matrices."""
        matrix = np.asarray(weight, np.float32)
        if self.transposed:
            return np.ascontiguousarray(matrix.T)[None]
        return np.asarray(matrix.reshape(self.groups, self.shape[0] // self.groups, -1))

    def weight(self, matrices: NDArray[Any]) -> NDArray[Any]:
        """The inverse of :meth:`matrices`."""
        if self.transposed:
            return np.ascontiguousarray(matrices[0].T)
        return matrices.reshape(self.shape)

    def rows(self, x: Array, count: int, random: np.random.Generator, around: int = 0) -> Array:
        """At most ``count`` rows [groups, count, inputs a group] of the operand ``x``.

        ``around`` is what ``x`` is padded with: the zero point, where it is stored.
        """
        if self.node.op == "Conv":
            return self._patches(x, count, random, around)
        flat = x.reshape(-1, np.shape(x)[-1])
        return flat[_choice(len(flat), count, random)][None]

    def _patches(self, x: Array, count: int, random: np.random.Generator, around: int) -> Array:
        window = self._window(x)
        x = np.pad(
            x,
            [(0, 0), (0, 0), *((axis.before, axis.after) for axis in window)],
            constant_values=around,
        )
        places = (x.shape[0], *(axis.places for axis in window))
        batch, *corner = np.unravel_index(_choice(int(np.prod(places)), count, random), places)
        taps = []
        for tap in np.ndindex(*self.shape[2:]):
            place = tuple(
                corner[i] * axis.stride + tap[i] * axis.dilation for i, axis in enumerate(window)
            )
            taps.append(x[(batch, slice(None)) + place])  # noqa: RUF005 - no * in a subscript of 3.10
        found = np.stack(taps, axis=-1)  # [rows, channels, taps]
        found = found.reshape(len(found), self.groups, -1)
        return np.ascontiguousarray(found.transpose(1, 0, 2))

    def sum_of_rows(self, x: Float32) -> tuple[Float64, int]:
        """The sum [groups, inputs a group] of all rows of ``x``, and how many there are.

        It is found without the rows: by how often each place of ``x`` is read by each tap.
        """
        if self.node.op != "Conv":
            flat = x.reshape(-1, x.shape[-1])
            return flat.sum(axis=0, dtype=np.float64)[None], len(flat)
        window, sums = self._window(x), x
        for index in reversed(range(len(window))):
            sums = np.tensordot(sums, window[index].reads, axes=(2 + index, 0))
        sums = sums.transpose(0, 1, *reversed(range(2, sums.ndim)))  # [batch, channels, taps...]
        count = x.shape[0] * int(np.prod([axis.places for axis in window]))
        return sums.sum(axis=0, dtype=np.float64).reshape(self.groups, -1), count

    def _window(self, x: Array) -> list[_Axis]:
        """How the window of a Conv moves over each axis of ``x`` behind the channels."""
        taps = self.shape[2:]
        strides = attribute(self.node, "strides") or [1] * len(taps)
        dilations = attribute(self.node, "dilations") or [1] * len(taps)
        pads = attribute(self.node, "pads") or [0] * (2 * len(taps))
        return [
            _axis(size, taps[i], strides[i], dilations[i], int(pads[i]), int(pads[i + len(taps)]))
            for i, size in enumerate(x.shape[2:])
        ]


@dataclass(frozen=True)
class _Axis:
    """One axis of a Conv: its ``size``, the ``taps`` of the window, how that moves, the padding."""

    size: int
    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def places(self) -> int:
        """Where the window can stand."""
        reach = self.dilation * (self.taps - 1)
        return (self.size + self.before + self.after - reach - 1) // self.stride + 1

    @functools.cached_property
    def reads(self) -> Float32:
        """How often each element is read by each tap: [size, taps], of 0 and 1."""
        found = np.zeros((self.size, self.taps), np.float32)
        for tap in range(self.taps):
            read = np.arange(self.places) * self.stride + tap * self.dilation - self.before
            found[read[(read >= 0) & (read < self.size)], tap] = 1
        return found


@functools.lru_cache(maxsize=64)
def _axis(size: int, taps: int, stride: int, dilation: int, before: int, after: int) -> _Axis:
    return _Axis(size, taps, stride, dilation, before, after)


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
