"""Loops of products for instruction sets that pick lanes of activations loaded by whole vectors.

On AArch64 a row of activations is loaded 16 bytes at a time, and the multiply instructions pick
what they need of it.  The loops are pipelined by hand, because half of its cores issue instructions
in order: the weights of the next step and the activations of the next turn are loaded while the
products of this step are added.  Between two steps stands a fence (:meth:`LoopBuilder.fence`),
across which LLVM moves no load, so registers suffice and nothing is spilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcc.backends.llvm.builder import Index, LoopBuilder, Value
from qcc.backends.llvm.isa import InstructionSet

TURN_BYTES = 16
"""Activations of a row in one turn of the loop, and a vector of weights."""


@dataclass(frozen=True)
class Row:
    """One row of a tile: ``pointer + offset`` bytes is its first product."""

    pointer: Value
    offset: int = 0


@dataclass(frozen=True)
class Step:
    """Products of all rows with the weights of ``count`` vectors, from ``vector`` on.

    ``group`` numbers what is picked of the loaded activations, ``opens`` says that no step before
    did so; ``offset`` is where the weights lie in a turn.
    """

    group: int
    opens: bool
    vector: int
    count: int
    offset: int


class VectorLoop:
    """Adds one run of products to the accumulators of a tile, row by row ``vectors`` each.

    A turn has four groups of products, of ``parts`` vectors of weights for each accumulator.  With
    ``pairs`` an instruction multiplies two rows and a group counts twice.  ``together``: vectors of
    a step; weights of three steps are in registers at times.  The last turn loads what nobody uses;
    ``exact``: of the rows, it loads that from where they were read before.
    """

    def __init__(
        self,
        k: LoopBuilder,
        isa: InstructionSet,
        type_: Any,
        rows: Sequence[Row],
        weights: Value,
        vectors: int,
        together: int,
        *,
        parts: int = 1,
        pairs: bool = False,
        exact: bool = False,
    ) -> None:
        self.k, self.isa, self.type = k, isa, type_
        self.rows, self.weights, self.vectors = rows, weights, vectors
        self.together, self.parts, self.pairs, self.exact = together, parts, pairs, exact

    # -- what differs -------------------------------------------------------------------------

    def prepared(self, raw: Sequence[Value]) -> list[Value]:
        """Loaded rows as the multiply instruction takes them."""
        return list(raw)

    def picked(self, step: Step, activations: Sequence[Value]) -> Sequence[Value]:
        """What a step multiplies of the activations of every row (or of two)."""
        raise NotImplementedError

    def multiply(
        self, row: int, picked: Sequence[Value], weights: Value, accumulator: Value
    ) -> Value:
        """``accumulator`` and one vector of products of ``row`` (or of it and the next)."""
        raise NotImplementedError

    # -- the loop -----------------------------------------------------------------------------

    @property
    def group_bytes(self) -> int:
        """Bytes of weights of a group of products."""
        return self.vectors * self.parts * TURN_BYTES

    def turns(self, turns: int, accumulators: list[Value]) -> list[Value]:
        """``accumulators`` and the products of ``turns`` whole turns."""
        k, steps = self.k, self._steps(4)
        turn_bytes = 4 * self.group_bytes
        first = self._load_weights(steps[0], self.weights)
        loaded = [self._load_row(r, 0) for r in range(len(self.rows))]

        def body(turn: Index, *values: Value) -> list[Value]:
            count = len(accumulators)
            sums, raw = list(values[:count]), list(values[count : count + len(loaded)])
            weights = list(values[count + len(loaded) :])
            panel = k.at(self.weights, k.mul(turn, turn_bytes))
            coming_turn = k.add(turn, 1)
            if self.exact:
                coming_turn = k.minimum(coming_turn, turns - 1)
            offset = k.mul(coming_turn, TURN_BYTES)
            activations = self.fenced(self.prepared(raw))
            picked: Sequence[Value] = ()
            finished: list[int] = []
            for step, following in zip(steps, [*steps[1:], None], strict=True):
                after = k.at(panel, turn_bytes) if following is None else panel
                coming = self._load_weights(following or steps[0], after)
                self._fence(sums, [*finished, *self._touched(step)])
                finished = self._touched(step)
                if step.opens:
                    picked = self.picked(step, activations)
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

    def part_of_turn(self, first: int, groups: int, sums: list[Value]) -> None:
        """The last ``groups`` groups, fewer than a turn has, from number ``first`` on."""
        k = self.k
        panel = k.at(self.weights, first * self.group_bytes)
        raw = [self._load_row(r, first * TURN_BYTES // 4) for r in range(len(self.rows))]
        activations = self.fenced(self.prepared(raw))
        picked: Sequence[Value] = ()
        finished: list[int] = []
        for step in self._steps(groups):
            weights = self._load_weights(step, panel)
            self._fence(sums, [*finished, *self._touched(step)])
            finished = self._touched(step)
            if step.opens:
                picked = self.picked(step, activations)
            for rows in self._rows_together:
                self._multiply(step, rows[0], picked, weights, sums)

    @property
    def _rows_together(self) -> list[range]:
        """The rows that one instruction multiplies."""
        size, count = 2 if self.pairs else 1, len(self.rows)
        return [range(r, min(r + size, count)) for r in range(0, count, size)]

    def _steps(self, groups: int) -> list[Step]:
        """The steps of ``groups`` groups: a few vectors of weights each.

        Every other one first: LLVM makes one instruction of two loads that lie side by side, which
        cores that issue in order take long for.
        """
        size = 2 if self.pairs else 1
        steps: list[Step] = []
        for group in range(groups // size):
            for part in range(self.parts):
                base = (group * self.parts + part) * self.vectors
                firsts = list(range(0, self.vectors, self.together))
                for v in [*firsts[1::2], *firsts[::2]]:
                    opens = not steps or steps[-1].group != group
                    count = min(self.together, self.vectors - v)
                    steps.append(Step(group, opens, v, count, (base + v) * size * TURN_BYTES))
        return steps

    def _touched(self, step: Step) -> list[int]:
        """The accumulators that a step adds to."""
        return [i for rows in self._rows_together for i in self._sums(step, rows[0])]

    def _sums(self, step: Step, row: int) -> list[int]:
        """Those of one row, or of two."""
        vectors = range(step.vector, step.vector + step.count)
        if self.pairs:
            return [row * self.vectors + 2 * v + half for v in vectors for half in range(2)]
        return [row * self.vectors + v for v in vectors]

    def _multiply(
        self,
        step: Step,
        row: int,
        picked: Sequence[Value],
        weights: Sequence[Value],
        sums: list[Value],
    ) -> list[int]:
        """Add the products of one row (or two) in a step; gives the numbers of the sums."""
        touched = self._sums(step, row)
        for i, factor in zip(touched, weights, strict=True):
            sums[i] = self.multiply(row, picked, factor, sums[i])
        return touched

    def fenced(self, values: list[Value]) -> list[Value]:
        """``values`` behind a fence, which emulated code does without."""
        return values if self.isa.emulated else self.k.fence(values)

    def _fence(self, sums: list[Value], touched: Sequence[int]) -> None:
        numbers = list(dict.fromkeys(touched))
        values = self.fenced([sums[i] for i in numbers])
        for i, value in zip(numbers, values, strict=True):
            sums[i] = value

    def _load_row(self, row: int, offset: Index) -> Value:
        k, place = self.k, self.rows[row]
        return k.load(self.type, place.pointer, k.add(offset, place.offset), align=1)

    def _load_weights(self, step: Step, panel: Value) -> list[Value]:
        k, count = self.k, step.count * (2 if self.pairs else 1)
        places = range(step.offset, step.offset + count * TURN_BYTES, TURN_BYTES)
        return [k.load(self.type, panel, place, align=TURN_BYTES) for place in places]
