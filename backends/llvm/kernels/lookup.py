"""Rows of a table by indices that are known only when the code runs: embeddings.

A negative index counts from the end.  An index outside the table reads row 0 instead, so that no
other memory is touched, and is noted where the caller looks for faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qcc.backends.llvm.builder import (
    I8,
    I32,
    I64,
    Index,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.errors import ConfigError

UNROLL = 4
"""Vectors of one turn of the copying loop."""


@dataclass(frozen=True)
class LookupKernel:
    """``target[i] = source[indices[i]]`` for ``count`` indices into ``rows`` rows.

    Rows are ``row_bytes`` bytes without gaps; indices are int32 or int64 (``index_bytes``).
    Operands: ``source, indices, fault, target``.  ``fault`` is two int64: where an index lies
    outside the table, it becomes the number of rows and that index (of one of them, where there
    are several), else it stays as it is.
    """

    count: int
    rows: int
    row_bytes: int
    index_bytes: Literal[4, 8]

    def __post_init__(self) -> None:
        if min(self.count, self.rows, self.row_bytes) < 1:
            raise ConfigError("A lookup needs at least one index and one row of one byte.")

    @property
    def name(self) -> str:
        """Such as ``lookup_128_of_30522x1536``: indices, rows and bytes of a row."""
        return f"lookup_{self.count}_of_{self.rows}x{self.row_bytes}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", "indices", "fault", "target")

    def pack(self, isa: InstructionSet) -> Packed:
        """No constants of its own."""
        return {}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``; threads share out the indices."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))

        def one(number: Index) -> None:
            row = self._row(k, number)
            source = k.at(k.operand("source"), k.mul(row, self.row_bytes))
            target = k.at(k.operand("target"), k.mul(number, self.row_bytes))
            _copy(k, isa, source, target, self.row_bytes)

        begin, end = k.thread_range(self.count)
        k.loop(begin, end, one, name="indices")
        return k.finish()

    def _row(self, k: LoopBuilder, number: Index) -> Value:
        """The row that index ``number`` means; 0 where there is none, which is noted."""
        size = self.index_bytes
        place = k.mul(number, size)
        given = k.index(k.load(I32 if size == 4 else I64, k.operand("indices"), place))
        zero, rows = constant(I64, 0), constant(I64, self.rows)
        from_end = k.ir.icmp_signed("<", given, zero)
        row = k.ir.select(from_end, k.ir.add(given, rows), given)
        outside = k.ir.icmp_unsigned(">=", row, rows)
        with k.when(outside):
            # Threads may write here at the same time: aligned words do not tear, and any is true.
            k.store(given, k.operand("fault"), 8, align=8)
            k.store(rows, k.operand("fault"), align=8)
        return k.ir.select(outside, zero, row)


def _copy(k: LoopBuilder, isa: InstructionSet, source: Value, target: Value, size: int) -> None:
    """Exactly ``size`` bytes."""
    width = isa.vector_bytes
    turn = UNROLL * width

    def vectors(at: Index, count: int) -> None:
        places = [k.add(at, i * width) for i in range(count)]
        loaded = [k.load(vector(I8, width), source, place) for place in places]
        for value, place in zip(loaded, places, strict=True):
            k.store(value, target, place)

    whole = size // turn * turn
    k.loop(0, whole, lambda at: vectors(at, UNROLL), step=turn, name="copy")
    vectors(whole, (size - whole) // width)
    done = size // width * width
    while done < size:
        while width > size - done:
            width //= 2
        type_ = k.integer(8 * width) if width <= 8 else vector(I8, width)
        k.store(k.load(type_, source, done), target, done)
        done += width
