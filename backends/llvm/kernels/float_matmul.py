"""Matrix product of two float32 activations (contract 13): attention that stays float.

Each result is one float32 sum over the inner dimension in ascending order of fused multiply-adds,
so tiles may be cut in any way.  The columns are cut into panels of a few
vectors; the rows of ``b`` that a panel needs are copied side by side onto the stack, as many as fit
the first-level cache, and tiles of rows stay in registers.  Where the inner dimension is longer,
the sums so far wait in the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from qcc.backends.llvm.builder import (
    F32,
    Index,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import WithoutConstants
from qcc.backends.llvm.kernels.exponential import nan_where_unordered
from qcc.backends.llvm.kernels.lanes import fused_multiply_add, load_floats, store_floats
from qcc.backends.llvm.kernels.nest import View, batch_pointers
from qcc.errors import ConfigError

PANEL_BYTES = 16 * 1024
"""Most bytes of a copied panel: half of the first-level cache."""

MANY_ITEMS = 16
"""With fewer panels than this, rows are shared out among threads, too."""


@dataclass(frozen=True)
class FloatMatmulKernel(WithoutConstants):
    """``output[m, n] = sum over k of a[m, k] * b[k, n]``, batched.

    ``batch`` are the leading sizes; the views have a stride for each of them (0 broadcasts), for
    the rows and for the columns, in bytes; columns lie side by side.  The output overlaps neither
    operand.  Operands: ``a, b, output``.  Reads and writes exactly the elements.
    """

    batch: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    a: View
    b: View
    output: View

    def __post_init__(self) -> None:
        rank = len(self.batch) + 2
        views = (self.a, self.b, self.output)
        if any(len(view.strides) != rank for view in views):
            raise ConfigError(f"The views of a matrix product need {rank} strides.")
        lengths = (self.depth, self.columns, self.columns)
        gaps = zip(views, lengths, strict=True)
        if any(view.strides[-1] != 4 and length > 1 for view, length in gaps):
            raise ConfigError("The columns of a matrix product's operands must lie side by side.")
        if min(*self.batch, self.rows, self.depth, self.columns) < 1:
            raise ConfigError("A matrix product without elements has no kernel.")

    @property
    def name(self) -> str:
        """Such as ``float_matmul_12x128x32x128``."""
        return f"float_matmul_{prod(self.batch)}x{self.rows}x{self.depth}x{self.columns}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("a", "b", "output")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return prod(self.batch) * self.rows * self.depth * self.columns

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function; threads share out panels, and rows where those are few."""
        return _Writer(self, isa, declare_kernel(module, symbol, self.operands)).write()


@dataclass(frozen=True)
class _Panel:
    """Rows of ``b``: where the first begins, bytes between them, and how many columns are real."""

    start: Value
    pitch: int
    columns: int


class _Writer:
    """The code of one product."""

    def __init__(self, kernel: FloatMatmulKernel, isa: InstructionSet, function: Any) -> None:
        self.kernel, self.isa = kernel, isa
        self.k = LoopBuilder(function)
        self.vectors = min(2 if isa.lanes > 4 else 4, -(-kernel.columns // isa.lanes))
        self.width = self.vectors * isa.lanes
        self.tile = _tile_rows(isa, self.vectors)
        self.block = min(kernel.depth, PANEL_BYTES // (4 * self.width))
        self.scratch = self.k.stack(self.block * self.width * 4)

    def write(self) -> Any:
        k, kernel = self.k, self.kernel
        panels = -(-kernel.columns // self.width)
        items = prod(kernel.batch) * panels
        chunk = kernel.rows
        if items < MANY_ITEMS and kernel.rows > 4 * self.tile:
            chunk = -(-kernel.rows // (4 * self.tile)) * self.tile
        chunks = -(-kernel.rows // chunk)

        def item(number: Index) -> None:
            part, rest = k.mod(number, chunks), k.div(number, chunks)
            column, rest = k.mod(rest, panels), k.div(rest, panels)
            pointers = self._batch(rest)
            first = k.mul(part, chunk)
            last = k.minimum(k.add(first, chunk), kernel.rows)
            self._each_panel(column, panels, pointers, (first, last))

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
        pointers: tuple[Value, Value, Value],
        rows: tuple[Index, Index],
    ) -> None:
        """The panel's code; a last panel of fewer columns has code of its own."""
        k = self.k
        a, b, y = pointers
        place = k.mul(column, 4 * self.width)
        b, y = k.at(b, place), k.at(y, place)
        rest = self.kernel.columns - (panels - 1) * self.width
        if panels == 1 or rest == self.width:
            self._panel(a, b, y, rows, rest)
            return
        ends = k.ir.icmp_signed("==", k.index(column), k.index(panels - 1))
        with k.ir.if_else(ends) as (short, whole):
            with short:
                self._panel(a, b, y, rows, rest)
            with whole:
                self._panel(a, b, y, rows, self.width)

    def _panel(self, a: Value, b: Value, y: Value, rows: tuple[Index, Index], columns: int) -> None:
        """All blocks of the inner dimension, one after the other."""
        k, depth = self.k, self.kernel.depth

        def block(start: Index, count: int, first: bool) -> None:
            panel = self._packed(k.at(b, k.mul(start, self.kernel.b.strides[-2])), count, columns)
            self._rows(k.at(a, k.mul(start, 4)), panel, y, rows, count, first)

        block(0, self.block, True)
        whole = depth // self.block * self.block
        k.loop(
            self.block,
            whole,
            lambda start: block(start, self.block, False),
            step=self.block,
            name="depth",
        )
        if depth > whole:
            block(whole, depth - whole, False)

    def _packed(self, b: Value, count: int, columns: int) -> _Panel:
        """``count`` rows of a panel, with zeros in the columns that are missing.

        Whole rows that are read once or twice stay where they are.
        """
        k, isa = self.k, self.isa
        pitch = self.kernel.b.strides[-2]
        if columns == self.width and self.kernel.rows <= 2 * self.tile:
            return _Panel(b, pitch, columns)

        def row(index: Index) -> None:
            values = load_floats(k, isa, b, k.mul(index, pitch), columns)
            values += [constant(values[0].type, 0.0)] * (self.vectors - len(values))
            for i, value in enumerate(values):
                place = k.add(k.mul(index, 4 * self.width), i * isa.vector_bytes)
                k.store(value, self.scratch, place, align=isa.vector_bytes)

        k.loop(0, count, row, name="pack")
        return _Panel(self.scratch, 4 * self.width, columns)

    def _rows(
        self,
        a: Value,
        panel: _Panel,
        y: Value,
        rows: tuple[Index, Index],
        count: int,
        first: bool,
    ) -> None:
        """All tiles of rows: whole ones, and one of what is left at the end of the matrix."""
        k, kernel = self.k, self.kernel
        begin, end = rows
        whole = k.add(k.mul(k.div(k.sub(end, begin), self.tile), self.tile), begin)

        def tile(row: Index, height: int) -> None:
            source = k.at(a, k.mul(row, kernel.a.strides[-2]))
            target = k.at(y, k.mul(row, kernel.output.strides[-2]))
            self._tile(source, panel, target, height, count, first)

        k.loop(begin, whole, lambda row: tile(row, self.tile), step=self.tile, name="rows")
        left = kernel.rows % self.tile
        if left:
            with k.when(k.ir.icmp_signed("<", k.index(whole), k.index(end))):
                tile(whole, left)

    def _tile(
        self, a: Value, panel: _Panel, y: Value, height: int, count: int, first: bool
    ) -> None:
        k, isa, vectors = self.k, self.isa, self.vectors
        pitches = (self.kernel.a.strides[-2], self.kernel.output.strides[-2])
        zero = constant(vector(F32, isa.lanes), 0.0)
        sums: list[Value] = [zero] * (height * vectors)
        if not first:
            sums = []
            for i in range(height):
                loaded = load_floats(k, isa, y, i * pitches[1], panel.columns)
                sums += loaded + [zero] * (vectors - len(loaded))

        def step(index: Index, *carried: Value) -> list[Value]:
            place = k.mul(index, panel.pitch)
            columns = [
                k.load(zero.type, panel.start, k.add(place, v * isa.vector_bytes))
                for v in range(vectors)
            ]
            result = list(carried)
            for i in range(height):
                at = k.add(k.mul(index, 4), i * pitches[0])
                one = k.splat(k.load(F32, a, at, align=4), isa.lanes)
                for v, column in enumerate(columns):
                    n = i * vectors + v
                    result[n] = fused_multiply_add(k, one, column, result[n])
            return result

        sums = k.loop(0, count, step, carried=sums, name="products")
        for i in range(height):
            row: Sequence[Value] = sums[i * vectors : (i + 1) * vectors]
            values = [nan_where_unordered(k, value, value) for value in row]
            store_floats(k, values, y, i * pitches[1], panel.columns)


def _tile_rows(isa: InstructionSet, vectors: int) -> int:
    """Rows whose sums fit the registers, beside the columns and one factor."""
    return min(8, (isa.vector_registers - vectors - 1) // vectors)
