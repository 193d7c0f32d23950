"""Softmax of 8-bit rows in fixed point: sums are exact, so their order cannot matter.

The exponential of a distance from the row's maximum is one of 256 constants; so is its float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import (
    F32,
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
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.backends.llvm.kernels.lanes import load_first, store_floats
from qcc.backends.llvm.kernels.nest import Nest, View
from qcc.backends.llvm.kernels.reduce import Form
from qcc.backends.llvm.kernels.rounding import (
    Division,
    Quantizer,
    division_for,
    output_block,
    output_scalars,
)
from qcc.errors import ConfigError
from qcc.ir.integer.softmax import exponential_table

WORD = 8
"""Bytes that are looked up from one 64-bit load."""

FLOAT_TABLE = 256 * 8
"""Offset of the float32 table after the int64 table."""


@dataclass(frozen=True)
class SoftmaxKernel:
    """Softmax along the last axis, which is contiguous in source and target.

    ``form`` ``float32`` stores ``float32(t) / float32(sum)``; ``uint8`` quantizes it, dividing as
    ``division`` says.  Operands: ``source, table, parameters, target``.
    """

    sizes: tuple[int, ...]
    source: View
    target: View
    form: Form = "float32"
    division: Division = "divide"

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.source, self.target))
        last = (self.source.strides[-1], self.target.strides[-1])
        if last != (1, self._size) and self.sizes[-1] > 1:
            raise ConfigError("The last axis of a softmax must be contiguous on both sides.")

    @staticmethod
    def of(
        sizes: tuple[int, ...], source: View, target: View, output_scale: float | None = None
    ) -> SoftmaxKernel:
        """The specification for a known output scale (None: float32 results)."""
        if output_scale is None:
            return SoftmaxKernel(sizes, source, target)
        division = division_for(float(output_scale))
        return SoftmaxKernel(sizes, source, target, "uint8", division)

    @property
    def _size(self) -> int:
        return 4 if self.form == "float32" else 1

    @property
    def name(self) -> str:
        """Such as ``softmax_1x1000``."""
        return f"softmax_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", "table", "parameters", "target")

    def pack(
        self,
        isa: InstructionSet,
        *,
        input_scale: float,
        output_scale: float = 1.0,
        output_zero_point: int = 0,
        low: int = 0,
        high: int = 255,
    ) -> Packed:
        """The input's scale (its zero point cancels) and, for uint8, the output's numbers."""
        terms = exponential_table(float(np.float32(input_scale)))
        division = self.division if self.form == "uint8" else "divide"
        values = output_scalars(output_scale, output_zero_point, low, high, division)
        tables = terms.astype(np.int64).tobytes() + terms.astype(np.float32).tobytes()
        return {
            "table": np.frombuffer(tables, np.uint8),
            "parameters": output_block().pack(**values),
        }

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        scalars = output_block().load(k, isa, k.operand("parameters"))
        rows = tuple(View(v.offset, (*v.strides[:-1], 0)) for v in (self.source, self.target))
        nest = Nest((*self.sizes[:-1], 1), rows).merged((0, 0))
        row = _Row(k, isa, self.sizes[-1], self.form, Quantizer(k, isa, scalars, self.division))

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            del first, count
            row.write(k.at(k.operand("source"), offsets[0]), k.at(k.operand("target"), offsets[1]))

        nest.write(k, 1, piece)
        return k.finish()


class _Row:
    """One row: its maximum, the sum of its terms, and their quotients."""

    def __init__(
        self, k: LoopBuilder, isa: InstructionSet, length: int, form: Form, quantizer: Quantizer
    ) -> None:
        self.k, self.isa, self.length, self.form = k, isa, length, form
        self.quantizer = quantizer
        self.table = k.operand("table")

    def write(self, source: Value, target: Value) -> None:
        k, length = self.k, self.length
        top = self._maximum(source)
        # The term of byte x lies at (top - x); both tables are walked down from their top's entry.
        integers = k.at(self.table, k.mul(top, 8))
        floats = k.at(self.table, k.add(k.mul(top, 4), FLOAT_TABLE))
        total = k.splat(k.ir.sitofp(self._sum(source, integers), F32), self.isa.lanes)
        step = self.isa.lanes if self.form == "float32" else self.isa.vector_bytes
        whole = length // step * step

        def quotients(first: Index, count: int) -> None:
            values = [
                k.ir.fdiv(self._terms(floats, source, k.add(first, i), count - i), total)
                for i in range(0, count, self.isa.lanes)
            ]
            if self.form == "float32":
                store_floats(k, values, target, k.mul(first, 4), count)
            else:
                store_bytes(k, self.quantizer.octets(values), target, first, count)

        k.loop(0, whole, lambda i: quotients(i, step), step=step, name="quotients")
        if length > whole:
            quotients(whole, length - whole)

    def _maximum(self, source: Value) -> Value:
        """The largest byte as an i64."""
        k, width = self.k, self.isa.vector_bytes
        whole = self.length // width * width
        type_ = vector(I8, width)

        def step(i: Index, best: Value) -> list[Value]:
            return [primitives.integer_minmax(k, "umax", best, k.load(type_, source, i))]

        best = k.loop(0, whole, step, step=width, carried=[constant(type_, 0)], name="maximum")[0]
        if self.length > whole:
            rest = load_first(k, I8, width, source, whole, self.length - whole)
            best = primitives.integer_minmax(k, "umax", best, rest)
        name = f"llvm.vector.reduce.umax.v{width}i8"
        found = k.module.globals.get(name)
        function = found or ir.Function(k.module, ir.FunctionType(I8, [type_]), name)
        return k.ir.zext(k.ir.call(function, [best]), I64)

    def _bytes(self, source: Value, first: Index, count: int) -> list[Value]:
        """``count`` (at most 8) bytes as i64 values."""
        k = self.k
        if count < WORD:
            return [k.ir.zext(k.load(I8, source, k.add(first, i)), I64) for i in range(count)]
        word = k.load(I64, source, first)
        mask = constant(I64, 255)
        return [k.ir.and_(k.ir.lshr(word, constant(I64, 8 * i)), mask) for i in range(WORD)]

    def _sum(self, source: Value, table: Value) -> Value:
        k = self.k
        whole = self.length // WORD * WORD

        def add(first: Index, count: int, total: Value) -> Value:
            for octet in self._bytes(source, first, count):
                total = k.ir.add(total, k.load(I64, table, k.mul(octet, -8), align=8))
            return total

        total = k.loop(
            0,
            whole,
            lambda i, value: [add(i, WORD, value)],
            step=WORD,
            carried=[constant(I64, 0)],
            name="total",
        )[0]
        return add(whole, self.length - whole, total) if self.length > whole else total

    def _terms(self, table: Value, source: Value, first: Index, count: int) -> Value:
        """A vector of the float terms of up to ``lanes`` bytes (zero past ``count``)."""
        k, lanes = self.k, self.isa.lanes
        wanted = min(count, lanes)
        result = constant(vector(F32, lanes), 0.0)
        for start in range(0, wanted, WORD):
            octets = self._bytes(source, k.add(first, start), min(WORD, wanted - start))
            for i, octet in enumerate(octets):
                term = k.load(F32, table, k.mul(octet, -4), align=4)
                result = k.ir.insert_element(result, term, constant(I32, start + i))
        return result
