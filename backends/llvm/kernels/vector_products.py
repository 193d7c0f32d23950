"""Inner loops of the matrix product for instruction sets that read activations by whole vectors.

On AArch64 a row of activations is loaded 16 bytes at a time, and the multiply instructions pick
what they need of it.  The loops are pipelined by hand, because half of its cores issue instructions
in order: the weights of the next step and the activations of the next turn are loaded while the
products of this step are added.  Between two steps stands a fence (:meth:`LoopBuilder.fence`),
across which LLVM moves no load, so registers suffice and nothing is spilled.  The last turn loads
what nobody uses, which :data:`~qcc.backends.llvm.kernels.READ_SLACK` allows for.

* ``dot``: a lane of four activations times four weights a channel.
* ``long``: products of two activations each are added in 16 bits, then neighbours to int32.
* ``matrix``: two rows of eight activations times two channels of eight weights, which give four
  int32; two such accumulators hold a row each once their halves are exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import I8, I16, I32, I64, Index, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.kernels.panels import Panels

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.gemm import Row

TURN_BYTES = 16
"""Activations of a row in one turn of the loop."""

_OCTETS = vector(I8, 16)


@dataclass(frozen=True)
class _Step:
    """Products of all rows with the weights of ``count`` vectors, from ``vector`` on.

    ``group`` numbers what is picked of the loaded activations, ``opens`` says that no step before
    did so; ``offset`` is where the weights lie in a turn.
    """

    group: int
    opens: bool
    vector: int
    count: int
    offset: int


class VectorProducts:
    """Adds one run of products to the accumulators of a tile, row by row ``vectors`` each."""

    def __init__(
        self, k: LoopBuilder, panels: Panels, rows: Sequence[Row], weights: Value, vectors: int
    ) -> None:
        self.k, self.isa, self.panels = k, panels.isa, panels
        self.rows, self.weights, self.vectors = rows, weights, vectors
        self.matrix = panels.inner == "matrix"

    def run(self, quads: int, accumulators: list[Value]) -> list[Value]:
        """``accumulators`` and the products of ``quads`` groups of four activations a row."""
        values = self._paired(accumulators) if self.matrix else list(accumulators)
        turns = 4 * quads // TURN_BYTES
        if turns:
            values = self._turns(turns, values)
        done = turns * TURN_BYTES // 4
        if done < quads:
            self._part_of_turn(done, quads - done, values)
        return self._rowwise(values) if self.matrix else values

    # -- whole turns --------------------------------------------------------------------------

    def _turns(self, turns: int, accumulators: list[Value]) -> list[Value]:
        k, steps = self.k, self._steps(4)
        turn_bytes = 4 * self.vectors * self.panels.quad_bytes
        first = self._load_weights(steps[0], self.weights)
        loaded = [self._load_row(r, 0) for r in range(len(self.rows))]

        def body(turn: Index, *values: Value) -> list[Value]:
            count = len(accumulators)
            sums, raw = list(values[:count]), list(values[count : count + len(loaded)])
            weights = list(values[count + len(loaded) :])
            panel = k.at(self.weights, k.mul(turn, turn_bytes))
            offset = k.mul(k.add(turn, 1), TURN_BYTES)
            activations = self._fenced(self._prepared(raw))
            picked: Sequence[Value] = ()
            finished: list[int] = []
            for step, following in zip(steps, [*steps[1:], None], strict=True):
                after = k.at(panel, turn_bytes) if following is None else panel
                coming = self._load_weights(following or steps[0], after)
                self._fence(sums, [*finished, *self._touched(step)])
                finished = self._touched(step)
                if step.opens:
                    picked = self._picked(step, activations)
                for rows in self._rows_together:
                    touched = self._multiply(step, rows[0], picked, weights, sums)
                    if following is None:
                        self._fence(sums, touched)
                        for row in rows:
                            raw[row] = self._load_row(row, offset)
                weights = coming
            return [*sums, *raw, *weights]

        carried = [*accumulators, *loaded, *first]
        found = k.loop(0, turns, body, carried=carried, name="products")
        return list(found[: len(accumulators)])

    def _part_of_turn(self, first: int, quads: int, sums: list[Value]) -> None:
        """The last ``quads`` groups of four, fewer than a turn has, from number ``first`` on."""
        k = self.k
        panel = k.at(self.weights, first * self.vectors * self.panels.quad_bytes)
        raw = [self._load_row(r, 4 * first) for r in range(len(self.rows))]
        activations = self._fenced(self._prepared(raw))
        picked: Sequence[Value] = ()
        finished: list[int] = []
        for step in self._steps(quads):
            weights = self._load_weights(step, panel)
            self._fence(sums, [*finished, *self._touched(step)])
            finished = self._touched(step)
            if step.opens:
                picked = self._picked(step, activations)
            for rows in self._rows_together:
                self._multiply(step, rows[0], picked, weights, sums)

    @property
    def _rows_together(self) -> list[range]:
        """The rows that one instruction multiplies."""
        size, count = 2 if self.matrix else 1, len(self.rows)
        return [range(r, min(r + size, count)) for r in range(0, count, size)]

    def _steps(self, quads: int) -> list[_Step]:
        """The steps of ``quads`` groups of four: a few vectors of weights each.

        Every other one first: LLVM makes one instruction of two loads that lie side by side, which
        cores that issue in order take long for.
        """
        size = 2 if self.matrix else 1
        together = self._together
        steps: list[_Step] = []
        for group in range(quads // size):
            for part in range(self.panels.parts):
                base = (group * self.panels.parts + part) * self.vectors
                firsts = list(range(0, self.vectors, together))
                for v in [*firsts[1::2], *firsts[::2]]:
                    opens = not steps or steps[-1].group != group
                    count = min(together, self.vectors - v)
                    steps.append(_Step(group, opens, v, count, (base + v) * size * TURN_BYTES))
        return steps

    @property
    def _together(self) -> int:
        """Vectors of a step: enough sums to hide a latency, few enough for the registers.

        Weights of three steps are in registers at times.
        """
        if self.matrix:
            return 1
        if self.panels.inner == "long":
            return max(1, 4 // len(self.rows))
        return {1: 4, 2: 2}.get(len(self.rows), 1)

    def _touched(self, step: _Step) -> list[int]:
        """The accumulators that a step adds to."""
        return [i for rows in self._rows_together for i in self._sums(step, rows[0])]

    def _sums(self, step: _Step, row: int) -> list[int]:
        """Those of one row, or of two (``matrix``)."""
        vectors = range(step.vector, step.vector + step.count)
        if self.matrix:
            return [row * self.vectors + 2 * v + half for v in vectors for half in range(2)]
        return [row * self.vectors + v for v in vectors]

    def _fenced(self, values: list[Value]) -> list[Value]:
        return values if self.isa.emulated else self.k.fence(values)

    def _fence(self, sums: list[Value], touched: Sequence[int]) -> None:
        numbers = list(dict.fromkeys(touched))
        values = self._fenced([sums[i] for i in numbers])
        for i, value in zip(numbers, values, strict=True):
            sums[i] = value

    def _load_row(self, row: int, offset: Index) -> Value:
        k, place = self.k, self.rows[row]
        return k.load(_OCTETS, place.pointer, k.add(offset, place.offset))

    def _load_weights(self, step: _Step, panel: Value) -> list[Value]:
        k, count = self.k, step.count * (2 if self.matrix else 1)
        places = range(step.offset, step.offset + count * TURN_BYTES, TURN_BYTES)
        return [k.load(_OCTETS, panel, place, align=16) for place in places]

    # -- products -----------------------------------------------------------------------------

    def _prepared(self, raw: Sequence[Value]) -> list[Value]:
        """Loaded rows as the multiply instruction takes them."""
        k = self.k
        if self.isa.signed:
            return [k.ir.xor(value, constant(_OCTETS, -128)) for value in raw]
        if not self.matrix:
            return list(raw)
        prepared = []
        for r in range(0, len(raw), 2):
            both = [k.ir.bitcast(value, vector(I64, 2)) for value in raw[r : r + 2]]
            high = k.shuffle(both[0], both[-1], [1, 3])
            # LLVM joins lower halves in the first one's register, which must be of no more use.
            high, *both = self._fenced([high, *both])
            low = k.shuffle(both[0], both[-1], [0, 2])
            prepared += [k.ir.bitcast(value, _OCTETS) for value in (low, high)]
        return prepared

    def _picked(self, step: _Step, activations: Sequence[Value]) -> Sequence[Value]:
        """What a step multiplies of the activations of every row (or of two)."""
        k = self.k
        if self.matrix:
            return activations[step.group :: 2]
        if self.panels.inner == "dot":
            words = [k.ir.bitcast(a, vector(I32, 4)) for a in activations]
            lanes = [k.shuffle(a, None, [step.group] * 4) for a in words]
            return [k.ir.bitcast(lane, _OCTETS) for lane in lanes]
        pairs = [k.ir.bitcast(a, vector(I16, 8)) for a in activations]
        spread = [
            k.shuffle(a, None, [2 * step.group + half] * 8) for a in pairs for half in range(2)
        ]
        # Known to LLVM at once, all groups' would be made early and spilled.
        return self._fenced([k.ir.bitcast(value, _OCTETS) for value in spread])

    def _multiply(
        self,
        step: _Step,
        row: int,
        picked: Sequence[Value],
        weights: Sequence[Value],
        sums: list[Value],
    ) -> list[int]:
        """Add the products of one row (or two) in a step; gives the numbers of the sums."""
        k, isa, touched = self.k, self.isa, self._sums(step, row)
        for i, b in zip(touched, weights, strict=True):
            if self.matrix:
                operands = ("matrix_product", sums[i], picked[row // 2], b)
            elif self.panels.inner == "long":
                operands = ("add_long_products", sums[i], *picked[2 * row : 2 * row + 2], b)
            elif isa.signed:
                operands = ("dot_signed_signed", sums[i], b, picked[row])
            else:
                operands = ("dot_unsigned_signed", sums[i], picked[row], b)
            sums[i] = primitives.call(k, isa, *operands)
        return touched

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
