"""The code of a float32 convolution: blocks, panels, tiles, products, epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from qcc.backends.llvm.builder import F32, Index, LoopBuilder, Value, vector
from qcc.backends.llvm.float_schedule import FloatSchedule, split_rows
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.exponential import nan_where_unordered
from qcc.backends.llvm.kernels.lanes import fused_multiply_add, load_floats, store_floats
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.kernels.vector_floats import TURN, VectorFloats
from qcc.backends.llvm.kernels.vector_loop import Row

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.float_conv import FloatConvKernel

UNROLL = 4
"""Products of one turn of the inner loop."""
SHORT_RUN = 9
"""Products of a run that is written out."""
UNROLLED_MOST = 128
"""Multiply-adds that are written out without any loop."""


@dataclass(frozen=True)
class _Panel:
    """A panel of columns: its weights and bias, and where its channels begin in bytes."""

    weights: Value
    bias: Value
    channel: Index
    columns: int
    vectors: int


@dataclass(frozen=True)
class _Pixels:
    """The pixels of a tile in one operand: the first, and the bytes from one to the next."""

    first: Value
    distance: int


_Place: TypeAlias = "tuple[Index, Index]"
"""A line and a pixel of it."""
_TileBody: TypeAlias = "Callable[[_Place, int], None]"
"""Writes the code of a tile: where it begins, and how many pixels it has."""


@dataclass(frozen=True)
class _Pieces:
    """The products of a result: ``rows x runs x parts`` pieces of ``length`` products.

    In bytes of input, rows lie ``line``, runs ``pixel`` and products ``distance`` apart.
    """

    rows: int
    runs: int
    parts: int
    length: int
    line: int
    pixel: int
    distance: int

    @property
    def count(self) -> int:
        """Pieces that are done one after the other for a whole block; 1 where runs are not cut."""
        return self.rows * self.runs * self.parts if self.parts > 1 else 1


@dataclass(frozen=True)
class _Run:
    """``length`` products a result, whose factors lie ``distance`` bytes apart."""

    pixels: _Pixels
    weights: Value
    length: int
    distance: int


class FloatConvWriter:
    """Writes one convolution into ``function``."""

    def __init__(
        self, kernel: FloatConvKernel, cut: FloatSchedule, isa: InstructionSet, function: Any
    ) -> None:
        self.kernel, self.cut, self.isa = kernel, cut, isa
        self.k = LoopBuilder(function)
        self.width = cut.vectors * isa.lanes
        self.groups = 1 if kernel.is_depthwise else kernel.groups
        self.vectors = -(-kernel.columns // isa.lanes)
        self.panels = -(-self.vectors // cut.vectors)

    def write(self) -> Any:
        """All items; an item is a block of lines (or tiles), a group and a chunk of the panels."""
        k, cut = self.k, self.cut
        lines, length = self.kernel.lines
        units = lines if lines > 1 else split_rows(length, cut.rows)[0]
        blocks, chunks = -(-units // cut.block), min(cut.chunks, self.panels)

        def item(number: Index) -> None:
            chunk, rest = k.mod(number, chunks), k.div(number, chunks)
            group, block = k.mod(rest, self.groups), k.div(rest, self.groups)
            first = k.mul(block, cut.block)
            last = k.minimum(k.add(first, cut.block), units)
            begin = k.div(k.mul(chunk, self.panels), chunks)
            end = k.div(k.mul(k.add(chunk, 1), self.panels), chunks)
            self._columns(group, begin, end, lambda panel: self._block(panel, group, first, last))

        begin, end = k.thread_range(blocks * chunks * self.groups)
        k.loop(begin, end, item, name="items")
        return k.finish()

    def _columns(
        self, group: Index, begin: Index, end: Index, body: Callable[[_Panel], None]
    ) -> None:
        """Whole panels in a loop; a last one of fewer columns has code of its own."""
        k, kernel = self.k, self.kernel
        whole = kernel.columns // self.width
        vector_bytes = self.isa.vector_bytes
        weights = k.at(
            k.operand("weights"), k.mul(group, self.vectors * vector_bytes * kernel.products)
        )
        bias = k.at(k.operand("bias"), k.mul(group, self.vectors * vector_bytes))
        channel = k.mul(group, 4 * kernel.columns)

        def panel(number: Index, columns: int) -> None:
            place = k.mul(number, 4 * self.width)
            body(
                _Panel(
                    k.at(weights, k.mul(place, kernel.products)),
                    k.at(bias, place),
                    k.add(channel, place),
                    columns,
                    -(-columns // self.isa.lanes),
                )
            )

        k.loop(begin, k.minimum(end, whole), lambda n: panel(n, self.width), name="panels")
        rest = kernel.columns - whole * self.width
        if not rest:
            return
        if isinstance(end, int):
            panel(whole, rest)
            return
        with k.when(k.ir.icmp_signed("==", k.index(end), k.index(self.panels))):
            panel(whole, rest)

    def _block(self, panel: _Panel, group: Index, first: Index, last: Index) -> None:
        """The tiles of one block; where runs are cut, all of them for one piece after the other."""
        k, parts = self.k, self._pieces.count
        if parts == 1:
            self._lines(first, last, lambda place, n: self._tile(panel, group, place, n))
            return
        self._lines(first, last, lambda place, n: self._begin(panel, place, n))

        def piece(number: Index, *, ends: bool = False) -> None:
            self._lines(
                first, last, lambda place, n: self._part(panel, group, place, n, number, ends)
            )

        k.loop(0, parts - 1, piece, name="pieces")
        piece(parts - 1, ends=True)

    def _lines(self, first: Index, last: Index, tile: _TileBody) -> None:
        """The tiles of the lines of a block, or of one line where there is only one."""
        k = self.k
        if self.kernel.lines[0] == 1:
            self._tiles(0, first, last, tile)
            return
        count = split_rows(self.kernel.lines[1], self.cut.rows)[0]
        k.loop(first, last, lambda line: self._tiles(line, 0, count, tile), name="lines")

    def _tiles(self, line: Index, first: Index, last: Index, tile: _TileBody) -> None:
        """Tiles of one line: taller ones, then the others."""
        k = self.k
        _, height, taller = split_rows(self.kernel.lines[1], self.cut.rows)

        def tall(number: Index) -> None:
            tile((line, k.mul(number, height + 1)), height + 1)

        def short(number: Index) -> None:
            tile((line, k.add(k.mul(number, height), taller)), height)

        if taller:
            k.loop(first, k.minimum(last, taller), tall, name="tall")
        k.loop(k.maximum(first, taller) if taller else first, last, short, name="tiles")

    # -- one tile -----------------------------------------------------------------------------

    def _tile(self, panel: _Panel, group: Index, place: _Place, height: int) -> None:
        """``height`` pixels from ``place`` on, from the bias to the result."""
        pixels = self._sources(panel, group, place)
        sums = self._products(panel, pixels, self._start(panel) * height)
        self._store(panel, place, self._finished(panel, place, sums))

    def _begin(self, panel: _Panel, place: _Place, height: int) -> None:
        """Put the bias where sums wait between two pieces: in the output."""
        self._store(panel, place, self._start(panel) * height)

    def _part(
        self,
        panel: _Panel,
        group: Index,
        place: _Place,
        height: int,
        number: Index,
        ends: bool,
    ) -> None:
        """Piece ``number`` of the products of a tile."""
        k, pieces = self.k, self._pieces
        target = self._pixel("output", self.kernel.output, (1, 1), place, panel.channel)
        sums = self._loaded(panel, target, height)
        run, rest = k.div(number, pieces.parts), k.mod(number, pieces.parts)
        offset = k.add(
            k.mul(k.div(run, pieces.runs), pieces.line),
            k.mul(k.mod(run, pieces.runs), pieces.pixel),
        )
        offset = k.add(offset, k.mul(rest, pieces.length * pieces.distance))
        pixels = self._sources(panel, group, place)
        place_of_weights = k.mul(number, pieces.length * panel.vectors * self.isa.vector_bytes)
        piece = _Run(
            _Pixels(k.at(pixels.first, offset), pixels.distance),
            k.at(panel.weights, place_of_weights),
            pieces.length,
            pieces.distance,
        )
        sums = self._run(panel, piece, sums)
        self._store(panel, place, self._finished(panel, place, sums) if ends else sums)

    def _sources(self, panel: _Panel, group: Index, place: _Place) -> _Pixels:
        kernel = self.kernel
        channel = panel.channel if kernel.is_depthwise else self.k.mul(group, 4 * kernel.depth)
        return self._pixel("input", kernel.input, kernel.strides, place, channel)

    def _start(self, panel: _Panel) -> list[Value]:
        """The bias of a row."""
        return [
            self.k.load(self._float, panel.bias, v * self.isa.vector_bytes)
            for v in range(panel.vectors)
        ]

    def _finished(self, panel: _Panel, place: _Place, sums: list[Value]) -> list[Value]:
        """Residual, bounds, and one kind of NaN."""
        k, view = self.k, self.kernel.residual
        if view is not None:
            residual = self._pixel("residual", view, (1, 1), place, panel.channel)
            added = self._loaded(panel, residual, len(sums) // panel.vectors)
            sums = [k.ir.fadd(a, b) for a, b in zip(sums, added, strict=True)]
        return [self._bounded(value) for value in sums]

    def _loaded(self, panel: _Panel, pixels: _Pixels, height: int) -> list[Value]:
        """The columns of a panel of every pixel of a tile."""
        found = []
        for i in range(height):
            place = i * pixels.distance
            found += load_floats(self.k, self.isa, pixels.first, place, panel.columns)
        return found

    def _store(self, panel: _Panel, place: _Place, values: Sequence[Value]) -> None:
        target = self._pixel("output", self.kernel.output, (1, 1), place, panel.channel)
        for i in range(len(values) // panel.vectors):
            row = values[i * panel.vectors : (i + 1) * panel.vectors]
            store_floats(self.k, row, target.first, i * target.distance, panel.columns)

    @property
    def _float(self) -> Any:
        return vector(F32, self.isa.lanes)

    def _pixel(
        self,
        operand: str,
        view: View,
        steps: tuple[int, int],
        place: _Place,
        channel: Index,
    ) -> _Pixels:
        """The pixels of a tile, from ``channel`` (in bytes) on."""
        k, rows = self.k, self.kernel.sizes[1]
        line, pixel = place
        down, right = view.strides[1] * steps[0], view.strides[2] * steps[1]
        image = k.mul(k.div(line, rows), view.strides[0])
        offset = k.add(k.add(image, k.mul(k.mod(line, rows), down)), k.mul(pixel, right))
        base = k.at(k.operand(operand), k.add(channel, view.offset))
        return _Pixels(k.at(base, offset), right)

    def _bounded(self, value: Value) -> Value:
        """The bounds, and one kind of NaN."""
        k, kernel, result = self.k, self.kernel, value
        for place, (wanted, wins) in enumerate(((kernel.low, ">"), (kernel.high, "<"))):
            if wanted:
                bound = k.splat(
                    k.load(F32, k.operand("bounds"), 4 * place, align=4), self.isa.lanes
                )
                result = k.ir.select(k.ir.fcmp_ordered(wins, result, bound), result, bound)
        return nan_where_unordered(k, value, result)

    # -- products -----------------------------------------------------------------------------

    @property
    def _pieces(self) -> _Pieces:
        """How the products of a result follow one another."""
        kernel, parts = self.kernel, self.cut.parts
        line, pixel = (kernel.input.strides[1 + axis] * kernel.dilations[axis] for axis in range(2))
        rows, runs, length = *kernel.kernel, kernel.depth
        if kernel.is_depthwise:
            return _Pieces(rows, 1, 1, runs, line, pixel, pixel)
        if pixel == 4 * length:
            runs, length = 1, runs * length
        parts = parts if length % parts == 0 else 1
        return _Pieces(rows, runs, parts, length // parts, line, pixel, 4)

    def _products(self, panel: _Panel, pixels: _Pixels, sums: list[Value]) -> list[Value]:
        """All products: kernel rows, then runs of equal distances in them."""
        k, pieces = self.k, self._pieces
        step_bytes = panel.vectors * self.isa.vector_bytes
        flat = self.kernel.products * len(sums) <= UNROLLED_MOST

        def each(count: int, body: Callable[..., list[Value]], values: Sequence[Value]) -> Any:
            if not flat:
                return k.loop(0, count, body, carried=values, name="taps")
            current = list(values)
            for i in range(count):
                current = body(i, *current)
            return current

        def tap_row(i: Index, *values: Value) -> list[Value]:
            def tap(j: Index, *inner: Value) -> list[Value]:
                place = k.at(pixels.first, k.add(k.mul(i, pieces.line), k.mul(j, pieces.pixel)))
                number = k.mul(k.add(k.mul(i, pieces.runs), j), pieces.length)
                run = _Run(
                    _Pixels(place, pixels.distance),
                    k.at(panel.weights, k.mul(number, step_bytes)),
                    pieces.length,
                    pieces.distance,
                )
                return self._run(panel, run, list(inner))

            return list(each(pieces.runs, tap, values))

        return list(each(pieces.rows, tap_row, sums))

    def _run(self, panel: _Panel, run: _Run, sums: list[Value]) -> list[Value]:
        """The products of one run."""
        k = self.k
        if self.isa.architecture == "aarch64" and run.distance == 4 and run.length >= TURN:
            # Lanes of whole vectors: spread one by one, activations would need too many registers.
            rows = [
                Row(run.pixels.first, i * run.pixels.distance)
                for i in range(len(sums) // panel.vectors)
            ]
            loop = VectorFloats(k, self.isa, rows, run.weights, panel.vectors)
            sums = loop.turns(run.length // TURN, sums)
            done = run.length // TURN * TURN
            return self._steps(panel, run, done, run.length - done, sums)
        unroll = run.length if run.length <= SHORT_RUN else UNROLL

        def turn(index: Index, *values: Value) -> list[Value]:
            return self._steps(panel, run, index, unroll, list(values))

        whole = run.length // unroll * unroll
        sums = k.loop(0, whole, turn, step=unroll, carried=sums, name="products")
        return self._steps(panel, run, whole, run.length - whole, sums)

    def _steps(
        self, panel: _Panel, run: _Run, index: Index, count: int, sums: list[Value]
    ) -> list[Value]:
        """``count`` products from ``index`` on, without a loop."""
        k, isa, vectors = self.k, self.isa, panel.vectors
        height = len(sums) // vectors
        weights = k.at(run.weights, k.mul(index, vectors * isa.vector_bytes))
        first = k.at(run.pixels.first, k.mul(index, run.distance))
        for step in range(count):
            factors = [
                k.load(self._float, weights, (step * vectors + v) * isa.vector_bytes)
                for v in range(vectors)
            ]
            for i in range(height):
                place = i * run.pixels.distance + step * run.distance
                if self.kernel.is_depthwise:
                    others = load_floats(k, isa, first, place, panel.columns)
                else:
                    others = [k.splat(k.load(F32, first, place, align=4), isa.lanes)] * vectors
                for v, (other, factor) in enumerate(zip(others, factors, strict=True)):
                    n = i * vectors + v
                    sums[n] = fused_multiply_add(k, other, factor, sums[n])
            if step + 1 < count and isa.architecture == "aarch64" and not isa.emulated:
                # LLVM would load the operands of later products early, and spill sums for them.
                sums = k.fence(sums)
        return sums
