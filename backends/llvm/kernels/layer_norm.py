"""Layer normalization of float32 rows (contract 12).

Three walks along a row, which stays in the first-level cache: its sum, the sum of the squares of
its distances from the mean, and the results.  Both sums are float64 in eight lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.backends.llvm.builder import F32, F64, Index, LoopBuilder, Value, constant, declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.exponential import nan_where_unordered
from qcc.backends.llvm.kernels.lanes import load_floats, store_floats
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.kernels.rows import RowWriter, check_rows, each_row, square_root
from qcc.errors import ConfigError


@dataclass(frozen=True)
class LayerNormKernel:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` along the contiguous last axis.

    The target may be the source itself.  Operands: ``source, scale, [bias,] target``; ``scale`` and
    ``bias`` are float32 of the row's length.  Reads and writes exactly the elements.
    """

    sizes: tuple[int, ...]
    source: View
    target: View
    epsilon: float
    has_bias: bool = True

    def __post_init__(self) -> None:
        check_rows(self.sizes, (self.source, self.target), "a layer normalization")
        if not np.isfinite(self.epsilon):
            raise ConfigError("The epsilon of a layer normalization must be a number.")

    @property
    def name(self) -> str:
        """Such as ``layer_norm_128x384``."""
        return f"layer_norm_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", "scale", *(("bias",) if self.has_bias else ()), "target")

    def pack(self, isa: InstructionSet) -> Packed:
        """No constants of its own: scale and bias are operands."""
        return {}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        row = _Norm(k, isa, self)
        each_row(k, self.sizes, (self.source, self.target), row.write)
        return k.finish()


class _Norm(RowWriter):
    """One row."""

    def __init__(self, k: LoopBuilder, isa: InstructionSet, kernel: LayerNormKernel) -> None:
        super().__init__(k, isa, kernel.sizes[-1])
        self.epsilon = float(np.float32(kernel.epsilon))
        self.scale = k.operand("scale")
        self.bias = k.operand("bias") if kernel.has_bias else None

    def write(self, source: Value, target: Value) -> None:
        k, isa = self.k, self.isa
        count = constant(F64, float(self.length))

        def add(first: Index, valid: int, carried: list[Value]) -> list[Value]:
            return [self.added(carried[0], load_floats(k, isa, source, k.mul(first, 4), valid))]

        (sums,) = self.blocks(add, [self.zero_sums()], "sum")
        mean = k.splat(k.ir.fptrunc(k.ir.fdiv(self.total(sums), count), F32), isa.lanes)

        def distances(first: Index, valid: int) -> list[Value]:
            values = load_floats(k, isa, source, k.mul(first, 4), valid)
            return [k.ir.fsub(value, mean) for value in values]

        def square(first: Index, valid: int, carried: list[Value]) -> list[Value]:
            terms = self.filled(distances(first, valid), valid, 0.0)
            return [self.added(carried[0], terms, lambda wide: k.ir.fmul(wide, wide))]

        (sums,) = self.blocks(square, [self.zero_sums()], "squares")
        variance = k.ir.fdiv(self.total(sums), count)
        root = square_root(k, k.ir.fadd(variance, constant(F64, self.epsilon)))
        factor = k.splat(k.ir.fptrunc(k.ir.fdiv(constant(F64, 1.0), root), F32), isa.lanes)

        def finish(first: Index, valid: int, carried: list[Value]) -> list[Value]:
            place = k.mul(first, 4)
            values = [k.ir.fmul(value, factor) for value in distances(first, valid)]
            scales = load_floats(k, isa, self.scale, place, valid)
            values = [k.ir.fmul(a, b) for a, b in zip(values, scales, strict=True)]
            if self.bias is not None:
                biases = load_floats(k, isa, self.bias, place, valid)
                values = [k.ir.fadd(a, b) for a, b in zip(values, biases, strict=True)]
            values = [nan_where_unordered(k, value, value) for value in values]
            store_floats(k, values, target, place, valid)
            return carried

        self.blocks(finish, [], "normalize")
