"""The cost model of convolutions in Winograd's domain, beside that of direct ones."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import STACK_LIMIT
from qcc.backends.llvm.schedule import GemmSchedule

POSITIONS = 16
"""Products of a tile of two by two outputs: one matrix product each."""

SCRATCH_BYTES = 200 * 1024
"""What transformed activations and sums of one block may take of the second-level cache."""

ROWS, VECTORS = (6, 5, 4), 2
"""Rows and vectors of a register tile: 6 x 2 accumulators, two weights, an activation and a product
are all registers of AVX2; with fewer rows, less is computed for nothing where tiles are few."""

WORK_ITEMS = 8
"""Work items to aim for: chunks of columns repeat the transform of the activations."""

TURN, TILE, SEEN, RESULT = 1.25, 18.0, 20.0, 20.0
"""Cycles, measured on Zen 3: of a multiplication and its addition, in halves of a cycle each; to
begin and store a tile of sums; to transform 16 channels of a tile, and to transform a vector of
its sums back and requantize it."""

CACHED_BYTES, FAR_BYTES = 384 * 1024, 4.5
"""Weights that stay in the second-level cache; bytes a cycle at which more of them arrive."""


@dataclass(frozen=True)
class WinogradScratch:
    """The stack memory of one block: ``[position][tile]`` rows of activations, and of sums.

    ``tiles``: those of a block; ``row_bytes`` and ``sum_row``: bytes of a tile and position.
    """

    tiles: int
    row_bytes: int
    sum_row: int

    @property
    def position_bytes(self) -> int:
        """Bytes from the activations of one position to those of the next."""
        return _apart(self.tiles * self.row_bytes)

    @property
    def sum_bytes(self) -> int:
        """Bytes from the sums of one position to those of the next."""
        return _apart(self.tiles * self.sum_row)

    @property
    def size_bytes(self) -> int:
        """All of it, with a tile of results for pixels past the edges."""
        return POSITIONS * (self.position_bytes + self.sum_bytes) + 4 * self.sum_row


def _apart(size: int) -> int:
    """A distance that does not put many rows into the same few cache sets."""
    return size + 64 if size % 1024 == 0 else size


@dataclass(frozen=True)
class WinogradShape:
    """``tiles`` of four pixels, of ``c`` channels each, to ``n`` channels."""

    tiles: int
    c: int
    n: int

    def schedule(self, isa: InstructionSet) -> GemmSchedule:
        """How the products of every position are cut, in tiles as rows."""
        cuts = [self._cut(isa, min(rows, self.tiles)) for rows in ROWS]
        fitting = [cut for cut in cuts if self._fits(isa, cut)] or cuts[-1:]
        return min(fitting, key=lambda cut: self._cycles(isa, cut))

    def fits_stack(self, isa: InstructionSet) -> bool:
        """Whether the scratch memory of a block is no larger than kernels may have."""
        return self._fits(isa, self.schedule(isa))

    def scratch(self, isa: InstructionSet, cut: GemmSchedule) -> WinogradScratch:
        """The scratch memory of a block: whole register tiles."""
        row_bytes = -(-self.c // (isa.vector_bytes // 2)) * isa.vector_bytes
        return WinogradScratch(
            cut.block_tiles * cut.rows, row_bytes, cut.vectors * isa.vector_bytes
        )

    def _fits(self, isa: InstructionSet, cut: GemmSchedule) -> bool:
        return self.scratch(isa, cut).size_bytes <= STACK_LIMIT

    def cycles(self, isa: InstructionSet) -> float:
        """Predicted cycles of the whole convolution."""
        return self._cycles(isa, self.schedule(isa))

    def _cut(self, isa: InstructionSet, rows: int) -> GemmSchedule:
        width = min(VECTORS, -(-self.n // isa.lanes))
        tile_bytes = POSITIONS * (2 * -(-self.c // 16) * 16 + width * isa.vector_bytes)
        blocks = -(-self.tiles // max(rows, SCRATCH_BYTES // tile_bytes))
        per_block = -(-self.tiles // blocks)
        columns = -(-self.n // (width * isa.lanes))
        chunks = min(columns, -(-WORK_ITEMS // blocks))
        return GemmSchedule(rows, width, -(-per_block // rows), -(-columns // chunks))

    def _cycles(self, isa: InstructionSet, cut: GemmSchedule) -> float:
        vectors = -(-self.n // isa.lanes)
        columns = -(-vectors // cut.vectors)
        chunks = -(-columns // cut.chunk_tiles)
        blocks, rest = divmod(self.tiles, cut.block_tiles * cut.rows)
        row_tiles = blocks * cut.block_tiles + -(-rest // cut.rows)
        turns = -(-self.c // 4) * 2
        tile = turns * cut.rows * cut.vectors * TURN / 2 + TILE
        products = POSITIONS * row_tiles * columns * tile
        transforms = self.tiles * (-(-self.c // 16) * SEEN * chunks + vectors * RESULT)
        weights = 2 * POSITIONS * self.c * self.n
        passes = blocks + (rest > 0)
        arriving = passes * weights / FAR_BYTES if weights > CACHED_BYTES else 0.0
        return max(products, arriving) + transforms
