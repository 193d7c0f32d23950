"""ArgMax of float32 rows (contract 19).

Every lane keeps the greatest element that it has seen and where that was; at the end the lanes are
compared.  NaN is replaced by -inf, so that the order of comparisons does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from qcc.backends.llvm.builder import (
    F32,
    I1,
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
from qcc.backends.llvm.kernels import WithoutConstants
from qcc.backends.llvm.kernels.lanes import load_floats
from qcc.errors import ConfigError

UNROLL = 4
"""Vectors of one turn of the loop along a row."""


@dataclass(frozen=True)
class ArgMaxKernel(WithoutConstants):
    """``target[r]`` is where row ``r`` of ``rows`` rows of ``length`` elements is greatest.

    The first of equal elements, or the ``last``.  Rows lie side by side; the target is int64.
    Operands: ``source, target``.  Reads and writes exactly the elements.
    """

    rows: int
    length: int
    last: bool = False

    def __post_init__(self) -> None:
        if min(self.rows, self.length) < 1:
            raise ConfigError("ArgMax needs at least one row of one element.")

    @property
    def name(self) -> str:
        """Such as ``arg_max_263169x21``."""
        return f"arg_max_{self.rows}x{self.length}"

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``; threads share out the rows."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        search = Search(k, isa, last=self.last)
        step = UNROLL * isa.lanes
        whole = self.length // step * step

        def row(number: Index) -> None:
            source = k.at(k.operand("source"), k.mul(number, 4 * self.length))

            def block(first: Index, *carried: Value) -> list[Value]:
                values = load_floats(k, isa, source, k.mul(first, 4), step)
                return search.with_block(list(carried), values, step)

            state = k.loop(0, whole, block, step=step, carried=search.start(), name="block")
            if self.length > whole:
                left = self.length - whole
                values = load_floats(k, isa, source, 4 * whole, left)
                state = search.with_block(state, values, left)
            k.store(search.found(state), k.operand("target"), k.mul(number, 8), align=8)

        begin, end = k.thread_range(self.rows)
        k.loop(begin, end, row, name="rows")
        return k.finish()


class Search:
    """Looks for the greatest of float32 vectors that come one after the other.

    The state is what every lane found: the greatest element, where it was, and where the lane is.
    """

    def __init__(self, k: LoopBuilder, isa: InstructionSet, *, last: bool = False) -> None:
        self.k, self.lanes, self.last = k, isa.lanes, last
        self.floats, self.words = vector(F32, isa.lanes), vector(I32, isa.lanes)
        self.least = constant(self.floats, float("-inf"))

    def start(self) -> list[Value]:
        """Nothing seen: a first element of -inf is found where it is."""
        places = constant(self.words, list(range(self.lanes)))
        return [self.least, constant(self.words, -1) if self.last else places, places]

    def with_block(self, state: list[Value], values: Sequence[Value], count: int) -> list[Value]:
        """The state after vectors of ``count`` elements together (others are not looked at)."""
        k = self.k
        best, where, place = state
        for number, value in enumerate(values):
            value = k.ir.select(k.ir.fcmp_unordered("uno", value, value), self.least, value)
            better = k.ir.fcmp_ordered(">=" if self.last else ">", value, best)
            valid = count - number * self.lanes
            if valid < self.lanes:
                mask = [lane < valid for lane in range(self.lanes)]
                better = k.ir.and_(better, ir.Constant(vector(I1, self.lanes), mask))
            best = k.ir.select(better, value, best)
            where = k.ir.select(better, place, where)
            place = k.ir.add(place, constant(self.words, self.lanes))
        return [best, where, place]

    def found(self, state: list[Value]) -> Value:
        """The index, as an i64."""
        k = self.k
        best, where, _ = state
        greatest = self._folded(best, lambda a, b: k.ir.fcmp_ordered(">", a, b))
        same = k.ir.fcmp_ordered("==", best, k.splat(greatest, self.lanes))
        nowhere = -1 if self.last else np.iinfo(np.int32).max
        places = k.ir.select(same, where, constant(self.words, int(nowhere)))
        sign = ">" if self.last else "<"
        return k.ir.sext(self._folded(places, lambda a, b: k.ir.icmp_signed(sign, a, b)), I64)

    def _folded(self, value: Value, first_wins: Callable[[Value, Value], Value]) -> Value:
        k = self.k
        while value.type.count > 2:
            a, b = k.halves(value)
            value = k.ir.select(first_wins(a, b), a, b)
        # Vectors of one element are no types of AArch64: the last two are compared as scalars.
        last = [k.ir.extract_element(value, constant(I32, i)) for i in range(value.type.count)]
        return last[0] if len(last) == 1 else k.ir.select(first_wins(*last), *last)
