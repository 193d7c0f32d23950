"""The cost model of convolutions in Winograd's domain, beside that of direct ones."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.schedule import GemmSchedule

POSITIONS = 16
"""Products of a tile of two by two outputs: one matrix product each."""

SCRATCH_BYTES = 200 * 1024
"""What transformed activations and sums of one block may take of the second-level cache."""

ROWS, VECTORS = 6, 2
"""Twelve accumulators, two weights, an activation and a product: all registers of AVX2."""

WORK_ITEMS = 8
"""Work items to aim for: chunks of columns repeat the transform of the activations."""

TURN, TILE, SEEN, RESULT = 1.12, 14.0, 26.0, 24.0
"""Cycles, measured on Zen 3: of a multiplication and its addition, in halves of a cycle each; to
begin and store a tile of sums; to transform 16 channels of a tile, and to transform a vector of
its sums back and requantize it."""

CACHED_BYTES, FAR_BYTES = 384 * 1024, 10.0
"""Weights that stay in the second-level cache; bytes a cycle at which more of them arrive."""


@dataclass(frozen=True)
class WinogradShape:
    """``tiles`` of four pixels, of ``c`` channels each, to ``n`` channels."""

    tiles: int
    c: int
    n: int

    def schedule(self, isa: InstructionSet) -> GemmSchedule:
        """How the products of every position are cut, in tiles as rows."""
        width = min(VECTORS, -(-self.n // isa.lanes))
        tile_bytes = POSITIONS * (2 * -(-self.c // 16) * 16 + width * isa.vector_bytes)
        most = max(ROWS, SCRATCH_BYTES // tile_bytes)
        blocks = -(-self.tiles // most)
        rows = min(ROWS, self.tiles)
        per_block = -(-self.tiles // blocks)
        columns = -(-self.n // (width * isa.lanes))
        chunks = min(columns, -(-WORK_ITEMS // blocks))
        return GemmSchedule(rows, width, -(-per_block // rows), -(-columns // chunks))

    def cycles(self, isa: InstructionSet) -> float:
        """Predicted cycles of the whole convolution."""
        cut = self.schedule(isa)
        vectors = -(-self.n // isa.lanes)
        columns = -(-vectors // cut.vectors)
        height = min(cut.block_tiles * cut.rows, self.tiles)
        blocks = -(-self.tiles // height)
        chunks = -(-columns // cut.chunk_tiles)
        turns = -(-self.c // 4) * 2
        tile = turns * cut.rows * cut.vectors * TURN / 2 + TILE
        row_tiles = blocks * -(-height // cut.rows)
        products = POSITIONS * row_tiles * columns * tile
        transforms = self.tiles * (-(-self.c // 16) * SEEN * chunks + vectors * RESULT)
        weights = 2 * POSITIONS * self.c * self.n
        arriving = blocks * weights / FAR_BYTES if weights > CACHED_BYTES else 0.0
        return max(products, arriving) + transforms
