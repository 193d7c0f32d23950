"""Copy the taps of one output pixel side by side, optionally widening bytes to 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.llvm.builder import I8, I16, Index, LoopBuilder, Value, vector
from qcc.backends.llvm.isa import InstructionSet

_UNROLLED_CHUNKS = 36


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

    def write(self, k: LoopBuilder, isa: InstructionSet, source: Value, target: Value) -> None:
        """Write the copy of one pixel's taps from ``source`` to ``target``."""
        chunk = isa.vector_bytes // (2 if self.widen else 1)
        while chunk > 4 and chunk // 2 >= self.run:
            chunk //= 2
        chunks = -(-self.run // chunk)
        factor = 2 if self.widen else 1
        taps = self.rows * self.columns
        unroll_taps = taps * min(chunks, 8) <= _UNROLLED_CHUNKS

        def copy(i: Index, j: Index) -> None:
            begin = k.add(k.mul(i, self.row_pitch), k.mul(j, self.column_pitch))
            number = k.add(k.mul(i, self.columns), j)
            inner_source = k.at(source, begin)
            inner_target = k.at(target, k.mul(number, self.run * factor))
            self._run(k, inner_source, inner_target, chunk, chunks)

        if unroll_taps:
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
