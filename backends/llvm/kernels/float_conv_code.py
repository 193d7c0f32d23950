"""The code of a float32 convolution: blocks, panels, tiles, products, epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcc.backends.llvm.builder import F32, Index, LoopBuilder, Value, vector
from qcc.backends.llvm.float_schedule import FloatSchedule, split_rows
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.exponential import nan_where_unordered
from qcc.backends.llvm.kernels.lanes import fused_multiply_add, load_floats, store_floats
from qcc.backends.llvm.kernels.nest import View

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
        """The lines of one block, or the tiles where there is one line."""
        k = self.k
        if self.kernel.lines[0] == 1:
            self._tiles(panel, group, 0, first, last)
            return
        count = split_rows(self.kernel.lines[1], self.cut.rows)[0]
        k.loop(first, last, lambda line: self._tiles(panel, group, line, 0, count), name="lines")

    def _tiles(self, panel: _Panel, group: Index, line: Index, first: Index, last: Index) -> None:
        """Tiles of one line: taller ones, then the others."""
        k = self.k
        _, height, taller = split_rows(self.kernel.lines[1], self.cut.rows)

        def tall(number: Index) -> None:
            self._tile(panel, group, (line, k.mul(number, height + 1)), height + 1)

        def short(number: Index) -> None:
            self._tile(panel, group, (line, k.add(k.mul(number, height), taller)), height)

        if taller:
            k.loop(first, k.minimum(last, taller), tall, name="tall")
        k.loop(k.maximum(first, taller) if taller else first, last, short, name="tiles")

    # -- one tile -----------------------------------------------------------------------------

    def _tile(self, panel: _Panel, group: Index, place: tuple[Index, Index], height: int) -> None:
        """``height`` pixels from ``place`` on, which is a line and a pixel of it."""
        k, kernel = self.k, self.kernel
        before = panel.channel if kernel.is_depthwise else k.mul(group, 4 * kernel.depth)
        pixels = self._pixel("input", kernel.input, kernel.strides, place, before)
        start = [
            k.load(self._float, panel.bias, v * self.isa.vector_bytes) for v in range(panel.vectors)
        ]
        sums = self._products(panel, pixels, start * height)
        residual: _Pixels | None = None
        if kernel.residual is not None:
            view = kernel.residual
            residual = self._pixel("residual", view, (1, 1), place, panel.channel)
        target = self._pixel("output", kernel.output, (1, 1), place, panel.channel)
        if residual is not None:
            sums = self._added(panel, sums, residual)
        sums = [self._bounded(value) for value in sums]
        for i in range(height):
            row = sums[i * panel.vectors : (i + 1) * panel.vectors]
            store_floats(k, row, target.first, i * target.distance, panel.columns)

    def _added(self, panel: _Panel, sums: Sequence[Value], residual: _Pixels) -> list[Value]:
        """The sums of a tile with the residual of its pixels."""
        k, added = self.k, []
        for i in range(len(sums) // panel.vectors):
            added += load_floats(k, self.isa, residual.first, i * residual.distance, panel.columns)
        return [k.ir.fadd(a, b) for a, b in zip(sums, added, strict=True)]

    @property
    def _float(self) -> Any:
        return vector(F32, self.isa.lanes)

    def _pixel(
        self,
        operand: str,
        view: View,
        steps: tuple[int, int],
        place: tuple[Index, Index],
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

    def _products(self, panel: _Panel, pixels: _Pixels, sums: list[Value]) -> list[Value]:
        """All products: kernel rows, then runs of equal distances in them."""
        k, kernel = self.k, self.kernel
        view = kernel.input
        line, pixel = (view.strides[1 + axis] * kernel.dilations[axis] for axis in range(2))
        runs, length, distance = kernel.kernel[1], kernel.depth, 4
        if kernel.is_depthwise or pixel == 4 * length:
            runs, length = 1, runs * length
            distance = pixel if kernel.is_depthwise else 4
        step_bytes = panel.vectors * self.isa.vector_bytes
        flat = kernel.products * len(sums) <= UNROLLED_MOST

        def each(count: int, body: Callable[..., list[Value]], values: Sequence[Value]) -> Any:
            if not flat:
                return k.loop(0, count, body, carried=values, name="taps")
            current = list(values)
            for i in range(count):
                current = body(i, *current)
            return current

        def tap_row(i: Index, *values: Value) -> list[Value]:
            def tap(j: Index, *inner: Value) -> list[Value]:
                place = k.at(pixels.first, k.add(k.mul(i, line), k.mul(j, pixel)))
                number = k.mul(k.add(k.mul(i, runs), j), length)
                run = _Run(
                    _Pixels(place, pixels.distance),
                    k.at(panel.weights, k.mul(number, step_bytes)),
                    length,
                    distance,
                )
                return self._run(panel, run, list(inner))

            return list(each(runs, tap, values))

        return list(each(kernel.kernel[0], tap_row, sums))

    def _run(self, panel: _Panel, run: _Run, sums: list[Value]) -> list[Value]:
        """The products of one run."""
        k = self.k
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
        return sums
