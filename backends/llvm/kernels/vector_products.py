"""Integer products of a matrix tile on AArch64, in the pipelined loop of ``vector_loop.py``.

* ``dot``: a lane of four activations times four weights a channel.
* ``long``: products of two activations each are added in 16 bits, then neighbours to int32.
* ``matrix``: two rows of eight activations times two channels of eight weights, which give four
  int32; two such accumulators hold a row each once their halves are exchanged.

Rows are read past their ends, which :data:`~qcc.backends.llvm.kernels.READ_SLACK` allows for.
"""

from __future__ import annotations

from collections.abc import Sequence

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import I8, I16, I32, I64, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.kernels.panels import Panels
from qcc.backends.llvm.kernels.vector_loop import TURN_BYTES, Row, Step, VectorLoop

_OCTETS = vector(I8, 16)


class VectorProducts(VectorLoop):
    """Products of 8-bit activations and weights."""

    def __init__(
        self, k: LoopBuilder, panels: Panels, rows: Sequence[Row], weights: Value, vectors: int
    ) -> None:
        self.inner = panels.inner
        together = {1: 4, 2: 2}.get(len(rows), 1)
        if self.inner == "long":
            together = max(1, 4 // len(rows))
        super().__init__(
            k,
            panels.isa,
            _OCTETS,
            rows,
            weights,
            vectors,
            1 if self.inner == "matrix" else together,
            parts=panels.parts,
            pairs=self.inner == "matrix",
        )

    def run(self, quads: int, accumulators: list[Value]) -> list[Value]:
        """``accumulators`` and the products of ``quads`` groups of four activations a row."""
        values = self._paired(accumulators) if self.pairs else list(accumulators)
        turns = 4 * quads // TURN_BYTES
        if turns:
            values = self.turns(turns, values)
        done = turns * TURN_BYTES // 4
        if done < quads:
            self.part_of_turn(done, quads - done, values)
        return self._rowwise(values) if self.pairs else values

    def prepared(self, raw: Sequence[Value]) -> list[Value]:
        """Less 128, or two rows mixed."""
        k = self.k
        if self.isa.signed:
            return [k.ir.xor(value, constant(_OCTETS, -128)) for value in raw]
        if not self.pairs:
            return list(raw)
        prepared = []
        for r in range(0, len(raw), 2):
            both = [k.ir.bitcast(value, vector(I64, 2)) for value in raw[r : r + 2]]
            high = k.shuffle(both[0], both[-1], [1, 3])
            # LLVM joins lower halves in the first one's register, which must be of no more use.
            high, *both = self.fenced([high, *both])
            low = k.shuffle(both[0], both[-1], [0, 2])
            prepared += [k.ir.bitcast(value, _OCTETS) for value in (low, high)]
        return prepared

    def picked(self, step: Step, activations: Sequence[Value]) -> Sequence[Value]:
        """Eight of two rows, a lane of four, or two times two over and over."""
        k = self.k
        if self.pairs:
            return activations[step.group :: 2]
        if self.inner == "dot":
            words = [k.ir.bitcast(a, vector(I32, 4)) for a in activations]
            lanes = [k.shuffle(a, None, [step.group] * 4) for a in words]
            return [k.ir.bitcast(lane, _OCTETS) for lane in lanes]
        halves = [k.ir.bitcast(a, vector(I16, 8)) for a in activations]
        spread = [
            k.shuffle(a, None, [2 * step.group + half] * 8) for a in halves for half in range(2)
        ]
        # Known to LLVM at once, all groups' would be made early and spilled.
        return self.fenced([k.ir.bitcast(value, _OCTETS) for value in spread])

    def multiply(
        self, row: int, picked: Sequence[Value], weights: Value, accumulator: Value
    ) -> Value:
        """The instruction of the inner loop."""
        if self.pairs:
            operands = ("matrix_product", accumulator, picked[row // 2], weights)
        elif self.inner == "long":
            operands = ("add_long_products", accumulator, *picked[2 * row : 2 * row + 2], weights)
        elif self.isa.signed:
            operands = ("dot_signed_signed", accumulator, weights, picked[row])
        else:
            operands = ("dot_unsigned_signed", accumulator, picked[row], weights)
        return primitives.call(self.k, self.isa, *operands)

    # -- accumulators of two rows ---------------------------------------------------------------

    def _paired(self, accumulators: Sequence[Value]) -> list[Value]:
        """Row by row to pairs of rows: each holds two channels of both.  An odd row is its own."""
        k, n, result = self.k, self.vectors, []
        for r in range(0, len(self.rows), 2):
            other = r + 1 if r + 1 < len(self.rows) else r
            for v in range(n):
                both = [k.ir.bitcast(accumulators[i * n + v], vector(I64, 2)) for i in (r, other)]
                for half in range(2):
                    mixed = k.shuffle(both[0], both[1], [half, half + 2])
                    result.append(k.ir.bitcast(mixed, vector(I32, 4)))
        return result

    def _rowwise(self, sums: Sequence[Value]) -> list[Value]:
        """The inverse of :meth:`_paired`."""
        k, n = self.k, self.vectors
        rows: list[Value] = []
        for r in range(len(self.rows)):
            begin = (r - r % 2) * n
            for v in range(n):
                both = [
                    k.ir.bitcast(sums[begin + 2 * v + half], vector(I64, 2)) for half in range(2)
                ]
                mixed = k.shuffle(both[0], both[1], [r % 2, r % 2 + 2])
                rows.append(k.ir.bitcast(mixed, vector(I32, 4)))
        return rows
