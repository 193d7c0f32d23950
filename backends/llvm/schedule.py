"""The cost model that chooses tiles for matrix kernels: pure functions of shapes.

A tile keeps ``rows x vectors`` accumulators in registers.  The model counts, for one turn of the
inner loop (four products deep), what the vector multipliers, adders and load ports have to do, adds
an epilogue per tile, and sums over the whole tiles and the remainders; the cheapest tile wins.  The
constants are cycles measured on Zen 3 (AVX2) and Zen 4 (AVX512-VNNI); those of AArch64 follow from
how many instructions of each kind its cores begin in a cycle (``tools/arm_throughput.py``).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal

from qcc.backends.llvm.isa import InstructionSet

Inner = Literal["dot", "long", "matrix", "pairs", "partners", "mixed", "widened"]
"""Inner loops.  ``dot``: one instruction adds four byte products.  ``long``: two byte products are
added in 16 bits, then pairs of those.  ``matrix``: two rows by two channels by eight products.
``pairs``: 8-bit multiply-add of pairs that cannot saturate.  ``partners``: two such groups added in
16 bits where they fit, by a table.  ``widened``: activations and weights widened to 16 bits.
``mixed``: ``partners`` where pairs cannot saturate and ``widened`` elsewhere."""


@dataclass(frozen=True)
class GemmSchedule:
    """How a matrix product is cut.

    ``rows`` x ``vectors``: the accumulator tile.  ``block_tiles``: row tiles that share one pass
    over the weights (and one copy of the activations, where they are copied).  ``chunk_tiles``:
    column tiles of one work item; work items are what threads share out.
    """

    rows: int
    vectors: int
    block_tiles: int
    chunk_tiles: int


@dataclass(frozen=True)
class _InnerCost:
    """Cycles per turn: for each accumulator, row and vector; and registers besides accumulators.

    The latter: ``spare_registers``, and more for each row and vector.  ``pairs_rows``: a tile of an
    odd number of rows takes as much as one with one more.
    """

    accumulator: float
    row: float
    vector: float
    turn: float
    spare_registers: int
    row_registers: int = 0
    vector_registers: int = 1
    pairs_rows: bool = False

    def counted(self, rows: int) -> int:
        """Rows that ``rows`` rows take as much as."""
        return rows + rows % 2 if self.pairs_rows else rows

    def registers(self, rows: int, vectors: int) -> int:
        """Registers of a tile."""
        rows = self.counted(rows)
        more = self.row_registers * rows + self.vector_registers * vectors
        return rows * vectors + more + self.spare_registers


_COSTS: dict[tuple[Inner, int], _InnerCost] = {
    ("widened", 32): _InnerCost(1.22, 0.25, 1.0, 0.6, 2),
    ("pairs", 32): _InnerCost(1.0, 0.25, 0.1, 0.4, 3),
    ("partners", 32): _InnerCost(1.0, 0.15, 0.1, 0.3, 4),
    ("mixed", 32): _InnerCost(1.15, 0.2, 0.5, 1.0, 3),
    ("dot", 64): _InnerCost(1.0, 0.1, 0.2, 0.5, 1),
    ("dot", 32): _InnerCost(0.5, 0.15, 0.3, 0.5, 1),
    ("dot", 16): _InnerCost(0.5, 0.15, 0.15, 0.1, 4, 1, 0),
    ("long", 16): _InnerCost(2.2, 1.2, 0.3, 0.1, 12, 3, 0),
    ("matrix", 16): _InnerCost(0.25, 0.13, 0.1, 0.1, 0, 2, 0, pairs_rows=True),
}

_TILES: tuple[tuple[int, int], ...] = tuple(
    (rows, vectors)
    for vectors in (1, 2, 3, 4, 6, 8)
    for rows in range(1, 15)
    if rows * vectors <= 28
)

_LATENCY = 5.0
"""Cycles before an accumulator can be added to again."""


_PARTNER_GAIN = 0.25
"""What partners save of the multiplications: one of the four of two groups."""

_SPILL = 0.35
"""Cycles a group where partners' weights do not all fit the registers."""


def candidates(isa: InstructionSet, inner: Inner) -> list[tuple[int, int]]:
    """Tiles ``(rows, vectors)`` whose inner loop fits the registers of ``isa``."""
    cost = _COSTS[inner, isa.vector_bytes]
    return [tile for tile in _TILES if cost.registers(*tile) <= isa.vector_registers]


def split_rows(rows: int, tile: int) -> tuple[int, int, int]:
    """``(tiles, height, taller)``: ``tiles`` tiles, the first ``taller`` one row taller."""
    tiles = -(-rows // tile)
    return tiles, rows // tiles, rows % tiles


def _tile_cycles(
    isa: InstructionSet, inner: Inner, rows: int, vectors: int, turns: int, share: float = 0.0
) -> float:
    cost = _COSTS[inner, isa.vector_bytes]
    counted = cost.counted(rows)
    products = cost.accumulator * (1 - _PARTNER_GAIN * share) * counted * vectors
    turn = products + cost.row * counted + cost.vector * vectors + cost.turn
    if share and rows > 1 and rows * vectors + 2 * vectors + 5 > isa.vector_registers:
        turn += _SPILL
    updates = 2 if inner == "widened" else 1
    # Results are narrowed four vectors at a time; smaller pieces need permutations and stores.
    pieces = vectors // 4 + 3 * (vectors % 4 // 2) + 3 * (vectors % 2)
    epilogue = 3.0 * rows * vectors + 1.2 * rows * pieces + 12
    return turns * max(turn, _LATENCY * updates * 0.8) + epilogue


def gemm_cycles(
    isa: InstructionSet,
    inner: Inner,
    tile: tuple[int, int],
    m: int,
    n: int,
    turns: int,
    shares: tuple[float, ...] = (),
) -> float:
    """Predicted cycles of an ``m x n`` product whose inner loop runs ``turns`` times.

    ``shares``: of the groups, those with a partner in column tiles of 1, 2, ... vectors.
    """
    tiles, height, taller = split_rows(m, tile[0])
    vectors = -(-n // isa.lanes)
    total = 0.0
    for width, count in ((tile[1], vectors // tile[1]), (vectors % tile[1], 1)):
        if width and count:
            share = shares[width - 1] if width <= len(shares) else 0.0
            total += count * taller * _tile_cycles(isa, inner, height + 1, width, turns, share)
            total += (
                count * (tiles - taller) * _tile_cycles(isa, inner, height, width, turns, share)
            )
    return total


_BLOCK_BYTES = 96 * 1024
"""Activations of one block of rows: they stay in the second-level cache while weights stream by."""

_WORK_ITEMS = 16
"""Work items to aim for, so that threads can share them evenly."""


@dataclass(frozen=True)
class GemmShape:
    """A matrix product as the cost model sees it: ``m x n`` over ``k`` products per output.

    ``row_bytes``: bytes that one row of activations occupies in the block; ``row_limit``: most rows
    of a tile; ``copied``: each work item copies its rows first, so column chunks repeat the copy;
    ``partners``: shares of groups with a partner in column tiles of 1, 2, ... vectors.
    """

    m: int
    n: int
    k: int
    row_bytes: int
    row_limit: int
    copied: bool
    partners: tuple[float, ...] = ()

    def tiles(self, isa: InstructionSet, inner: Inner) -> list[tuple[int, int]]:
        """Tiles that fit, the one that the model thinks best first."""
        tiles = [tile for tile in candidates(isa, inner) if tile[0] <= self.row_limit]
        vectors = -(-self.n // isa.lanes)
        fitting = [tile for tile in tiles if tile[1] <= vectors] or tiles
        turns = -(-self.k // 4)

        def cycles(tile: tuple[int, int]) -> float:
            return gemm_cycles(isa, inner, tile, self.m, self.n, turns, self.partners)

        return sorted(fitting, key=cycles)

    def schedule(self, isa: InstructionSet, tile: tuple[int, int]) -> GemmSchedule:
        """How the product is cut for a tile."""
        rows, width = tile
        vectors = -(-self.n // isa.lanes)
        row_tiles = split_rows(self.m, rows)[0]
        column_tiles = -(-vectors // width)
        block = max(1, min(row_tiles, _BLOCK_BYTES // (rows * self.row_bytes)))
        if column_tiles <= 2:
            block = min(block, max(1, 16384 // (rows * self.row_bytes)))
        smallest = max(1, (128 if self.copied else 32) // (width * isa.lanes))
        most_chunks = -(-column_tiles // smallest)
        block = min(block, -(-row_tiles // -(-_WORK_ITEMS // most_chunks)))
        blocks = -(-row_tiles // block)
        chunks = min(most_chunks, -(-_WORK_ITEMS // blocks))
        chunk = max(smallest, -(-column_tiles // chunks))
        return GemmSchedule(rows, width, block, min(chunk, column_tiles))


@functools.cache
def gemm_schedule(isa: InstructionSet, inner: Inner, shape: GemmShape) -> GemmSchedule:
    """The schedule that the cost model thinks best."""
    return shape.schedule(isa, shape.tiles(isa, inner)[0])


MEASURED_TILES = 8
"""Tiles that are measured, of those that the model thinks best."""


def alternatives(isa: InstructionSet, inner: Inner, shape: GemmShape) -> list[GemmSchedule]:
    """Schedules worth measuring, the cost model's own first: other tiles, other blocks of rows."""
    tiles = shape.tiles(isa, inner)[:MEASURED_TILES]
    found = [shape.schedule(isa, tile) for tile in tiles]
    first = found[0]
    most = split_rows(shape.m, first.rows)[0]
    blocks = (first.block_tiles // 2, first.block_tiles * 2)
    found += [replace(first, block_tiles=block) for block in blocks if 1 <= block <= most]
    return list(dict.fromkeys(found))
