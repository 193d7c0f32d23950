"""Move elements between strided tensors, and fill them: every op that changes no value.

Transpose, slice, pad, reshape, expand, depth-to-space, gather, concat of equal scales and nearest
resizing are all one kernel: sizes, a source view and a target view.  How the elements move follows
from the strides: as runs where both sides are contiguous along one axis, as transposed 128-bit
tiles where each side is contiguous along another one, and one by one otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from qcc.backends.llvm.builder import (
    I8,
    Index,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.backends.llvm.kernels.lanes import interleave, load_first, power_of_two
from qcc.backends.llvm.kernels.nest import Nest, View, activation_view, padded_sizes
from qcc.errors import ConfigError

LANE = 16
"""Bytes of the vectors that are transposed."""

LINE = 64
"""Bytes of a cache line."""

UNROLL = 4
"""Vectors of one turn of a copying loop."""


def _check(sizes: tuple[int, ...], element_bytes: int, views: Sequence[View]) -> None:
    if element_bytes not in (1, 2, 4, 8):
        raise ConfigError(f"Elements of {element_bytes} bytes cannot be copied; use 1, 2, 4 or 8.")
    Nest(sizes, tuple(views))


@dataclass(frozen=True)
class CopyKernel:
    """``target[index] = source[index]`` for every index within ``sizes``.

    Source and target must not overlap, and no two indices may share a target element.  Along the
    axes in ``indexed`` the source has no stride: constant indices say where each element lies
    (gather, nearest resize).  Operands: ``source, [indices<axis>, ...,] target``.  Reads and writes
    exactly the elements.
    """

    sizes: tuple[int, ...]
    source: View
    target: View
    element_bytes: int = 1
    indexed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _check(self.sizes, self.element_bytes, (self.source, self.target))
        if any(self.source.strides[axis] for axis in self.indexed):
            raise ConfigError("An indexed axis of a copy takes its source offsets from a table.")

    @staticmethod
    def between(source: ActivationLayout, target: ActivationLayout) -> CopyKernel:
        """An activation to another layout of the same shape."""
        sizes = padded_sizes(source, target)
        return CopyKernel(sizes, activation_view(source), activation_view(target))

    @property
    def name(self) -> str:
        """Such as ``copy_1x56x56x64``."""
        kind = "gather" if self.indexed else "copy"
        return f"{kind}_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", *(f"indices{axis}" for axis in self.indexed), "target")

    def pack(self, isa: InstructionSet, **offsets: Any) -> Packed:
        """``indices<axis>``: the source's byte offset of each index along that axis."""
        wanted = {f"indices{axis}": self.sizes[axis] for axis in self.indexed}
        if {name: len(values) for name, values in offsets.items()} != wanted:
            raise ConfigError(f"The copy needs tables of these lengths: {wanted}.")
        tables = {name: np.asarray(values, np.int64) for name, values in offsets.items()}
        return {name: np.frombuffer(table.tobytes(), np.uint8) for name, table in tables.items()}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        _CopyWriter(k, isa, self).write()
        return k.finish()


class _CopyWriter:
    """Chooses how elements move, and writes that."""

    def __init__(self, k: LoopBuilder, isa: InstructionSet, kernel: CopyKernel) -> None:
        self.k, self.isa, self.size = k, isa, kernel.element_bytes
        self.source, self.target = k.operand("source"), k.operand("target")
        self.tables = [k.operand(f"indices{axis}") for axis in kernel.indexed]
        views = (kernel.source, kernel.target)
        self.nest = _ordered(Nest(kernel.sizes, views, kernel.indexed).merged(), self.size)

    def write(self) -> None:
        nest, size = self.nest, self.size
        strides = nest.run_strides
        if strides == (size, size):
            self._write(nest, UNROLL * self.isa.vector_bytes // size, self._run)
            return
        if strides == (0, size):
            self._write(nest, self.isa.vector_bytes // size, self._spread)
            return
        axes = _tile_axes(nest, size)
        if axes is None and (strides, size) == ((2, 1), 1):
            self._write(nest, self.isa.vector_bytes, self._every_other)
            return
        if axes is None:
            self._write(nest, 1, self._element)
            return
        for part, rows, columns in tile_parts(nest, axes, LANE // size):
            source_stride = nest.views[0].strides[axes[1]]
            target_stride = nest.views[1].strides[axes[0]]
            self._write(part, 1, self._tile(rows, columns, source_stride, target_stride))

    def _write(self, nest: Nest, step: int, body: Callable[[Value, Value, int], None]) -> None:
        """``body(source, target, count)`` with pointers to the first of ``count`` elements."""
        k = self.k

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            moved = [
                k.add(offset, k.mul(first, stride))
                for offset, stride in zip(offsets, nest.run_strides, strict=True)
            ]
            body(k.at(self.source, moved[0]), k.at(self.target, moved[1]), count)

        nest.write(k, step, piece, self.tables)

    def _run(self, source: Value, target: Value, count: int) -> None:
        """Bytes in the largest pieces that fit, each loaded before anything is stored."""
        k, left, done = self.k, count * self.size, 0
        pieces = []
        width = self.isa.vector_bytes
        while left:
            while width > left:
                width //= 2
            type_ = vector(I8, width) if width >= LANE else k.integer(8 * width)
            pieces.append((k.load(type_, source, done), done))
            done, left = done + width, left - width
        for value, offset in pieces:
            k.store(value, target, offset)

    def _every_other(self, source: Value, target: Value, count: int) -> None:
        """Every second byte (one part of a channel shuffle): two loads and a shuffle a piece."""
        k, done, width = self.k, 0, self.isa.vector_bytes
        while done < count:
            while width > count - done:
                width //= 2
            place = k.at(source, 2 * done)
            if width < 4:
                k.store(k.load(I8, place), target, done)
                done += 1
                continue
            # Bytes 0 .. 2 width - 2 and no further: the second load overlaps the first by one.
            parts = [k.load(vector(I8, width), place, i * (width - 1)) for i in range(2)]
            picks = [2 * i if 2 * i < width else 2 * i + 1 for i in range(width)]
            octets = k.shuffle(parts[0], parts[1], picks)
            store_bytes(k, octets, target, done, width)
            done += width

    def _spread(self, source: Value, target: Value, count: int) -> None:
        k = self.k
        element = k.load(k.integer(8 * self.size), source)
        value = k.splat(element, self.isa.vector_bytes // self.size)
        octets = k.ir.bitcast(value, vector(I8, self.isa.vector_bytes))
        store_bytes(k, octets, target, 0, count * self.size)

    def _element(self, source: Value, target: Value, count: int) -> None:
        del count
        self.k.store(self.k.load(self.k.integer(8 * self.size), source), target)

    def _tile(
        self, rows: int, columns: int, source_stride: int, target_stride: int
    ) -> Callable[[Value, Value, int], None]:
        """``rows`` pieces of ``columns`` contiguous source elements become the target's columns."""
        k, size = self.k, self.size
        element, lanes = k.integer(8 * size), LANE // size

        def tile(source: Value, target: Value, count: int) -> None:
            del count
            loaded = [
                load_first(k, element, lanes, source, r * source_stride, columns)
                for r in range(rows)
            ]
            group = power_of_two(rows)
            loaded += [constant(loaded[0].type, 0)] * (group - rows)
            together = lanes // group
            for i, result in enumerate(interleave(k, loaded)):
                octets = k.ir.bitcast(result, vector(I8, LANE))
                for j in range(min(together, columns - i * together)):
                    width = group * size
                    piece = k.shuffle(octets, None, range(j * width, (j + 1) * width))
                    place = (i * together + j) * target_stride
                    store_bytes(k, piece, target, place, rows * size)

        return tile


def _ordered(nest: Nest, size: int) -> Nest:
    """The nest with its axes in the target's order, the longest strides first.

    The last axis is the one along which the target is contiguous, if there is one; it is a run if
    the source is contiguous along it, too, or stands still.  Indexed axes come first: a run cannot
    be indexed.
    """

    def key(axis: int) -> tuple[bool, bool, int]:
        stride = nest.views[1].strides[axis]
        return axis not in nest.indexed, stride == size, -abs(stride)

    order = sorted(range(len(nest.sizes)), key=key)
    views = tuple(view.permuted(order) for view in nest.views)
    sizes = tuple(nest.sizes[axis] for axis in order)
    indexed = tuple(order.index(axis) for axis in nest.indexed)
    return Nest(sizes, views, indexed).merged() if not indexed else Nest(sizes, views, indexed)


def _tile_axes(nest: Nest, size: int) -> tuple[int, int] | None:
    """``(axis contiguous in the source, axis contiguous in the target)``, if there are both."""
    axes = [axis for axis in range(len(nest.sizes)) if axis not in nest.indexed]
    source = [a for a in axes if nest.views[0].strides[a] == size and nest.sizes[a] > 1]
    target = [a for a in axes if nest.views[1].strides[a] == size and nest.sizes[a] > 1]
    return (source[0], target[0]) if source and target and source[0] != target[0] else None


def tile_parts(nest: Nest, axes: tuple[int, int], lanes: int) -> list[tuple[Nest, int, int]]:
    """Nests of tiles ``(nest, rows, columns)``: the whole tiles and the remainders of both axes.

    Each is a nest over the other axes and the tiles, with a run of one; the axis with fewer tiles
    is the inner one, so that the cache lines of both sides are finished soon.  Tiles that fill one
    cache line of the target come one after the other: its lines are often so far apart that only a
    few of them fit in a cache.
    """
    first = [0] * len(nest.sizes)
    others = [axis for axis in range(len(nest.sizes)) if axis not in axes]
    parts = []
    for source_start, source_tiles, columns, _ in _cuts(nest.sizes[axes[0]], lanes, 1):
        for target_start, blocks, rows, together in _cuts(nest.sizes[axes[1]], lanes, LINE // LANE):
            first[axes[0]], first[axes[1]] = source_start, target_start
            tiles = [(axes[0], source_tiles, columns), (axes[1], blocks, rows * together)]
            tiles.sort(key=lambda tile: -tile[1])
            tiles.append((axes[1], together, rows))
            sizes = (*(nest.sizes[a] for a in others), *(n for _, n, _ in tiles), 1)
            views = []
            for view in nest.views:
                steps = [view.strides[a] for a in others]
                steps += [view.strides[a] * step for a, _, step in tiles]
                views.append(View(view.shifted(first).offset, (*steps, 0)))
            indexed = tuple(others.index(axis) for axis in nest.indexed)
            parts.append((Nest(sizes, tuple(views), indexed), rows, columns))
    return parts


def _cuts(size: int, lanes: int, together: int) -> list[tuple[int, int, int, int]]:
    """``(first element, blocks, elements of a tile, tiles of a block)`` that cover an axis."""
    found, first = [], 0
    for length, tiles in ((lanes, together), (lanes, 1), (size % lanes, 1)):
        blocks = (size - first) // (length * tiles) if length else 0
        if blocks:
            found.append((first, blocks, length, tiles))
            first += blocks * length * tiles
    return found


@dataclass(frozen=True)
class FillKernel:
    """``target[index] = value`` for every index within ``sizes``.  Operands: ``value, target``."""

    sizes: tuple[int, ...]
    target: View
    element_bytes: int = 1

    def __post_init__(self) -> None:
        _check(self.sizes, self.element_bytes, (self.target,))

    @property
    def name(self) -> str:
        """Such as ``fill_1x8x8x64``."""
        return f"fill_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("value", "target")

    def pack(self, isa: InstructionSet, *, value: Any) -> Packed:
        """``value``: a numpy scalar of ``element_bytes`` bytes (an int is a uint8)."""
        scalar = np.asarray(value, np.uint8) if isinstance(value, int) else np.asarray(value)
        if scalar.dtype.itemsize != self.element_bytes or scalar.size != 1:
            raise ConfigError(f"The fill needs one value of {self.element_bytes} bytes.")
        count = isa.vector_bytes // self.element_bytes
        return {"value": np.frombuffer(scalar.tobytes() * count, np.uint8)}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        size = self.element_bytes
        value = k.load(vector(I8, isa.vector_bytes), k.operand("value"), align=isa.vector_bytes)
        nest = _ordered(Nest(self.sizes, (self.target, self.target)).merged(), size)
        stride = nest.run_strides[1]
        contiguous = stride == size

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            place = k.add(offsets[1], k.mul(first, stride))
            store_bytes(k, value, k.operand("target"), place, count * size)

        nest.write(k, isa.vector_bytes // size if contiguous else 1, piece)
        return k.finish()


def border_parts(
    inner: Sequence[int], before: Sequence[int], after: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The border of a padded tensor as disjoint blocks ``(first index, sizes)``.

    ``inner`` are the sizes before padding.  Together with the inner block they cover the padded
    tensor; a pad op is a copy and one fill for each of them.
    """
    outer = [b + n + a for b, n, a in zip(before, inner, after, strict=True)]
    parts = []
    for axis in range(len(outer)):
        for start, size in ((0, before[axis]), (before[axis] + inner[axis], after[axis])):
            first = (*before[:axis], start, *[0] * (len(outer) - axis - 1))
            sizes = (*inner[:axis], size, *outer[axis + 1 :])
            if prod(sizes):
                parts.append((tuple(first), tuple(sizes)))
    return parts
