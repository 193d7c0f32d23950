"""Softmax of float32 rows (contract 11): a fixed exponential and a fixed order of the sum.

Three walks along a row: its maximum; the exponentials, which are stored and summed in float64 in
eight lanes, however wide the vectors are; their quotients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.backends.llvm.builder import (
    F32,
    I32,
    Index,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import WithoutConstants
from qcc.backends.llvm.kernels.exponential import (
    chains,
    exponential,
    nan_where_unordered,
    side_by_side,
)
from qcc.backends.llvm.kernels.lanes import load_floats, store_floats
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.kernels.rows import RowWriter, check_rows, each_row
from qcc.numerics import SUM_LANES


@dataclass(frozen=True)
class FloatSoftmaxKernel(WithoutConstants):
    """Softmax along the last axis, which is contiguous in source and target.

    The target may be the source itself.  Operands: ``source, target``.
    """

    sizes: tuple[int, ...]
    source: View
    target: View

    def __post_init__(self) -> None:
        check_rows(self.sizes, (self.source, self.target), "a softmax")

    @property
    def name(self) -> str:
        """Such as ``float_softmax_1x1000``."""
        return f"float_softmax_{'x'.join(map(str, self.sizes))}"

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        blocks = max(1, chains(isa) * isa.lanes // max(isa.lanes, SUM_LANES))
        row = _Softmax(k, isa, self.sizes[-1], blocks)
        each_row(k, self.sizes, (self.source, self.target), row.write)
        return k.finish()


class _Softmax(RowWriter):
    """One row."""

    def write(self, source: Value, target: Value) -> None:
        k, isa = self.k, self.isa
        top = k.splat(self._maximum(source), isa.lanes)

        def terms(first: Index, count: int, carried: list[Value]) -> list[Value]:
            place = k.mul(first, 4)
            values = load_floats(k, isa, source, place, count)
            values = [k.ir.fsub(value, top) for value in values]
            values = side_by_side(k, values, exponential)
            store_floats(k, values, target, place, count)
            return [self.added(carried[0], self.filled(values, count, 0.0))]

        (lanes,) = self.blocks(terms, [self.zero_sums()], "terms")
        total = k.splat(k.ir.fptrunc(self.total(lanes), F32), isa.lanes)

        def quotients(first: Index, count: int, carried: list[Value]) -> list[Value]:
            place = k.mul(first, 4)
            values = [
                nan_where_unordered(k, total, k.ir.fdiv(value, total))
                for value in load_floats(k, isa, target, place, count)
            ]
            store_floats(k, values, target, place, count)
            return carried

        self.blocks(quotients, [], "quotients")

    def _maximum(self, source: Value) -> Value:
        """The largest element; NaN is passed over, for the sum carries it into every result."""
        k, lanes = self.k, self.isa.lanes

        def larger(first: Index, count: int, carried: list[Value]) -> list[Value]:
            best = carried[0]
            values = load_floats(k, self.isa, source, k.mul(first, 4), count)
            for value in self.filled(values, count, -np.inf):
                best = k.ir.select(k.ir.fcmp_ordered(">", value, best), value, best)
            return [best]

        lowest = constant(vector(F32, lanes), -np.inf)
        (best,) = self.blocks(larger, [lowest], "maximum")
        while best.type.count > 1:
            low, high = k.halves(best)
            best = k.ir.select(k.ir.fcmp_ordered(">", high, low), high, low)
        return k.ir.extract_element(best, constant(I32, 0))
