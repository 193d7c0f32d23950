"""The code of a depthwise convolution: work items, rows of tiles, tiles of output pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import (
    I8,
    I16,
    I32,
    Index,
    LoopBuilder,
    Value,
    constant,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.depthwise_cut import ChannelCut
from qcc.backends.llvm.kernels.depthwise_taps import TapSums, load_weights
from qcc.backends.llvm.kernels.epilogue import EpilogueWriter, Place, lane_channels
from qcc.backends.llvm.schedule import split_rows

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.depthwise import DepthwiseKernel

_CHUNK_BYTES = 24 * 1024
"""Input rows that are gone through once for every block of channels."""


@dataclass(frozen=True)
class _Block:
    """One block of channels of one image, while it is written."""

    image: Index
    block: Index
    writable: int


def _unflattened(values: Sequence[Value], shape: Sequence[int]) -> list[list[list[Value]]]:
    """Columns of groups of vectors, ``shape`` vectors in the groups of each."""
    columns, rest = [], list(values)
    while rest:
        column = []
        for size in shape:
            column.append(rest[:size])
            rest = rest[size:]
        columns.append(column)
    return columns


class DepthwiseWriter:
    """Writes one depthwise convolution: work items of a few output rows and a channel block."""

    def __init__(self, kernel: DepthwiseKernel, isa: InstructionSet, function: Any) -> None:
        self.k = k = LoopBuilder(function)
        self.kernel, self.isa = kernel, isa
        self.cut = ChannelCut(kernel, isa)
        self.epilogue = EpilogueWriter(k, isa, self.cut.parameters, k.operand("parameters"))

    @property
    def chunk_rows(self) -> int:
        """Output rows of a work item: as many as keep their input rows in the first-level cache."""
        layout, target = self.kernel.input, self.kernel.output
        rows = _CHUNK_BYTES // (layout.row_bytes * self.kernel.window.strides[0])
        height = self.cut.tile[0]
        return min(target.height, max(1, rows // height) * height)

    def write(self) -> Any:
        """The whole function."""
        k, target, cut = self.k, self.kernel.output, self.cut
        whole = min(cut.blocks, target.padded_channels // cut.channels)
        rest = target.padded_channels - whole * cut.channels
        chunks = -(-target.height // self.chunk_rows)

        def item(number: Index) -> None:
            block, part = k.mod(number, cut.blocks), k.div(number, cut.blocks)
            image, chunk = k.div(part, chunks), k.mod(part, chunks)
            low = k.mul(chunk, self.chunk_rows)
            high = k.minimum(k.add(low, self.chunk_rows), target.height)
            if whole == cut.blocks or whole == 0:
                self._rows(image, low, high, block, cut.channels if whole else rest)
                return
            inside = k.ir.icmp_signed("<", k.index(block), k.index(whole))
            with k.ir.if_else(inside) as (then, otherwise):
                with then:
                    self._rows(image, low, high, block, cut.channels)
                with otherwise:
                    self._rows(image, low, high, whole, rest)

        begin, end = k.thread_range(target.batch * chunks * cut.blocks)
        k.loop(begin, end, item, name="items")
        return k.finish()

    def _rows(self, image: Index, low: Index, high: Index, block: Index, writable: int) -> None:
        """The output rows ``[low, high)`` of one block of channels."""
        k, height = self.k, self.cut.tile[0]
        place = _Block(image, block, writable)
        whole = k.add(low, k.mul(k.div(k.sub(high, low), height), height))
        k.loop(low, whole, lambda y: self._row(place, y, height), step=height, name="rows")
        if self.kernel.output.height % height:
            k.loop(whole, high, lambda y: self._row(place, y, 1), name="last_rows")

    def _row(self, place: _Block, y: Index, rows: int) -> None:
        """``rows`` output rows from ``y`` on."""
        k = self.k
        if self.cut.keeps_columns(rows):
            self._row_of_columns(place, y, rows)
            return
        tiles, width, wider = split_rows(self.kernel.output.width, self.cut.tile[1])
        for first, last, pixels in ((0, wider, width + 1), (wider, tiles, width)):

            def tile(number: Index, pixels: int = pixels) -> None:
                x = k.add(k.mul(number, width), k.minimum(number, wider))
                self._tile(place, y, x, rows, pixels)

            k.loop(first, last, tile, name="pixels")

    def _tile(self, place: _Block, y: Index, x: Index, rows: int, pixels: int) -> None:
        """``rows x pixels`` output pixels of one block of channels."""
        source, weights = self._source(place, y, x), self._weights(place)
        start = self._start(place)
        if self.cut.by_taps:
            flat = self._by_taps(source, weights, [[start] * pixels] * rows)
        elif pixels == 1 and self.isa.dot == "vpmaddwd":
            flat = self._looped(source, weights, [start] * rows)
        else:
            flat = self._unrolled(source, weights, [[start] * pixels] * rows)
        self._finish(place, y, x, rows, flat)

    def _source(self, place: _Block, y: Index, x: Index) -> Value:
        """Where the window of the output pixel ``(y, x)`` begins."""
        k, layout, window = self.k, self.kernel.input, self.kernel.window
        offset = k.add(
            k.mul(place.image, layout.image_bytes), k.mul(y, window.strides[0] * layout.row_bytes)
        )
        column = k.mul(x, window.strides[1] * layout.channel_stride)
        channel = k.mul(place.block, self.cut.channels)
        origin = k.add(k.add(offset, window.origin(layout)), k.add(column, channel))
        return k.at(k.operand("input"), origin)

    def _weights(self, place: _Block) -> Value:
        k = self.k
        return k.at(k.operand("weight"), k.mul(place.block, self.cut.block_bytes))

    def _bias(self, place: _Block) -> list[Value]:
        return self.epilogue.bias(self.k.mul(place.block, self.cut.vectors), self.cut.vectors)

    def _start(self, place: _Block) -> list[Value]:
        """What the accumulators of a pixel begin with."""
        if self.kernel.epilogue.form == "uint8":
            return self._bias(place)
        # Other forms have parameters in memory order of channels: their bias is added at the end.
        return [constant(vector(I32, self.isa.lanes), 0)] * self.cut.vectors

    def _finish(
        self, place: _Block, y: Index, x: Index, rows: int, flat: Sequence[list[Value]]
    ) -> None:
        """Store the accumulators of a tile, row by row."""
        k, cut = self.k, self.cut
        if self.kernel.epilogue.form != "uint8":
            bias = self._bias(place)
            flat = [self._natural(values, bias) for values in flat]
        channel = k.mul(place.block, cut.channels)
        places = [
            self._place(place, k.add(y, row), k.add(x, i), channel)
            for row in range(rows)
            for i in range(len(flat) // rows)
        ]
        self.epilogue.finish(flat, k.mul(place.block, cut.vectors), places)

    def _row_of_columns(self, place: _Block, y: Index, rows: int) -> None:
        """The same pixel after pixel, each with one new column of the input."""
        k, window = self.k, self.kernel.window
        pitch, taps = self.kernel.input.channel_stride, window.kernel[1]
        weights, width = self._weights(place), self.kernel.output.width
        first = self._source(place, y, 0)
        columns = [self._column(k.at(first, i * pitch), rows) for i in range(taps - 1)]
        shape = [len(group) for group in columns[0]]

        def pixels(x: Index, count: int, seen: Sequence[Value]) -> list[Value]:
            known = _unflattened(seen, shape)
            behind = k.at(self._source(place, y, x), (taps - 1) * pitch)
            for i in range(count):
                known.append(self._column(k.at(behind, i * pitch), rows))
                lines = self._pixel(known[i:], weights, [self._start(place) for _ in range(rows)])
                self._finish(place, y, k.add(x, i), rows, lines)
            return [value for column in known[count:] for group in column for value in group]

        flat = [value for column in columns for group in column for value in group]
        whole = width // taps * taps
        # As many pixels a turn as there are columns: the oldest one's place is the newest one's.
        flat = k.loop(
            0, whole, lambda x, *v: pixels(x, taps, v), step=taps, carried=flat, name="pixels"
        )
        if whole < width:
            pixels(whole, width - whole, flat)

    def _pixel(
        self, columns: Sequence[list[list[Value]]], weights: Value, lines: list[list[Value]]
    ) -> list[list[Value]]:
        """One column of output pixels from the columns of taps that they look at."""
        if self.cut.by_taps:
            sums = [TapSums(self.k, values) for values in lines]
            for kx, column in enumerate(columns):
                self._add_taps([[pixel] for pixel in sums], 0, column[0], weights, kx)
            return [pixel.finish() for pixel in sums]
        for kx, column in enumerate(columns):
            for row, line in enumerate(lines):
                self._accumulate(line, column, weights, kx, row)
        return lines

    def _unrolled(
        self, source: Value, weights: Value, start: Sequence[Sequence[list[Value]]]
    ) -> list[list[Value]]:
        """All columns of taps of a tile; an input column serves every pixel that looks at it."""
        k, layout = self.k, self.kernel.input
        accumulators = [[list(values) for values in line] for line in start]
        for at, uses in self._columns(len(start[0])).items():
            groups = self._column(k.at(source, at * layout.channel_stride), len(start))
            for pixel, kx in uses:
                for row, line in enumerate(accumulators):
                    self._accumulate(line[pixel], groups, weights, kx, row)
        return [values for line in accumulators for values in line]

    def _by_taps(
        self, source: Value, weights: Value, start: Sequence[Sequence[list[Value]]]
    ) -> list[list[Value]]:
        """The same without interleaving rows (:mod:`depthwise_taps`)."""
        k, layout = self.k, self.kernel.input
        sums = [[TapSums(k, values) for values in line] for line in start]
        for at, uses in self._columns(len(start[0])).items():
            rows = self._column(k.at(source, at * layout.channel_stride), len(start))[0]
            for pixel, kx in uses:
                self._add_taps(sums, pixel, rows, weights, kx)
        return [pixel.finish() for line in sums for pixel in line]

    def _add_taps(
        self,
        sums: Sequence[Sequence[TapSums]],
        pixel: int,
        rows: Sequence[Value],
        weights: Value,
        kx: int,
    ) -> None:
        """Add one column of taps to column ``pixel`` of a tile."""
        height, stride = self.kernel.window.kernel[0], self.kernel.window.strides[0]
        parts = self.kernel.weight_parts
        for ky in range(height):
            for part in range(parts):
                taps = load_weights(self.k, weights, (kx * height + ky) * parts + part)
                for y, line in enumerate(sums):
                    line[pixel].add(rows[y * stride + ky], taps)

    def _looped(
        self, source: Value, weights: Value, start: Sequence[list[Value]]
    ) -> list[list[Value]]:
        """The same for one column of pixels, column of taps by column: registers suffice."""
        k, window, vectors = self.k, self.kernel.window, self.cut.vectors
        pitch = window.dilations[1] * self.kernel.input.channel_stride

        def column(kx: Index, *values: Value) -> list[Value]:
            groups = self._column(k.at(source, k.mul(kx, pitch)), len(start))
            lines = [list(values[i : i + vectors]) for i in range(0, len(values), vectors)]
            taps = k.at(weights, k.mul(kx, self.cut.column_bytes))
            for row, line in enumerate(lines):
                self._accumulate(line, groups, taps, 0, row)
            return [value for line in lines for value in line]

        flat = [value for line in start for value in line]
        found = k.loop(0, window.kernel[1], column, carried=flat, name="taps")
        return [found[i : i + vectors] for i in range(0, len(found), vectors)]

    def _columns(self, pixels: int) -> dict[int, list[tuple[int, int]]]:
        """Input column to the ``(pixel, kx)`` that it serves, left to right."""
        window = self.kernel.window
        uses: dict[int, list[tuple[int, int]]] = {}
        for pixel in range(pixels):
            for kx in range(window.kernel[1]):
                x = pixel * window.strides[1] + kx * window.dilations[1]
                uses.setdefault(x, []).append((pixel, kx))
        return dict(sorted(uses.items()))

    def _column(self, pointer: Value, height: int) -> list[list[Value]]:
        """The interleaved rows of one input column: ``[row group][vector]``.

        Where rows are not interleaved, all of them are one group.
        """
        cut, rows = self.cut, self._loaded(pointer, height)
        if cut.by_taps:
            return [rows]
        count = len(rows)
        # Rows past the last tap meet zero weights, so any value will do.
        rows += [rows[-1]] * (-count % cut.group)
        return [self._interleave(rows[i : i + cut.group]) for i in range(0, count, cut.group)]

    def _loaded(self, pointer: Value, height: int) -> list[Value]:
        """The rows of one input column that ``height`` rows of output pixels look at."""
        k, cut, window = self.k, self.cut, self.kernel.window
        pitch = window.dilations[0] * self.kernel.input.row_bytes
        count = (height - 1) * window.strides[0] + window.kernel[0]
        rows = [k.load(vector(I8, cut.channels), pointer, y * pitch) for y in range(count)]
        if self.isa.signed:
            rows = [k.ir.xor(row, constant(row.type, -128)) for row in rows]
        if self.isa.dot == "vpmaddwd" and cut.vectors == 2:
            rows = [k.ir.zext(row, vector(I16, cut.channels)) for row in rows]
        return rows

    def _interleave(self, rows: list[Value]) -> list[Value]:
        """Rows side by side in every lane, in the order of ``lane_channels``."""
        k = self.k
        type_ = rows[0].type
        if len(rows) == 2:
            halves = [primitives.unpack(k, *rows, high=high) for high in (False, True)]
            if type_.element == I16:
                return halves
            wide, zero = vector(I16, type_.count // 2), constant(type_, 0)
            return [
                k.ir.bitcast(primitives.unpack(k, half, zero, high=high), wide)
                for half in halves
                for high in (False, True)
            ]
        words = vector(I16, type_.count // 2)
        result = []
        for high in (False, True):
            a, b = (
                k.ir.bitcast(primitives.unpack(k, rows[i], rows[i + 1], high=high), words)
                for i in (0, 2)
            )
            pairs = [primitives.unpack(k, a, b, high=upper) for upper in (False, True)]
            result += [k.ir.bitcast(value, type_) for value in pairs]
        return result

    def _accumulate(
        self,
        accumulators: list[Value],
        groups: list[list[Value]],
        weights: Value,
        kx: int,
        row: int,
    ) -> None:
        """Add one column of taps to the accumulators of one pixel of the tile's row ``row``."""
        k, cut, size = self.k, self.cut, self.isa.vector_bytes
        first, phase = divmod(row * self.kernel.window.strides[0], cut.group)
        last = first + (phase + self.kernel.window.kernel[0] - 1) // cut.group
        base = kx * cut.column_bytes + cut.phases.index(phase) * cut.row_groups * cut.group_bytes
        for number in range(first, last + 1):
            for part in range(cut.parts):
                offset = base + (number - first) * cut.group_bytes + part * cut.vectors * size
                for s, value in enumerate(groups[number]):
                    weight = k.load(value.type, weights, offset + s * size, align=size)
                    accumulators[s] = self._multiply_add(accumulators[s], value, weight)

    def _multiply_add(self, accumulator: Value, value: Value, weight: Value) -> Value:
        k, isa = self.k, self.isa
        if isa.dot == "vpmaddwd":
            product = primitives.call(k, isa, "multiply_add_pairs", value, weight)
            return k.ir.add(accumulator, product)
        name = "dot_signed_signed" if isa.signed else "dot_unsigned_signed"
        return primitives.call(k, isa, name, accumulator, value, weight)

    def _natural(self, accumulators: list[Value], bias: list[Value]) -> list[Value]:
        """Accumulators in memory order of channels, bias added."""
        k, lanes = self.k, self.isa.lanes
        joined = list(accumulators)
        while len(joined) > 1:
            joined = [k.join(joined[i], joined[i + 1]) for i in range(0, len(joined), 2)]
        order = np.argsort(lane_channels(len(accumulators), lanes, "uint8"))
        return [
            k.ir.add(
                k.shuffle(joined[0], None, [int(i) for i in order[s * lanes : (s + 1) * lanes]]),
                bias[s],
            )
            for s in range(len(accumulators))
        ]

    def _place(self, place: _Block, y: Index, x: Index, channel: Index) -> Place:
        kernel = self.kernel
        size, residual = kernel.epilogue.element_bytes, kernel.epilogue.residual
        pixel = (place.image, y, x)
        output = self._address("output", kernel.output, pixel, channel, size)
        if residual is None:
            return Place(output, None, place.writable)
        addend = self._address("residual", residual, pixel, channel, 1)
        return Place(output, addend, place.writable)

    def _address(
        self,
        operand: str,
        layout: ActivationLayout,
        pixel: tuple[Index, Index, Index],
        channel: Index,
        size: int,
    ) -> Value:
        k = self.k
        image, y, x = pixel
        offset = k.add(k.mul(image, layout.image_bytes * size), k.mul(y, layout.row_bytes * size))
        inner = k.add(k.mul(x, layout.channel_stride * size), k.mul(channel, size))
        inside = k.add(offset, layout.interior_offset * size)
        return k.at(k.at(k.operand(operand), inside), inner)
