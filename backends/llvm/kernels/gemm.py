"""The register-tiled matrix product that convolutions and matmuls are made of.

Rows are output pixels, columns output channels.  A tile of ``rows x vectors`` int32 accumulators
stays in registers while the inner loop walks the products; the epilogue follows in place.  How the
products of one row are laid out is a :class:`Walk`; where a row begins is the caller's business.

The inner loops, all exact (see ``schedule.Inner``):

* ``dot``: four activation bytes are broadcast and multiplied with four weights a lane.
* ``pairs``: ``vpmaddubsw`` adds two byte products to an int16 that provably cannot saturate, then
  ``vpmaddwd`` with ones adds two of those to an int32.
* ``partners``: two groups of four products whose 16-bit sums cannot saturate together are added in
  16 bits before ``vpmaddwd`` widens them (``pairing.py``); groups without a partner go the way of
  ``pairs``.  A table of offsets for each column tile says where every group's activations are.
* ``mixed``: ``partners``, and groups whose pairs can saturate go the way of ``widened``.
* ``widened``: activations were widened to int16 when they were copied, weights are widened as they
  are loaded, and ``vpmaddwd`` adds two 16-bit products to an int32.

Those of AArch64 (``dot``, ``long``, ``matrix``) are in ``vector_products.py``.

The scheme of register tiles over packed panels is that of Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication" (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import I8, I16, I32, Index, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.kernels.epilogue import EpilogueWriter, Place
from qcc.backends.llvm.kernels.panels import Panels
from qcc.backends.llvm.kernels.vector_loop import Row
from qcc.backends.llvm.kernels.vector_products import VectorProducts
from qcc.backends.llvm.schedule import GemmSchedule, split_rows


@dataclass(frozen=True)
class Walk:
    """The products of one row as ``outer x middle`` runs of ``quads`` groups of four.

    Run ``(i, j)`` begins ``i * outer_bytes + j * middle_bytes`` bytes after the row's pointer.
    """

    quads: int
    outer: int = 1
    outer_bytes: int = 0
    middle: int = 1
    middle_bytes: int = 0

    def offsets(self) -> NDArray[np.int32]:
        """Byte offset of every group of four products from the row's pointer."""
        outer = np.arange(self.outer)[:, None, None] * self.outer_bytes
        middle = np.arange(self.middle)[None, :, None] * self.middle_bytes
        quad = 4 * np.arange(self.quads)[None, None, :]
        return (outer + middle + quad).astype(np.int32).reshape(-1)

    @property
    def total_quads(self) -> int:
        """Groups of four products of a whole row."""
        return self.quads * self.outer * self.middle


@dataclass(frozen=True)
class Sources:
    """The rows of a tile: in the form that the inner loop reads, and widened (``mixed`` only)."""

    rows: Sequence[Row]
    widened: Sequence[Row]


class GemmWriter:
    """Writes tiles of one matrix product into the function that ``k`` builds."""

    def __init__(
        self,
        k: LoopBuilder,
        panels: Panels,
        walk: Walk,
        schedule: GemmSchedule,
        epilogue: EpilogueWriter,
    ) -> None:
        self.k, self.isa, self.panels, self.walk = k, panels.isa, panels, walk
        self.schedule, self.epilogue = schedule, epilogue

    def rows_of_tile(self, m: int) -> tuple[int, int, int]:
        """``split_rows`` of ``m`` rows with this schedule."""
        return split_rows(m, self.schedule.rows)

    def columns(
        self, begin: Index, end: Index, room: int, body: Callable[[Index, int, int], None]
    ) -> None:
        """``body(tile, vectors, writable channels)`` for the column tiles in ``[begin, end)``.

        ``room``: channels that may be written.  Tiles that fit it whole share one loop; the last
        tile gets its own code when it is narrower or reaches past the room.
        """
        k, tiles, width = self.k, self.panels.tiles, self.schedule.vectors
        channels = width * self.isa.lanes
        whole = min(sum(count == width for _, count in tiles), room // channels)
        if whole:
            stop = k.minimum(end, whole)
            k.loop(begin, stop, lambda t: body(t, width, channels), name="columns")
        if whole == len(tiles):
            return
        if isinstance(end, int):
            body(whole, tiles[-1][1], room - whole * channels)
            return
        with k.when(k.ir.icmp_signed("==", end, k.index(len(tiles)))):
            body(whole, tiles[-1][1], room - whole * channels)

    def tile(
        self,
        sources: Sources,
        weights: Value,
        column: Index,
        vectors: int,
        first_vector: Index,
        places: Callable[[], Sequence[Place]],
    ) -> None:
        """One tile: products, then epilogue.

        ``weights`` points at the group's weights; ``first_vector`` is the number of the tile's
        first accumulator vector among all groups'.
        """
        k, rows = self.k, sources.rows
        offset = k.mul(column, self.schedule.vectors * self.panels.vector_bytes)
        panel = k.at(weights, offset)
        bias = self.epilogue.bias(first_vector, vectors)
        start = [bias[s] for _ in rows for s in range(vectors)]
        if self.panels.sorted:
            tables = k.at(weights, self.panels.tables_offset)
            table = k.at(tables, k.mul(column, self.panels.table_bytes))
            accumulators = self._sorted(sources, panel, table, start)
        else:
            accumulators = self.products(rows, panel, start)
        lines = [accumulators[r * vectors : (r + 1) * vectors] for r in range(len(rows))]
        self.epilogue.finish(lines, first_vector, places())

    def products(self, rows: Sequence[Row], panel: Value, accumulators: list[Value]) -> list[Value]:
        """``accumulators`` (row by row) and the products of ``rows`` with one column tile."""
        k, walk = self.k, self.walk
        vectors = len(accumulators) // len(rows)
        run_bytes = walk.quads * vectors * self.panels.quad_bytes

        def run(offset: Index, number: Index, values: Sequence[Value]) -> list[Value]:
            weights = k.at(panel, k.mul(number, run_bytes))
            moved = [Row(k.at(row.pointer, offset), row.offset) for row in rows]
            return self._run(moved, weights, list(values))

        def middle(i: Index, *values: Value) -> list[Value]:
            return k.loop(
                0,
                walk.middle,
                lambda j, *inner: run(
                    k.add(k.mul(i, walk.outer_bytes), k.mul(j, walk.middle_bytes)),
                    k.add(k.mul(i, walk.middle), j),
                    inner,
                ),
                carried=values,
                name="taps",
            )

        return k.loop(0, walk.outer, middle, carried=accumulators, name="tap_rows")

    def _run(self, rows: Sequence[Row], weights: Value, accumulators: list[Value]) -> list[Value]:
        """One run of products.

        Sums must have one addition a turn: LLVM would reassociate longer ones and spill them.  The
        dot product is one instruction, so its loop may be unrolled.
        """
        k, inner = self.k, self.panels.inner
        vectors = len(accumulators) // len(rows)
        if self.isa.architecture == "aarch64":
            products = VectorProducts(k, self.panels, rows, weights, vectors)
            return products.run(self.walk.quads, accumulators)
        turns = self.walk.quads * (2 if inner == "widened" else 1)
        unroll = min(turns, self._unroll(len(accumulators), vectors))
        step = {"dot": self._dot, "pairs": self._pairs, "widened": self._widened}[inner]

        def body(turn: Index, *values: Value) -> list[Value]:
            result = list(values)
            for i in range(unroll):
                step(rows, weights, k.add(turn, i), vectors, result)
            return result

        whole = turns // unroll * unroll
        accumulators = k.loop(0, whole, body, step=unroll, carried=accumulators, name="products")
        for turn in range(whole, turns):
            step(rows, weights, turn, vectors, accumulators)
        return accumulators

    def _unroll(self, accumulators: int, vectors: int) -> int:
        """Groups of products a turn: more than one only where registers suffice."""
        if self.panels.inner != "dot":
            return 1
        return 2 if accumulators + 2 * vectors < self.isa.vector_registers else 1

    def _sorted(
        self, sources: Sources, panel: Value, table: Value, accumulators: list[Value]
    ) -> list[Value]:
        """Partners, then single groups with safe pairs, then the pairs of the others."""
        k = self.k
        vectors = len(accumulators) // len(sources.rows)
        size = vectors * self.isa.vector_bytes
        couples, singles = (k.index(k.load(I32, table, 4 * i, align=4)) for i in range(2))
        offsets = k.at(table, 8)

        def together(number: Index, *values: Value) -> list[Value]:
            result = list(values)
            rows = [self._moved(sources.rows, offsets, k.add(k.mul(number, 2), i)) for i in (0, 1)]
            self._partners(rows, k.at(panel, k.mul(number, 2 * size)), vectors, result)
            return result

        def pairs(number: Index, *values: Value) -> list[Value]:
            result = list(values)
            rows = self._moved(sources.rows, offsets, number)
            self._pairs(rows, k.at(panel, k.mul(number, size)), 0, vectors, result)
            return result

        def widened(number: Index, *values: Value) -> list[Value]:
            result = list(values)
            rows = self._moved(sources.widened, offsets, number)
            self._widened(rows, k.at(panel, k.mul(number, size // 2)), 0, vectors, result)
            return result

        if self.panels.paired:
            accumulators = k.loop(0, couples, together, carried=accumulators, name="partners")
            groups = k.mul(couples, 2)
            panel, offsets = k.at(panel, k.mul(groups, size)), k.at(offsets, k.mul(groups, 4))
            singles_end = k.add(groups, singles)
        else:
            singles_end = singles
        accumulators = k.loop(0, singles, pairs, carried=accumulators, name="single")
        if self.panels.inner == "partners":
            return accumulators
        panel, offsets = k.at(panel, k.mul(singles, size)), k.at(offsets, k.mul(singles, 4))
        count = k.mul(k.sub(self.panels.quads, singles_end), 2)
        return k.loop(0, count, widened, carried=accumulators, name="unsafe")

    def _partners(
        self, rows: Sequence[Sequence[Row]], weights: Value, vectors: int, acc: list[Value]
    ) -> None:
        """``rows[i]`` are the rows at group ``i`` of a couple."""
        k, isa = self.k, self.isa
        size, octets = isa.vector_bytes, vector(I8, isa.vector_bytes)
        ones = constant(vector(I16, size // 2), 1)
        b = [
            [k.load(octets, weights, (i * vectors + s) * size, align=size) for s in range(vectors)]
            for i in (0, 1)
        ]
        for r in range(len(rows[0])):
            a = [self._broadcast(rows[i][r], 0, octets) for i in (0, 1)]
            for s in range(vectors):
                sums = [
                    primitives.call(k, isa, "multiply_add_bytes", a[i], b[i][s]) for i in (0, 1)
                ]
                both = k.ir.add(*sums)
                i = r * vectors + s
                acc[i] = k.ir.add(acc[i], primitives.call(k, isa, "multiply_add_pairs", both, ones))

    def _moved(self, rows: Sequence[Row], offsets: Value, number: Index) -> list[Row]:
        """``rows`` moved by entry ``number`` of a table of offsets."""
        k = self.k
        offset = k.index(k.load(I32, offsets, k.mul(number, 4), align=4))
        return [Row(k.at(row.pointer, offset), row.offset) for row in rows]

    def _broadcast(self, row: Row, offset: Index, type_: Value) -> Value:
        k = self.k
        word = k.load(I32, row.pointer, k.add(offset, row.offset))
        return k.ir.bitcast(k.splat(word, self.isa.lanes), type_)

    def _dot(
        self, rows: Sequence[Row], weights: Value, quad: Index, vectors: int, acc: list[Value]
    ) -> None:
        k, isa = self.k, self.isa
        size, octets = isa.vector_bytes, vector(I8, isa.vector_bytes)
        base = k.mul(quad, vectors * self.panels.quad_bytes)
        parts = [
            [
                k.load(octets, weights, k.add(base, (part * vectors + s) * size), align=size)
                for s in range(vectors)
            ]
            for part in range(self.panels.parts)
        ]
        for r, row in enumerate(rows):
            a = self._broadcast(row, k.mul(quad, 4), octets)
            for part in parts:
                for s in range(vectors):
                    i = r * vectors + s
                    acc[i] = primitives.call(k, isa, "dot_unsigned_signed", acc[i], a, part[s])

    def _pairs(
        self, rows: Sequence[Row], weights: Value, quad: Index, vectors: int, acc: list[Value]
    ) -> None:
        k, isa = self.k, self.isa
        size, octets = isa.vector_bytes, vector(I8, isa.vector_bytes)
        ones = constant(vector(I16, size // 2), 1)
        base = k.mul(quad, vectors * size)
        b = [k.load(octets, weights, k.add(base, s * size), align=size) for s in range(vectors)]
        for r, row in enumerate(rows):
            a = self._broadcast(row, k.mul(quad, 4), octets)
            for s in range(vectors):
                i = r * vectors + s
                pairs = primitives.call(k, isa, "multiply_add_bytes", a, b[s])
                acc[i] = k.ir.add(
                    acc[i], primitives.call(k, isa, "multiply_add_pairs", pairs, ones)
                )

    def _widened(
        self, rows: Sequence[Row], weights: Value, pair: Index, vectors: int, acc: list[Value]
    ) -> None:
        k, isa = self.k, self.isa
        halves = vector(I16, isa.vector_bytes // 2)
        size = self.panels.quad_bytes // 2
        stored = halves if self.panels.parts > 1 else vector(I8, size)
        base = k.mul(pair, vectors * size)
        b = [k.load(stored, weights, k.add(base, s * size), align=16) for s in range(vectors)]
        if self.panels.parts == 1:
            b = [k.ir.sext(value, halves) for value in b]
        for r, row in enumerate(rows):
            a = self._broadcast(row, k.mul(pair, 4), halves)
            for s in range(vectors):
                i = r * vectors + s
                product = primitives.call(k, isa, "multiply_add_pairs", a, b[s])
                acc[i] = k.ir.add(acc[i], product)
