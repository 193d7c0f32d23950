"""The code of a product of two activations on AArch64: dot products, or long ones on ARMv8.0.

Vectors of results hold neighbouring columns, so panels keep the order of ``b``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import I8, I16, I32, Index, Value, constant, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.dynamic_matmul_code import VECTORS, ProductWriter
from qcc.backends.llvm.kernels.lanes import interleave
from qcc.backends.llvm.kernels.reduce import horizontal_sum

_OCTETS, _WORDS = vector(I8, 16), vector(I32, 4)
_SIGN = -128


class LongWriter(ProductWriter):
    """Both operands are widened to int16 without their zero points.

    ``smlal`` multiplies four columns with an element of a row.
    """

    tile_rows = 4

    def allocate(self) -> None:
        """A panel of int16, and the rows of a tile."""
        k, depth = self.k, self.kernel.depth
        self.panel_row = 2 * self.width
        self.row_bytes = -(-depth // 8) * 16
        self.panel = k.stack(depth * self.panel_row)
        self.wide_rows = k.stack(self.tile_rows * self.row_bytes)

    def pack_panel(self, b: Value) -> None:
        """Row after row, 16 columns each."""
        k, stride, zero = self.k, self.kernel.b.strides[-2], self.numbers[1]

        def row(d: Index) -> None:
            target = k.at(self.panel, k.mul(d, self.panel_row))
            for i, octets in enumerate(k.halves(self.columns_of(b, k.mul(d, stride)))):
                words = k.ir.sub(k.ir.zext(octets, zero.type), zero)
                k.store(words, target, 16 * i, align=16)

        k.loop(0, self.kernel.depth, row, name="pack")

    def tile_sums(self, rows: Sequence[Value]) -> list[Value]:
        """Eight rows of ``b`` a turn, which is a vector of each row of ``a``."""
        k, depth = self.k, self.kernel.depth
        for i, row in enumerate(rows):
            self.widen(row, k.at(self.wide_rows, i * self.row_bytes))

        def some(d: Index, sums: Sequence[Value], count: int) -> list[Value]:
            result = list(sums)
            places = [k.add(k.mul(d, 2), i * self.row_bytes) for i in range(len(rows))]
            taken = [k.load(vector(I16, 8), self.wide_rows, place, align=16) for place in places]
            for j in range(count):
                panel = k.at(self.panel, k.mul(k.add(d, j), self.panel_row))
                pieces = [k.load(vector(I16, 8), panel, 16 * i, align=16) for i in range(2)]
                columns = [half for piece in pieces for half in k.halves(piece)]
                for i, values in enumerate(taken):
                    factor = k.ir.sext(k.shuffle(values, None, [j] * 4), _WORDS)
                    for v, column in enumerate(columns):
                        product = k.ir.mul(k.ir.sext(column, _WORDS), factor)
                        result[i * VECTORS + v] = k.ir.add(result[i * VECTORS + v], product)
            return result

        start = [constant(_WORDS, 0)] * (VECTORS * len(rows))
        whole = depth // 8 * 8
        sums = k.loop(
            0, whole, lambda d, *now: some(d, now, 8), step=8, carried=start, name="products"
        )
        return some(whole, sums, depth - whole) if depth > whole else sums


class DotWriter(ProductWriter):
    """Bytes less 128 are multiplied as they are, four rows of ``b`` at once.

    With ``a' = a - 128`` and ``b' = b - 128`` (zero points likewise) a sum is
    ``sum(a' b') - z_a' sum(b') - z_b' sum(a') + depth z_a' z_b'``: the sums of columns are found
    while a panel is packed, those of rows while a tile of rows is copied.
    """

    tile_rows = 4
    constant_vectors = 3

    @staticmethod
    def number_type(isa: InstructionSet) -> Any:
        """Int32."""
        return vector(I32, isa.lanes)

    @staticmethod
    def constants(
        isa: InstructionSet, depth: int, a_zero_point: int, b_zero_point: int
    ) -> list[NDArray[np.uint8]]:
        """``-z_a'``, ``-z_b'`` and ``depth z_a' z_b'``."""
        a, b = a_zero_point - 128, b_zero_point - 128
        values = (-a, -b, depth * a * b)
        return [np.full(isa.lanes, value, np.int32).view(np.uint8) for value in values]

    def allocate(self) -> None:
        """Rows and panels go on with zeros to a whole number of vectors."""
        k = self.k
        self.padded = -(-self.kernel.depth // 16) * 16
        self.group_bytes = VECTORS * 16
        self.panel = k.stack(self.padded // 4 * self.group_bytes)
        self.starts = k.stack(self.group_bytes)
        self.signed_rows = k.stack(self.tile_rows * self.padded)
        self.ones = constant(_OCTETS, 1)

    def _signed(self, octets: Value) -> Value:
        return self.k.ir.xor(octets, constant(_OCTETS, _SIGN))

    def _added(self, sum_: Value, octets: Value) -> Value:
        """Every four bytes added to a lane of ``sum_``."""
        return primitives.call(self.k, self.isa, "dot_signed_signed", sum_, octets, self.ones)

    def pack_panel(self, b: Value) -> None:
        """Groups of four rows, interleaved; and what sums begin with, column by column."""
        k, depth, stride = self.k, self.kernel.depth, self.kernel.b.strides[-2]
        zero = constant(_OCTETS, 0)

        def group(d: Index, sums: Sequence[Value], count: int) -> list[Value]:
            places = [k.mul(k.add(d, i), stride) for i in range(count)]
            rows = [self._signed(self.columns_of(b, place)) for place in places]
            packed = interleave(k, rows + [zero] * (4 - count))
            target = k.at(self.panel, k.mul(d, VECTORS * 4))
            for v, octets in enumerate(packed):
                k.store(octets, target, 16 * v, align=16)
            return [self._added(s, octets) for s, octets in zip(sums, packed, strict=True)]

        whole = depth // 4 * 4
        sums = [constant(_WORDS, 0)] * VECTORS
        sums = k.loop(0, whole, lambda d, *now: group(d, now, 4), step=4, carried=sums, name="pack")
        if depth > whole:
            sums = group(whole, sums, depth - whole)
        for at in range(-(-depth // 4) * self.group_bytes, self.padded * VECTORS * 4, 16):
            k.store(zero, self.panel, at, align=16)
        factor, _, fixed = self.numbers
        for v, sum_ in enumerate(sums):
            start = k.ir.add(k.ir.mul(sum_, factor), fixed)
            k.store(start, self.starts, 16 * v, align=16)

    def _row_start(self, source: Value, target: Value) -> Value:
        """Copy a row of ``a``; what its sums begin with.  Reads at most 15 bytes past its end."""
        k, depth = self.k, self.kernel.depth

        def piece(d: Index, sum_: Value, count: int) -> Value:
            octets = self._signed(k.load(_OCTETS, source, d))
            if count < 16:
                octets = k.ir.and_(octets, constant(_OCTETS, [-1] * count + [0] * (16 - count)))
            k.store(octets, target, d, align=16)
            return self._added(sum_, octets)

        whole = depth // 16 * 16
        (sum_,) = k.loop(
            0,
            whole,
            lambda d, now: [piece(d, now, 16)],
            step=16,
            carried=[constant(_WORDS, 0)],
            name="row",
        )
        if depth > whole:
            sum_ = piece(whole, sum_, depth - whole)
        return k.ir.mul(k.splat(horizontal_sum(k, sum_), 4), self.numbers[1])

    def tile_sums(self, rows: Sequence[Value]) -> list[Value]:
        """Sixteen rows of ``b`` a turn, which is a vector of each row of ``a``."""
        k, isa = self.k, self.isa
        offsets = [i * self.padded for i in range(len(rows))]
        row_starts = [
            self._row_start(row, k.at(self.signed_rows, offset))
            for row, offset in zip(rows, offsets, strict=True)
        ]
        starts = [k.load(_WORDS, self.starts, 16 * v, align=16) for v in range(VECTORS)]

        def step(d: Index, *sums: Value) -> list[Value]:
            result = list(sums)
            taken = [
                k.ir.bitcast(k.load(_OCTETS, self.signed_rows, k.add(d, at), align=16), _WORDS)
                for at in offsets
            ]
            panel = k.at(self.panel, k.mul(d, VECTORS * 4))
            for g in range(4):
                columns = [
                    k.load(_OCTETS, panel, g * self.group_bytes + 16 * v, align=16)
                    for v in range(VECTORS)
                ]
                for i, words in enumerate(taken):
                    factor = k.ir.bitcast(k.shuffle(words, None, [g] * 4), _OCTETS)
                    for v, column in enumerate(columns):
                        at = i * VECTORS + v
                        result[at] = primitives.call(
                            k, isa, "dot_signed_signed", result[at], column, factor
                        )
            return result

        carried = [k.ir.add(start, row) for row in row_starts for start in starts]
        return k.loop(0, self.padded, step, step=16, carried=carried, name="products")
