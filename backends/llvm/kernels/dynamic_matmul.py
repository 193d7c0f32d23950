"""Matrix product of two 8-bit activations (attention): the second operand is packed as it runs.

The columns of the result are cut into panels of four vectors.  For each panel the rows of ``b`` are
widened to int16 without their zero point and interleaved by pairs into scratch memory, and each row
of ``a`` is widened likewise; then ``vpmaddwd`` adds two products to each int32 lane.  Products of
two 9-bit numbers leave room for every sum: the compiler has proved the accumulators' bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

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
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.epilogue import (
    Epilogue,
    EpilogueWriter,
    ParameterBlock,
    Place,
    lane_channels,
)
from qcc.backends.llvm.kernels.nest import View
from qcc.errors import ConfigError

VECTORS = 4
"""Accumulator vectors of a row of a tile: one unit of the epilogue."""

ROWS = 2
"""Rows of a tile."""

MAX_DEPTH = 2048
"""Longest inner dimension: a packed panel and a widened tile of rows must fit on the stack."""

MANY_ITEMS = 8
"""With fewer panels than this, rows are shared out among threads, too."""


@dataclass(frozen=True)
class DynamicMatmulKernel:
    """``output[m, n] = requantize(sum over k of (a - z_a)[m, k] * (b - z_b)[k, n])``, batched.

    ``batch`` are the leading sizes; the views have a stride for each of them (0 broadcasts), for
    the rows and for the columns, in bytes; columns lie side by side.  Operands: ``a, b, parameters,
    output``.
    """

    batch: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    a: View
    b: View
    output: View
    epilogue: Epilogue = field(default_factory=Epilogue)

    def __post_init__(self) -> None:
        rank = len(self.batch) + 2
        if any(len(view.strides) != rank for view in (self.a, self.b, self.output)):
            raise ConfigError(f"The views of a matrix product need {rank} strides.")
        element = self.epilogue.element_bytes
        if (self.a.strides[-1], self.b.strides[-1], self.output.strides[-1]) != (1, 1, element):
            raise ConfigError("The columns of a matrix product's operands must lie side by side.")
        if self.depth > MAX_DEPTH:
            raise ConfigError(
                f"A product of activations over {self.depth} elements is not supported; "
                f"keep it in float (the limit is {MAX_DEPTH})."
            )
        if self.epilogue.residual is not None or self.epilogue.table:
            raise ConfigError("A product of activations takes no residual and no table.")

    @property
    def name(self) -> str:
        """Such as ``matmul_12x64x32x64``."""
        return f"matmul_{prod(self.batch)}x{self.rows}x{self.depth}x{self.columns}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("a", "b", "parameters", "output")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return prod(self.batch) * self.rows * self.depth * self.columns

    def pack(
        self,
        isa: InstructionSet,
        *,
        multiplier: float,
        a_zero_point: int,
        b_zero_point: int,
        output_zero_point: int = 0,
        low: int = 0,
        high: int = 255,
    ) -> Packed:
        """The numbers of the three quantizations, in stored uint8 units."""
        lanes = VECTORS * isa.lanes
        block = self._block(isa).pack(
            np.zeros(lanes, np.int32),
            np.full(lanes, multiplier, np.float32),
            output_zero_point=output_zero_point,
            low=low,
            high=high,
            residual_zero_point=0,
            residual_multiplier=0.0,
            table=None,
        )
        count = isa.vector_bytes // 2
        zeros = [np.full(count, z, np.int16).view(np.uint8) for z in (a_zero_point, b_zero_point)]
        return {"parameters": np.concatenate([*zeros, block])}

    def _block(self, isa: InstructionSet) -> ParameterBlock:
        return ParameterBlock(isa, VECTORS, self.epilogue)

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function; threads share out panels, and rows where those are few."""
        return _Writer(self, isa, declare_kernel(module, symbol, self.operands)).write()


class _Writer:
    """The code of one product."""

    def __init__(self, kernel: DynamicMatmulKernel, isa: InstructionSet, function: Any) -> None:
        self.kernel, self.isa = kernel, isa
        self.k = k = LoopBuilder(function)
        parameters = k.operand("parameters")
        wide = vector(I16, isa.vector_bytes // 2)
        self.zero_a, self.zero_b = (
            k.load(wide, parameters, i * isa.vector_bytes, align=isa.vector_bytes) for i in range(2)
        )
        block = kernel._block(isa)
        self.epilogue = EpilogueWriter(k, isa, block, k.at(parameters, 2 * isa.vector_bytes))
        self.width = VECTORS * isa.lanes
        self.pairs = -(-kernel.depth // 2)
        self.row_bytes = -(-kernel.depth // isa.vector_bytes) * 2 * isa.vector_bytes
        self.panel = k.stack(self.pairs * VECTORS * isa.vector_bytes)
        self.wide_rows = k.stack(ROWS * self.row_bytes)

    def write(self) -> Any:
        k, kernel = self.k, self.kernel
        panels = -(-kernel.columns // self.width)
        items = prod(kernel.batch) * panels
        chunk = kernel.rows
        if items < MANY_ITEMS and kernel.rows > 4 * ROWS:
            chunk = -(-kernel.rows // (4 * ROWS)) * ROWS
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
        k, kernel = self.k, self.kernel
        views = (kernel.a, kernel.b, kernel.output)
        offsets: list[Index] = [view.offset for view in views]
        for axis in reversed(range(len(kernel.batch))):
            index = k.mod(number, kernel.batch[axis]) if axis else number
            number = k.div(number, kernel.batch[axis])
            for i, view in enumerate(views):
                offsets[i] = k.add(offsets[i], k.mul(index, view.strides[axis]))
        a, b, y = (
            k.at(k.operand(name), offset)
            for name, offset in zip(("a", "b", "output"), offsets, strict=True)
        )
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
            self._pack(k.at(b, start))
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

    def _pack(self, b: Value) -> None:
        """Rows ``2 p`` and ``2 p + 1`` of ``b`` as pairs of int16, in the epilogue's lane order."""
        k, kernel, isa = self.k, self.kernel, self.isa
        stride = kernel.b.strides[-2]
        lanes = isa.lanes
        order = lane_channels(VECTORS, lanes, kernel.epilogue.form)

        def pair(p: Index, second: bool = True) -> None:
            at = k.mul(k.mul(p, 2), stride)
            rows = [self._bytes(b, at), self._bytes(b, k.add(at, stride)) if second else None]
            target = k.at(self.panel, k.mul(p, VECTORS * isa.vector_bytes))
            for v in range(VECTORS):
                picked = order[v * lanes : (v + 1) * lanes]
                indices = [int(c) + row * self.width for c in picked for row in range(2)]
                other = rows[1] if rows[1] is not None else rows[0]
                octets = k.shuffle(rows[0], other, indices)
                words = k.ir.sub(k.ir.zext(octets, self.zero_b.type), self.zero_b)
                if rows[1] is None:
                    keep = constant(words.type, [-1, 0] * lanes)
                    words = k.ir.and_(words, keep)
                k.store(words, target, v * isa.vector_bytes, align=isa.vector_bytes)

        k.loop(0, kernel.depth // 2, pair, name="pack")
        if kernel.depth % 2:
            pair(kernel.depth // 2, second=False)

    def _bytes(self, pointer: Value, offset: Index) -> Value:
        return self.k.load(vector(I8, self.width), pointer, offset)

    def _rows(self, a: Value, y: Value, first: Index, last: Index, writable: int) -> None:
        """All tiles of rows: pairs of them, and a single one where the count is odd."""
        k, kernel = self.k, self.kernel
        total = k.sub(k.index(last), first)
        whole = k.add(k.mul(k.div(total, ROWS), ROWS), first)
        k.loop(first, whole, lambda m: self._tile(a, y, m, ROWS, writable), step=ROWS, name="rows")
        with k.when(k.ir.icmp_signed("<", k.index(whole), k.index(last))):
            self._tile(a, y, whole, kernel.rows % ROWS or 1, writable)

    def _tile(self, a: Value, y: Value, row: Index, count: int, writable: int) -> None:
        k, kernel, isa = self.k, self.kernel, self.isa
        for i in range(count):
            source = k.at(a, k.mul(k.add(row, i), kernel.a.strides[-2]))
            self._widen(source, k.at(self.wide_rows, i * self.row_bytes))
        zero = constant(vector(I32, isa.lanes), 0)

        def step(p: Index, *sums: Value) -> list[Value]:
            panel = k.at(self.panel, k.mul(p, VECTORS * isa.vector_bytes))
            columns = [
                k.load(self.zero_b.type, panel, v * isa.vector_bytes, align=isa.vector_bytes)
                for v in range(VECTORS)
            ]
            result = list(sums)
            for i in range(count):
                both = k.load(I32, self.wide_rows, k.add(k.mul(p, 4), i * self.row_bytes), align=4)
                spread = k.ir.bitcast(k.splat(both, isa.lanes), self.zero_a.type)
                for v, column in enumerate(columns):
                    product = primitives.call(k, isa, "multiply_add_pairs", spread, column)
                    at = i * VECTORS + v
                    result[at] = k.ir.add(result[at], product)
            return result

        sums = k.loop(0, self.pairs, step, carried=[zero] * (VECTORS * count), name="products")
        places = [
            Place(k.at(y, k.mul(k.add(row, i), kernel.output.strides[-2])), None, writable)
            for i in range(count)
        ]
        tiles: Sequence[Sequence[Value]] = [
            sums[i * VECTORS : (i + 1) * VECTORS] for i in range(count)
        ]
        self.epilogue.finish(tiles, 0, places)

    def _widen(self, source: Value, target: Value) -> None:
        """A row of ``a`` as int16 without its zero point; reads at most a vector past its end."""
        k, isa = self.k, self.isa
        half = isa.vector_bytes // 2

        def piece(i: Index) -> None:
            words = k.ir.zext(k.load(vector(I8, half), source, i), self.zero_a.type)
            k.store(k.ir.sub(words, self.zero_a), target, k.mul(i, 2), align=isa.vector_bytes)

        k.loop(0, self.kernel.depth, piece, step=half, name="widen")
