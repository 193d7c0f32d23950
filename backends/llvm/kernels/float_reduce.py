"""Sums, means and lengths of float32 rows (contract 14): float64 sums in eight lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qcc.backends.llvm.builder import F32, F64, Index, LoopBuilder, Value, constant, declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import WithoutConstants
from qcc.backends.llvm.kernels.exponential import nan_where_unordered
from qcc.backends.llvm.kernels.lanes import load_floats
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.kernels.rows import RowWriter, check_rows, each_row, square_root

Reduction = Literal["sum", "mean", "length"]


@dataclass(frozen=True)
class FloatReduceKernel(WithoutConstants):
    """One float32 for each of ``rows`` dense rows of ``length`` float32.

    ``length`` is the Euclidean one.  Operands: ``source, target``.
    """

    op: Reduction
    rows: int
    length: int

    def __post_init__(self) -> None:
        check_rows((self.rows, self.length), self._views, "a reduction")

    @property
    def _views(self) -> tuple[View, View]:
        return View(0, (4 * self.length, 4)), View(0, (4, 4))

    @property
    def name(self) -> str:
        """Such as ``float_mean_64x288``."""
        return f"float_{self.op}_{self.rows}x{self.length}"

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        row = _Reduced(k, isa, self)
        each_row(k, (self.rows, self.length), self._views, row.write)
        return k.finish()


class _Reduced(RowWriter):
    """One row."""

    def __init__(self, k: LoopBuilder, isa: InstructionSet, kernel: FloatReduceKernel) -> None:
        super().__init__(k, isa, kernel.length)
        self.op = kernel.op

    def write(self, source: Value, target: Value) -> None:
        k = self.k

        def squared(wide: Value) -> Value:
            return k.ir.fmul(wide, wide)

        def add(first: Index, valid: int, carried: list[Value]) -> list[Value]:
            values = load_floats(k, self.isa, source, k.mul(first, 4), valid)
            return [self.added(carried[0], values, squared if self.op == "length" else None)]

        (lanes,) = self.blocks(add, [self.zero_sums()], "sum")
        total = self.total(lanes)
        if self.op == "mean":
            total = k.ir.fdiv(total, constant(F64, float(self.length)))
        elif self.op == "length":
            total = square_root(k, total)
        result = k.splat(k.ir.fptrunc(total, F32), 4)
        result = nan_where_unordered(k, result, result)
        k.store(k.ir.extract_element(result, constant(k.integer(32), 0)), target)
