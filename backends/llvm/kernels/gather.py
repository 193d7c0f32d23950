"""Copy the taps of one output pixel side by side, optionally widening bytes to 16 bits.

Pixels of few channels are padded to 4 or 8 bytes where they lie; the copy can leave the padding
out, so that no product is spent on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from qcc.backends.llvm.builder import I8, I16, I32, Index, LoopBuilder, Value, vector
from qcc.backends.llvm.isa import InstructionSet

_UNROLLED_CHUNKS = 36

_LANE = 16
"""Bytes that one shuffle rearranges."""


@dataclass(frozen=True)
class Gather:
    """``rows x columns`` runs of ``run`` bytes, ``row_pitch`` and ``column_pitch`` bytes apart.

    The runs are written one after the other.  A run is copied in whole vectors: it may read up to
    63 bytes past its end (buffers have that slack) and write as many past its end, where the next
    run follows or the scratch memory has slack.
    """

    run: int
    rows: int
    row_pitch: int
    columns: int
    column_pitch: int
    widen: bool
    pixel: tuple[int, int] | None = None

    def write(self, k: LoopBuilder, isa: InstructionSet, source: Value, target: Value) -> None:
        """Write the copy of one pixel's taps from ``source`` to ``target``."""
        if self.pixel is not None:
            packed, lanes = self._packed(k, source, target, *self.pixel)
            self._all(k, packed, self.rows * self.columns * lanes)
            return
        chunk = isa.vector_bytes // (2 if self.widen else 1)
        while chunk > 4 and chunk // 2 >= self.run:
            chunk //= 2
        chunks = -(-self.run // chunk)
        factor = 2 if self.widen else 1

        def copy(i: Index, j: Index) -> None:
            begin = k.add(k.mul(i, self.row_pitch), k.mul(j, self.column_pitch))
            number = k.add(k.mul(i, self.columns), j)
            inner_source = k.at(source, begin)
            inner_target = k.at(target, k.mul(number, self.run * factor))
            self._run(k, inner_source, inner_target, chunk, chunks)

        self._all(k, copy, self.rows * self.columns * min(chunks, 8))

    def _all(self, k: LoopBuilder, copy: Callable[[Index, Index], None], size: int) -> None:
        """Every run, without loops where they are few pieces."""
        if size <= _UNROLLED_CHUNKS:
            for i in range(self.rows):
                for j in range(self.columns):
                    copy(i, j)
            return
        k.loop(
            0,
            self.rows,
            lambda i: k.loop(0, self.columns, lambda j: copy(i, j), name="copy.columns") and None,
            name="copy.rows",
        )

    def _packed(
        self, k: LoopBuilder, source: Value, target: Value, stride: int, used: int
    ) -> tuple[Callable[[Index, Index], None], int]:
        """What copies a run without the padding of its pixels, in how many lanes."""
        pixels = _LANE // stride
        lane, factor = vector(I8, _LANE), 2 if self.widen else 1
        kept = [p * stride + c for p in range(pixels) for c in range(used)]
        kept += [0] * (_LANE - len(kept))  # what is written past a run is overwritten or not used
        mask = ir.Constant(vector(I32, _LANE), kept)
        lanes = -(-self.run // (pixels * used))

        def run(i: Index, j: Index) -> None:
            begin = k.add(k.mul(i, self.row_pitch), k.mul(j, self.column_pitch))
            place = k.mul(k.add(k.mul(i, self.columns), j), self.run * factor)
            for number in range(lanes):
                value = k.load(lane, k.at(source, begin), number * _LANE)
                value = k.ir.shuffle_vector(value, value, mask)
                value = k.ir.zext(value, vector(I16, _LANE)) if self.widen else value
                k.store(value, k.at(target, place), number * pixels * used * factor)

        return run, lanes

    def _run(self, k: LoopBuilder, source: Value, target: Value, chunk: int, chunks: int) -> None:
        unroll = chunks if chunks <= 8 else 4

        def body(index: Index) -> None:
            for i in range(unroll):
                number = k.add(index, i)
                value = k.load(vector(I8, chunk), source, k.mul(number, chunk))
                if self.widen:
                    value = k.ir.zext(value, vector(I16, chunk))
                k.store(value, target, k.mul(number, chunk * (2 if self.widen else 1)))

        whole = chunks // unroll * unroll
        k.loop(0, whole, body, step=unroll, name="copy.run")
        unroll = chunks - whole
        if unroll:
            body(whole)
