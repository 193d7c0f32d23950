"""Loop nests over strided operands: the frame of every kernel that is not a matrix product.

A nest has sizes and, for each operand, a :class:`View` with one stride in bytes an axis.  Axes that
lie one after the other in every operand are merged, so that a tensor without gaps is one long run.
The last axis is the run; it is walked in steps of a vector or more, the others are loops, and
threads share out the leading ones (or pieces of the run, where there are few).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from qcc.backends.llvm.builder import I64, Index, LoopBuilder, Value
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.errors import ConfigError

Body = Callable[[Sequence[Index], Index, int], None]
"""``body(offsets, first, count)``: elements ``first .. first + count`` of one run.

``offsets`` are the byte offsets of element 0 of the run, one a view; ``count`` is known now.
"""

ENOUGH_ITEMS = 32
"""With so many work items, threads are busy about equally long."""

LEAST_PIECE = 2048
"""Runs are cut for threads into pieces of at least so many elements."""


@dataclass(frozen=True)
class View:
    """Where an element lies: ``offset + sum(index[axis] * strides[axis])`` bytes after a pointer.

    Strides may be zero (broadcast) or negative (reversal).
    """

    offset: int
    strides: tuple[int, ...]

    def shifted(self, indices: Sequence[int]) -> View:
        """The view whose element 0 is this view's element ``indices``."""
        moved = sum(i * s for i, s in zip(indices, self.strides, strict=True))
        return View(self.offset + moved, self.strides)

    def permuted(self, order: Sequence[int]) -> View:
        """The view with axis ``order[i]`` of this one as axis ``i``."""
        return View(self.offset, tuple(self.strides[axis] for axis in order))


def dense_view(sizes: Sequence[int], element_bytes: int) -> View:
    """A tensor of ``sizes`` without gaps in row-major order."""
    strides = [element_bytes * prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    return View(0, tuple(strides))


def batch_pointers(
    k: LoopBuilder, batch: Sequence[int], number: Index, operands: Sequence[tuple[str, View]]
) -> list[Value]:
    """Where entry ``number`` of a batch of sizes ``batch`` begins in each operand.

    The views' leading axes are the batch's.
    """
    offsets: list[Index] = [view.offset for _, view in operands]
    for axis in reversed(range(len(batch))):
        index = k.mod(number, batch[axis]) if axis else number
        number = k.div(number, batch[axis])
        for i, (_, view) in enumerate(operands):
            offsets[i] = k.add(offsets[i], k.mul(index, view.strides[axis]))
    return [
        k.at(k.operand(name), offset) for (name, _), offset in zip(operands, offsets, strict=True)
    ]


def broadcast_view(shape: Sequence[int], sizes: Sequence[int], element_bytes: int) -> View:
    """A dense tensor of ``shape`` read as if it had ``sizes`` (numpy's broadcasting).

    Raises :class:`ConfigError` when ``shape`` does not broadcast to ``sizes``.
    """
    padded = (1,) * (len(sizes) - len(shape)) + tuple(shape)
    fits = len(padded) == len(sizes) and all(
        a in (1, b) for a, b in zip(padded, sizes, strict=True)
    )
    if not fits:
        raise ConfigError(f"Shape {tuple(shape)} does not broadcast to {tuple(sizes)}.")
    dense = dense_view(padded, element_bytes).strides
    return View(0, tuple(0 if n == 1 else s for n, s in zip(padded, dense, strict=True)))


def activation_sizes(layout: ActivationLayout) -> tuple[int, int, int, int]:
    """``(batch, height, width, channels)``."""
    return layout.batch, layout.height, layout.width, layout.channels


def activation_view(layout: ActivationLayout, channel: int = 0) -> View:
    """The pixels inside the halo as axes ``[batch, height, width, channel]``."""
    strides = (layout.image_bytes, layout.row_bytes, layout.channel_stride, 1)
    return View(layout.interior_offset + channel, strides)


def padded_sizes(*layouts: ActivationLayout) -> tuple[int, int, int, int]:
    """Sizes for a kernel that treats every byte of a pixel alike.

    The padding counts as channels, so that rows (and images without halo) are runs without gaps.
    Raises :class:`ConfigError` on unequal shapes.
    """
    sizes = activation_sizes(layouts[0])
    if any(activation_sizes(layout) != sizes for layout in layouts):
        raise ConfigError(f"The activations {layouts} must have one shape.")
    return (*sizes[:3], layouts[0].padded_channels)


@dataclass(frozen=True)
class Nest:
    """Axes ``sizes`` with one view an operand.

    Along the axes in ``indexed`` the first view has no stride: a table of int64 byte offsets says
    where each index lies (its pointer is given to :meth:`write`).
    """

    sizes: tuple[int, ...]
    views: tuple[View, ...]
    indexed: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(len(view.strides) != len(self.sizes) for view in self.views):
            raise ConfigError(f"Each view of {self.sizes} must have {len(self.sizes)} strides.")
        if min(self.sizes, default=1) < 1:
            raise ConfigError(f"The sizes {self.sizes} hold an empty axis; there is nothing to do.")

    def merged(self, units: Sequence[int] | None = None) -> Nest:
        """The same elements with as few axes as possible (at least one, which is not indexed).

        ``units`` are the bytes of one element, one a view: every view's run then has that stride
        or 0 (where no axis has, the run is a single element).
        """
        sizes: list[int] = []
        strides: list[tuple[int, ...]] = []
        indexed: list[int] = []
        for axis, size in enumerate(self.sizes):
            steps = tuple(view.strides[axis] for view in self.views)
            if axis in self.indexed:
                indexed.append(len(sizes))
            elif size == 1:
                continue
            elif sizes and len(sizes) - 1 not in indexed and strides[-1] == _times(steps, size):
                sizes[-1], strides[-1] = sizes[-1] * size, steps
                continue
            sizes.append(size)
            strides.append(steps)
        fits = bool(sizes) and len(sizes) - 1 not in indexed
        if fits and units is not None:
            fits = all(s in (0, unit) for s, unit in zip(strides[-1], units, strict=True))
        if not fits:
            sizes.append(1)
            strides.append((0,) * len(self.views) if units is None else tuple(units))
        views = [
            View(view.offset, tuple(steps[i] for steps in strides))
            for i, view in enumerate(self.views)
        ]
        return Nest(tuple(sizes), tuple(views), tuple(indexed))

    @property
    def run_strides(self) -> tuple[int, ...]:
        """Bytes from one element of a run to the next, one a view."""
        return tuple(view.strides[-1] for view in self.views)

    def write(
        self,
        k: LoopBuilder,
        step: int,
        body: Body,
        tables: Sequence[Value] = (),
    ) -> None:
        """Write the loops; ``body`` gets pieces of ``step`` elements and one shorter rest a run.

        ``tables`` point at the int64 tables of the ``indexed`` axes.  Call it on a merged nest.
        """
        _Writer(k, self, step, body, tables).write()


def _times(steps: tuple[int, ...], size: int) -> tuple[int, ...]:
    return tuple(step * size for step in steps)


class _Writer:
    """The loops of one nest."""

    def __init__(
        self, k: LoopBuilder, nest: Nest, step: int, body: Body, tables: Sequence[Value]
    ) -> None:
        self.k, self.nest, self.step, self.body = k, nest, step, body
        self.tables = dict(zip(nest.indexed, tables, strict=True))
        outer = nest.sizes[:-1]
        self.run = nest.sizes[-1]
        self.lead = 0
        while self.lead < len(outer) and prod(outer[: self.lead]) < 2 * ENOUGH_ITEMS:
            self.lead += 1
        self.piece = self._piece(prod(outer))

    def _piece(self, runs: int) -> int:
        """Elements of a run that one work item takes."""
        if runs >= ENOUGH_ITEMS or self.run < 2 * LEAST_PIECE:
            return self.run
        pieces = min(-(-2 * ENOUGH_ITEMS // runs), self.run // LEAST_PIECE)
        return -(-self.run // (pieces * self.step)) * self.step

    def write(self) -> None:
        k, sizes = self.k, self.nest.sizes
        pieces = -(-self.run // self.piece)

        def item(number: Index) -> None:
            piece, rest = k.mod(number, pieces), k.div(number, pieces)
            offsets: list[Index] = [view.offset for view in self.nest.views]
            for axis in reversed(range(self.lead)):
                offsets = self._moved(offsets, axis, k.mod(rest, sizes[axis]) if axis else rest)
                rest = k.div(rest, sizes[axis])
            self._inner(self.lead, offsets, piece)

        begin, end = k.thread_range(prod(sizes[: self.lead]) * pieces)
        k.loop(begin, end, item, name="items")

    def _moved(self, offsets: Sequence[Index], axis: int, index: Index) -> list[Index]:
        k = self.k
        result = []
        for number, (view, offset) in enumerate(zip(self.nest.views, offsets, strict=True)):
            if number == 0 and axis in self.tables:
                moved = k.load(I64, self.tables[axis], k.mul(index, 8), align=8)
            else:
                moved = k.mul(index, view.strides[axis])
            result.append(k.add(offset, moved))
        return result

    def _inner(self, axis: int, offsets: Sequence[Index], piece: Index) -> None:
        if axis == len(self.nest.sizes) - 1:
            self._run(offsets, piece)
            return
        self.k.loop(
            0,
            self.nest.sizes[axis],
            lambda i: self._inner(axis + 1, self._moved(offsets, axis, i), piece),
            name=f"axis{axis}",
        )

    def _run(self, offsets: Sequence[Index], piece: Index) -> None:
        k, run, step = self.k, self.run, self.step
        whole, rest = run // step * step, run % step
        first, stop = (
            (0, whole)
            if self.piece == run
            else (k.mul(piece, self.piece), k.minimum(k.mul(k.add(piece, 1), self.piece), whole))
        )
        k.loop(first, stop, lambda i: self.body(offsets, i, step), step=step, name="run")
        if not rest:
            return
        if self.piece == run:
            self.body(offsets, whole, rest)
            return
        last = k.ir.icmp_signed("==", k.index(piece), k.index(-(-run // self.piece) - 1))
        with k.when(last):
            self.body(offsets, whole, rest)
