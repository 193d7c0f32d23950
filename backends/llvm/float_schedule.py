"""How float32 convolutions are cut into register tiles: pure functions of shapes.

A tile keeps ``rows x vectors`` accumulators in registers.  One product is done in a turn of the
inner loop: the model counts what the multipliers and the load ports have to do in it, adds what a
tile costs before and after, and sums over all tiles; the cheapest tile wins.  The constants are
cycles measured on Zen 3.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from qcc.backends.llvm.isa import InstructionSet


@dataclass(frozen=True)
class FloatSchedule:
    """How a convolution is cut.

    ``rows`` x ``vectors``: the most accumulators of a tile, in pixels and in vectors of channels.
    ``block``: lines of pixels (tiles, where there is only one line) that share one pass over the
    weights.  ``chunks``: pieces of the columns, which threads share out beside the blocks.
    ``parts``: into how many pieces a run of products is cut; with more than one, all tiles of a
    block do one piece before the next, and sums wait in the output.
    """

    rows: int
    vectors: int
    block: int
    chunks: int = 1
    parts: int = 1


MULTIPLIERS = 2
"""Vectors that are multiplied and added in a cycle."""
LOADS = 2
"""Vectors that are loaded in a cycle."""
LATENCY = 4
"""Cycles before an accumulator can be added to again."""
TILE_CYCLES = 14.0
"""Pointers, loops and branches of a tile."""
STORE_CYCLES = 2.5
"""What happens to an accumulator before and after the products."""
NEAR_BYTES = 160 * 1024
"""Weights of a panel that the second-level cache holds beside the activations."""
PART_BYTES = 24 * 1024
"""Weights of a part, which the first-level cache holds beside the activations of a tile."""
LEAST_PIXELS = 24
"""With fewer of them, weights are used too rarely to be worth the cut."""
BLOCK_BYTES = 256 * 1024
"""Activations of a block, which fit the second-level cache: each block reads all weights."""
CACHE_LINE = 64
"""Bytes that memory is read in."""
ENOUGH_ITEMS = 16
"""With so many blocks, threads are busy about equally long."""

_TILES: tuple[tuple[int, int], ...] = tuple(
    (rows, vectors)
    for vectors in (1, 2, 3, 4, 6, 8, 12)
    for rows in range(1, 15)
    if rows * vectors <= 28
)


def candidates(isa: InstructionSet, *, depthwise: bool) -> list[tuple[int, int]]:
    """Tiles whose inner loop fits the registers.

    Activations are spread over a vector, and weights that only one row needs are memory operands.
    In a depthwise convolution activations are memory operands, tiles are whole cache lines wide,
    and half of the registers are left to what LLVM loads early.
    """
    found = []
    for rows, vectors in _TILES:
        if depthwise:
            lines = vectors * isa.vector_bytes % CACHE_LINE == 0
            fits = lines and rows * vectors <= isa.vector_registers // 2
        else:
            needed = vectors + 1 if rows > 1 else 1
            if isa.architecture == "aarch64":
                # A vector of each row, and weights of the next steps.
                needed = rows + 4
            fits = rows * vectors + needed <= isa.vector_registers
        if fits:
            found.append((rows, vectors))
    return found


def split_rows(rows: int, tile: int) -> tuple[int, int, int]:
    """``(tiles, height, taller)``: ``tiles`` tiles, the first ``taller`` one row taller."""
    tiles = -(-rows // tile)
    return tiles, rows // tiles, rows % tiles


@dataclass(frozen=True)
class Shape:
    """One convolution as the model sees it.

    ``lines`` of ``length`` output pixels that lie side by side, ``columns`` channels of one of
    ``groups`` groups, ``depth`` products a result, ``run`` of which lie side by side; a pixel has
    ``pixel_bytes`` of input.
    """

    lines: int
    length: int
    columns: int
    depth: int
    run: int
    groups: int
    pixel_bytes: int
    depthwise: bool


@functools.cache
def choose(isa: InstructionSet, shape: Shape) -> FloatSchedule:
    """The cheapest schedule."""
    tiles = candidates(isa, depthwise=shape.depthwise)
    rows, vectors = min(tiles, key=lambda tile: (_cost(isa, shape, *tile), tile))
    count, height, taller = split_rows(shape.length, rows)
    single = shape.lines == 1
    units, pixels = (count, height + bool(taller)) if single else (shape.lines, shape.length)
    panels = -(-shape.columns // (vectors * isa.lanes))
    if shape.depthwise:
        # Every panel reads its own part of all lines, and all of it once.
        block = -(-units // -(-ENOUGH_ITEMS // panels))
    else:
        block = min(units, max(1, BLOCK_BYTES // (shape.pixel_bytes * pixels)))
    items = -(-units // block) * shape.groups
    chunks = min(panels, -(-ENOUGH_ITEMS // items))
    parts = 1 if shape.depthwise else _parts(shape, 4 * vectors * isa.lanes)
    return FloatSchedule(rows, vectors, block, chunks, parts)


def _parts(shape: Shape, width_bytes: int) -> int:
    """Into how many equal parts a run is cut, so that the weights of a part stay near."""
    if shape.depth * width_bytes <= NEAR_BYTES or shape.lines * shape.length < LEAST_PIXELS:
        return 1
    wanted = -(-shape.run * width_bytes // PART_BYTES)
    return next((n for n in range(wanted, 2 * wanted + 1) if shape.run % n == 0), 1)


def _cost(isa: InstructionSet, shape: Shape, rows: int, vectors: int) -> float:
    count, height, taller = split_rows(shape.length, rows)
    whole, rest = divmod(-(-shape.columns // isa.lanes), vectors)
    cycles = 0.0
    for tall, number in ((height + 1, taller), (height, count - taller)):
        for wide, times in ((vectors, whole), (rest, int(rest > 0))):
            if number and times:
                cycles += number * times * _tile_cost(shape, tall, wide)
    return cycles * shape.lines


def _tile_cost(shape: Shape, rows: int, vectors: int) -> float:
    loads = rows * vectors + vectors if shape.depthwise else rows + vectors
    turn = max(rows * vectors / MULTIPLIERS, loads / LOADS, LATENCY)
    return shape.depth * turn + STORE_CYCLES * rows * vectors + TILE_CYCLES
