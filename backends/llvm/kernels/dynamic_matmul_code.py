"""The code of a product of two activations: panels of columns, tiles of rows, and x86's sums."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import I8, I16, I32, Index, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.epilogue import EpilogueWriter, Place, lane_channels
from qcc.backends.llvm.kernels.nest import batch_pointers

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.dynamic_matmul import DynamicMatmulKernel

VECTORS = 4
"""Accumulator vectors of a row of a tile: one unit of the epilogue."""

MANY_ITEMS = 8
"""With fewer panels than this, rows are shared out among threads, too."""


class ProductWriter:
    """The code of one product: panels of columns, tiles of rows, epilogue.

    Subclasses say how a panel of ``b`` is packed and how the sums of a tile are found.
    """

    tile_rows = 2
    """Rows of a tile."""
    constant_vectors = 2
    """Vectors of numbers of its own in front of the epilogue's block."""

    def __init__(self, kernel: DynamicMatmulKernel, isa: InstructionSet, function: Any) -> None:
        self.kernel, self.isa = kernel, isa
        self.k = k = LoopBuilder(function)
        parameters = k.operand("parameters")
        self.numbers = [
            k.load(self.number_type(isa), parameters, i * isa.vector_bytes, align=isa.vector_bytes)
            for i in range(self.constant_vectors)
        ]
        place = k.at(parameters, self.constant_vectors * isa.vector_bytes)
        self.epilogue = EpilogueWriter(k, isa, kernel.block(isa), place)
        self.width = VECTORS * isa.lanes
        self.allocate()

    @staticmethod
    def number_type(isa: InstructionSet) -> Any:
        """The type of the vectors of numbers."""
        return vector(I16, isa.vector_bytes // 2)

    @staticmethod
    def constants(
        isa: InstructionSet, depth: int, a_zero_point: int, b_zero_point: int
    ) -> list[NDArray[np.uint8]]:
        """The bytes of the vectors of numbers: here the zero points."""
        count = isa.vector_bytes // 2
        return [np.full(count, z, np.int16).view(np.uint8) for z in (a_zero_point, b_zero_point)]

    def allocate(self) -> None:
        """Scratch memory on the stack."""
        raise NotImplementedError

    def pack_panel(self, b: Value) -> None:
        """Pack the panel of ``b`` that begins at the pointer ``b``."""
        raise NotImplementedError

    def tile_sums(self, rows: Sequence[Value]) -> list[Value]:
        """The accumulators of a tile, row by row; ``rows`` are pointers into ``a``."""
        raise NotImplementedError

    def write(self) -> Any:
        """The function: panels, and chunks of rows where those are few, shared out to threads."""
        k, kernel = self.k, self.kernel
        panels = -(-kernel.columns // self.width)
        items = prod(kernel.batch) * panels
        chunk = kernel.rows
        if items < MANY_ITEMS and kernel.rows > 4 * self.tile_rows:
            chunk = -(-kernel.rows // (4 * self.tile_rows)) * self.tile_rows
        chunks = -(-kernel.rows // chunk)

        def item(number: Index) -> None:
            part, rest = k.mod(number, chunks), k.div(number, chunks)
            column, rest = k.mod(rest, panels), k.div(rest, panels)
            a, b, y = self._batch(rest)
            first = k.mul(part, chunk)
            last = k.minimum(k.add(first, chunk), kernel.rows)
            self._each_panel(column, panels, a, b, y, first, last)

        begin, end = k.thread_range(items * chunks)
        k.loop(begin, end, item, name="panels")
        return k.finish()

    def _batch(self, number: Index) -> tuple[Value, Value, Value]:
        """Pointers to the matrices of one batch entry."""
        kernel = self.kernel
        operands = (("a", kernel.a), ("b", kernel.b), ("output", kernel.output))
        a, b, y = batch_pointers(self.k, kernel.batch, number, operands)
        return a, b, y

    def _each_panel(
        self,
        column: Index,
        panels: int,
        a: Value,
        b: Value,
        y: Value,
        first: Index,
        last: Index,
    ) -> None:
        """The panel's code; the last panel writes fewer columns, so it has code of its own."""
        k, kernel = self.k, self.kernel
        rest = kernel.columns - (panels - 1) * self.width

        def run(writable: int) -> None:
            start = k.mul(column, self.width)
            self.pack_panel(k.at(b, start))
            place = k.at(y, k.mul(start, kernel.epilogue.element_bytes))
            self._rows(a, place, first, last, writable)

        if panels == 1 or rest == self.width:
            run(rest)
            return
        ends = k.ir.icmp_signed("==", k.index(column), k.index(panels - 1))
        with k.ir.if_else(ends) as (short, whole):
            with short:
                run(rest)
            with whole:
                run(self.width)

    def columns_of(self, pointer: Value, offset: Index) -> Value:
        """A row of a panel of ``b``; may read past the last column."""
        return self.k.load(vector(I8, self.width), pointer, offset)

    def _rows(self, a: Value, y: Value, first: Index, last: Index, writable: int) -> None:
        """All tiles of rows, and a lower one where the count is no multiple."""
        k, kernel = self.k, self.kernel
        height = self.tile_rows
        whole = k.add(k.mul(k.div(k.sub(k.index(last), first), height), height), first)

        def tile(row: Index) -> None:
            self._tile(a, y, row, height, writable)

        k.loop(first, whole, tile, step=height, name="rows")
        with k.when(k.ir.icmp_signed("<", k.index(whole), k.index(last))):
            self._tile(a, y, whole, kernel.rows % height or 1, writable)

    def _tile(self, a: Value, y: Value, row: Index, count: int, writable: int) -> None:
        k, kernel = self.k, self.kernel
        indices = [k.add(row, i) for i in range(count)]
        sums = self.tile_sums([k.at(a, k.mul(i, kernel.a.strides[-2])) for i in indices])
        places = [
            Place(k.at(y, k.mul(i, kernel.output.strides[-2])), None, writable) for i in indices
        ]
        tiles = [sums[i * VECTORS : (i + 1) * VECTORS] for i in range(count)]
        self.epilogue.finish(tiles, 0, places)

    def widen(self, source: Value, target: Value) -> None:
        """A row of ``a`` as int16 without its zero point; reads at most a vector past its end."""
        k, isa, zero = self.k, self.isa, self.numbers[0]
        half = isa.vector_bytes // 2

        def piece(i: Index) -> None:
            words = k.ir.zext(k.load(vector(I8, half), source, i), zero.type)
            k.store(k.ir.sub(words, zero), target, k.mul(i, 2), align=isa.vector_bytes)

        k.loop(0, self.kernel.depth, piece, step=half, name="widen")


class PairWriter(ProductWriter):
    """Rows of ``b`` are widened to int16 without their zero point and interleaved by pairs.

    Each row of ``a`` is widened likewise; ``vpmaddwd`` adds two products to each int32 lane.
    """

    def allocate(self) -> None:
        """A panel of pairs, and the rows of a tile."""
        k, kernel, size = self.k, self.kernel, self.isa.vector_bytes
        self.pairs = -(-kernel.depth // 2)
        self.row_bytes = -(-kernel.depth // size) * 2 * size
        self.panel = k.stack(self.pairs * VECTORS * size)
        self.wide_rows = k.stack(self.tile_rows * self.row_bytes)

    def pack_panel(self, b: Value) -> None:
        """Rows ``2 p`` and ``2 p + 1`` of ``b`` as pairs of int16, in the epilogue's lane order."""
        k, kernel, isa = self.k, self.kernel, self.isa
        zero = self.numbers[1]
        stride = kernel.b.strides[-2]
        lanes = isa.lanes
        order = lane_channels(VECTORS, lanes, kernel.epilogue.form)

        def pair(p: Index, second: bool = True) -> None:
            at = k.mul(k.mul(p, 2), stride)
            first = self.columns_of(b, at)
            other = self.columns_of(b, k.add(at, stride)) if second else None
            target = k.at(self.panel, k.mul(p, VECTORS * isa.vector_bytes))
            for v in range(VECTORS):
                picked = order[v * lanes : (v + 1) * lanes]
                indices = [int(c) + row * self.width for c in picked for row in range(2)]
                octets = k.shuffle(first, first if other is None else other, indices)
                words = k.ir.sub(k.ir.zext(octets, zero.type), zero)
                if other is None:
                    keep = constant(words.type, [-1, 0] * lanes)
                    words = k.ir.and_(words, keep)
                k.store(words, target, v * isa.vector_bytes, align=isa.vector_bytes)

        k.loop(0, kernel.depth // 2, pair, name="pack")
        if kernel.depth % 2:
            pair(kernel.depth // 2, second=False)

    def tile_sums(self, rows: Sequence[Value]) -> list[Value]:
        """By ``multiply_add_pairs``, two rows of ``b`` a turn."""
        k, isa, size = self.k, self.isa, self.isa.vector_bytes
        type_ = self.numbers[0].type
        for i, row in enumerate(rows):
            self.widen(row, k.at(self.wide_rows, i * self.row_bytes))
        zero = constant(vector(I32, isa.lanes), 0)

        def step(p: Index, *sums: Value) -> list[Value]:
            panel = k.at(self.panel, k.mul(p, VECTORS * size))
            columns = [k.load(type_, panel, v * size, align=size) for v in range(VECTORS)]
            result = list(sums)
            for i in range(len(rows)):
                both = k.load(I32, self.wide_rows, k.add(k.mul(p, 4), i * self.row_bytes), align=4)
                spread = k.ir.bitcast(k.splat(both, isa.lanes), type_)
                for v, column in enumerate(columns):
                    product = primitives.call(k, isa, "multiply_add_pairs", spread, column)
                    at = i * VECTORS + v
                    result[at] = k.ir.add(result[at], product)
            return result

        start = [zero] * (VECTORS * len(rows))
        return k.loop(0, self.pairs, step, carried=start, name="products")
