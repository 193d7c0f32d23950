"""The code of a convolution in Winograd's domain: transform, sixteen products, transform back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qcc.backends.llvm.builder import I8, I16, I32, Index, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.epilogue import EpilogueWriter, ParameterBlock, Place
from qcc.backends.llvm.kernels.gemm import GemmWriter
from qcc.backends.llvm.kernels.vector_loop import Row
from qcc.backends.llvm.kernels.window import Pitches

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.winograd import WinogradKernel

SIDE = 4
"""Rows and columns of activations under a tile of two by two outputs."""


class WinogradWriter:
    """Writes one convolution: work items are blocks of tiles times chunks of column tiles."""

    def __init__(self, kernel: WinogradKernel, isa: InstructionSet, function: Any) -> None:
        self.k = k = LoopBuilder(function)
        self.kernel, self.isa = kernel, isa
        self.panels, self.schedule = kernel.panels(isa), kernel.cut(isa)
        block = ParameterBlock(isa, self.panels.vectors, kernel.epilogue)
        self.epilogue = EpilogueWriter(k, isa, block, k.operand("parameters"))
        self.gemm = GemmWriter(k, self.panels, kernel.walk, self.schedule, self.epilogue)
        self.tiles = kernel.shape.tiles
        rows = self.schedule.rows
        self.block = min(self.schedule.block_tiles * rows, self.tiles)
        self.step = isa.vector_bytes // 2
        """Channels that are transformed at once."""
        self.scratch = kernel.shape.scratch(isa, self.schedule)
        self.seen = k.stack(SIDE**2 * self.scratch.position_bytes)
        self.sums = k.stack(SIDE**2 * self.scratch.sum_bytes)
        target = kernel.output
        self.uneven = bool(target.height % 2 or target.width % 2)
        self.nowhere = k.stack(4 * self.scratch.sum_row) if self.uneven else None
        """Where pixels of a tile go that the output does not have."""

    def write(self) -> Any:
        """The whole function."""
        k = self.k
        columns = len(self.panels.tiles)
        chunk_tiles = self.schedule.chunk_tiles
        chunks, blocks = -(-columns // chunk_tiles), -(-self.tiles // self.block)

        def item(number: Index) -> None:
            chunk, block = k.mod(number, chunks), k.div(number, chunks)
            first = k.mul(block, self.block)
            last = k.minimum(k.add(first, self.block), self.tiles)
            self._transform(first, last)
            begin = k.mul(chunk, chunk_tiles)
            end = k.minimum(k.add(begin, chunk_tiles), columns)
            self.gemm.columns(
                begin,
                end,
                self.kernel.output.padded_channels,
                lambda column, vectors, room: self._column(first, last, column, vectors, room),
            )

        start, stop = k.thread_range(blocks * chunks)
        k.loop(start, stop, item, name="items")
        return k.finish()

    # -- activations ------------------------------------------------------------------------------

    def _transform(self, first: Index, last: Index) -> None:
        """``B^T d B`` of the tiles ``[first, last)``: int16 ``[position][tile][channel]``."""
        k, layout = self.k, self.kernel.input
        pitches = self._pitches(layout, 1)
        origin = self.kernel.window.origin(layout)

        def tile(number: Index) -> None:
            source = k.at(k.operand("input"), k.add(pitches.offset(k, number), origin))
            target = k.at(self.seen, k.mul(k.sub(number, first), self.scratch.row_bytes))

            def channels(channel: Index) -> None:
                made = self._sides([self._pixels(source, channel, j) for j in range(SIDE)])
                for position, value in enumerate(made):
                    offset = k.add(k.mul(channel, 2), position * self.scratch.position_bytes)
                    k.store(value, target, offset, align=self.isa.vector_bytes)

            k.loop(0, layout.channels, channels, step=self.step, name="channels")

        k.loop(first, last, tile, name="transform")

    def _pixels(self, source: Value, channel: Index, column: int) -> list[Value]:
        """Some channels of the four pixels of one column of a tile, in 16 bits."""
        k, layout = self.k, self.kernel.input
        offsets = [i * layout.row_bytes + column * layout.channel_stride for i in range(SIDE)]
        loaded = [k.load(vector(I8, self.step), source, k.add(channel, o)) for o in offsets]
        return [k.ir.zext(value, vector(I16, self.step)) for value in loaded]

    def _sides(self, columns: Sequence[Sequence[Value]]) -> list[Value]:
        """``B^T d B``, row by row, of a tile given column by column."""
        down = [self._differences(column) for column in columns]
        return [
            value
            for i in range(SIDE)
            for value in self._differences([column[i] for column in down])
        ]

    def _differences(self, values: Sequence[Value]) -> list[Value]:
        """``B^T`` times four values."""
        a, b, c, d = values
        ir = self.k.ir
        return [ir.sub(a, c), ir.add(b, c), ir.sub(c, b), ir.sub(b, d)]

    # -- products ---------------------------------------------------------------------------------

    def _column(
        self, first: Index, last: Index, column: Index, vectors: int, writable: int
    ) -> None:
        """One column tile of all tiles of a block."""
        k, rows, panels = self.k, self.schedule.rows, self.panels
        count = k.div(k.add(k.sub(last, first), rows - 1), rows)
        weights = k.at(
            k.operand("weight"), k.mul(column, self.schedule.vectors * panels.vector_bytes)
        )
        zero = constant(vector(I32, self.isa.lanes), 0)

        def position(number: Index) -> None:
            panel = k.at(weights, k.mul(number, panels.size_bytes))
            seen = k.at(self.seen, k.mul(number, self.scratch.position_bytes))
            sums = k.at(self.sums, k.mul(number, self.scratch.sum_bytes))

            def tile(index: Index) -> None:
                base = k.at(seen, k.mul(index, rows * self.scratch.row_bytes))
                sources = [Row(base, r * self.scratch.row_bytes) for r in range(rows)]
                found = self.gemm.products(sources, panel, [zero] * (rows * vectors))
                target = k.at(sums, k.mul(index, rows * self.scratch.sum_row))
                for i, value in enumerate(found):
                    row, lane = divmod(i, vectors)
                    offset = row * self.scratch.sum_row + lane * self.isa.vector_bytes
                    k.store(value, target, offset, align=self.isa.vector_bytes)

            k.loop(0, count, tile, name="rows")

        k.loop(0, SIDE**2, position, name="positions")
        self._results(first, last, column, vectors, writable)

    # -- results ----------------------------------------------------------------------------------

    def _results(
        self, first: Index, last: Index, column: Index, vectors: int, writable: int
    ) -> None:
        """``A^T m A`` of a block's sums, a quarter of that, the bias, and the epilogue."""
        k, lanes = self.k, self.isa.lanes
        vector_number = k.mul(column, self.schedule.vectors)
        channel = k.mul(vector_number, lanes)
        bias = self.epilogue.bias(vector_number, vectors)
        two = constant(vector(I32, lanes), 2)

        def tile(number: Index) -> None:
            source = k.at(self.sums, k.mul(k.sub(number, first), self.scratch.sum_row))
            lines: list[list[Value]] = [[], [], [], []]
            for lane in range(vectors):
                for pixel, value in enumerate(self._gathered(source, lane)):
                    lines[pixel].append(k.ir.add(k.ir.ashr(value, two), bias[lane]))
            places = self._places(number, channel, writable)
            self.epilogue.finish(lines, vector_number, places)

        k.loop(first, last, tile, name="results")

    def _gathered(self, source: Value, lane: int) -> list[Value]:
        """The four pixels of a tile times 4, from the sums of its positions."""
        k, size = self.k, self.isa.vector_bytes
        words = vector(I32, self.isa.lanes)

        def loaded(i: int, j: int) -> Value:
            return k.load(
                words, source, (SIDE * i + j) * self.scratch.sum_bytes + lane * size, align=size
            )

        folded = [self._folded([loaded(i, j) for i in range(SIDE)]) for j in range(SIDE)]
        return [value for i in range(2) for value in self._folded([pair[i] for pair in folded])]

    def _folded(self, values: Sequence[Value]) -> list[Value]:
        """``A^T`` times four values."""
        a, b, c, d = values
        ir = self.k.ir
        return [ir.add(ir.add(a, b), c), ir.sub(ir.sub(b, c), d)]

    def _places(self, number: Index, channel: Index, writable: int) -> list[Place]:
        """Where the four pixels of a tile go."""
        k, kernel = self.k, self.kernel
        size, residual = kernel.epilogue.element_bytes, kernel.epilogue.residual
        outputs = self._pixels_of(kernel.output, number, channel, size, k.operand("output"))
        addends: list[Value | None] = [None] * 4
        if residual is not None:
            addends = self._pixels_of(residual, number, channel, 1, k.operand("residual"))
        return [
            Place(output, addend, writable) for output, addend in zip(outputs, addends, strict=True)
        ]

    def _pixels_of(
        self, layout: ActivationLayout, number: Index, channel: Index, size: int, base: Value
    ) -> list[Any]:
        """Pointers to the four pixels of a tile; to nowhere for those past the edges."""
        k = self.k
        first = k.at(base, self._result_offset(layout, number, channel, size))
        found = [k.at(first, _pixel(layout, i) * size) for i in range(4)]
        if not self.uneven:
            return found
        height, width = layout.height, layout.width
        columns = -(-width // 2)
        row, column = k.mod(k.div(number, columns), -(-height // 2)), k.mod(number, columns)
        below = k.ir.icmp_signed("<", k.index(row), k.index(height // 2))
        right = k.ir.icmp_signed("<", k.index(column), k.index(width // 2))
        there = (None, right, below, k.ir.and_(below, right))
        return [
            pointer if exists is None else k.ir.select(exists, pointer, self.nowhere)
            for pointer, exists in zip(found, there, strict=True)
        ]

    def _result_offset(
        self, layout: ActivationLayout, number: Index, channel: Index, size: int
    ) -> Index:
        k = self.k
        inside = k.add(k.mul(channel, size), layout.interior_offset * size)
        return k.add(self._pitches(layout, size).offset(k, number), inside)

    def _pitches(self, layout: ActivationLayout, size: int) -> Pitches:
        """Where tiles lie in a layout."""
        target = self.kernel.output
        return Pitches(
            target.batch,
            (-(-target.height // 2), -(-target.width // 2)),
            layout.image_bytes * size,
            2 * layout.row_bytes * size,
            2 * layout.channel_stride * size,
        )


def _pixel(layout: ActivationLayout, index: int) -> int:
    """Elements from the first pixel of a tile of two by two to another one."""
    return index // 2 * layout.row_bytes + index % 2 * layout.channel_stride
