"""Softmax of float32 rows (contract 11): a fixed exponential and a fixed order of the sum.

Three walks along a row: its maximum; the exponentials, which are stored and summed in float64 in
eight lanes, however wide the vectors are; their quotients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from qcc.backends.llvm.builder import (
    F32,
    F64,
    I1,
    I32,
    Index,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.exponential import exponential, nan_where_unordered
from qcc.backends.llvm.kernels.lanes import load_floats, store_floats
from qcc.backends.llvm.kernels.nest import Nest, View
from qcc.errors import ConfigError
from qcc.numerics import SUM_LANES


@dataclass(frozen=True)
class FloatSoftmaxKernel:
    """Softmax along the last axis, which is contiguous in source and target.

    The target may be the source itself.  Operands: ``source, target``.
    """

    sizes: tuple[int, ...]
    source: View
    target: View

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.source, self.target))
        last = (self.source.strides[-1], self.target.strides[-1])
        if last != (4, 4) and self.sizes[-1] > 1:
            raise ConfigError("The last axis of a softmax must be contiguous on both sides.")

    @property
    def name(self) -> str:
        """Such as ``float_softmax_1x1000``."""
        return f"float_softmax_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", "target")

    def pack(self, isa: InstructionSet) -> Packed:
        """No constants."""
        return {}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        rows = tuple(View(v.offset, (*v.strides[:-1], 0)) for v in (self.source, self.target))
        nest = Nest((*self.sizes[:-1], 1), rows).merged((0, 0))
        row = _Row(k, isa, self.sizes[-1])

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            del first, count
            row.write(k.at(k.operand("source"), offsets[0]), k.at(k.operand("target"), offsets[1]))

        nest.write(k, 1, piece)
        return k.finish()


class _Row:
    """One row, in blocks of a whole number of vectors and of ``SUM_LANES``."""

    def __init__(self, k: LoopBuilder, isa: InstructionSet, length: int) -> None:
        self.k, self.isa, self.length = k, isa, length
        self.step = max(isa.lanes, SUM_LANES)

    def write(self, source: Value, target: Value) -> None:
        k, isa = self.k, self.isa
        top = k.splat(self._maximum(source), isa.lanes)

        def terms(first: Index, count: int, carried: list[Value]) -> list[Value]:
            place = k.mul(first, 4)
            values = load_floats(k, isa, source, place, count)
            values = [exponential(k, k.ir.fsub(value, top)) for value in values]
            store_floats(k, values, target, place, count)
            return [self._added(carried[0], self._filled(values, count, 0.0))]

        zero = constant(vector(F64, SUM_LANES), 0.0)
        (lanes,) = self._blocks(terms, [zero], "terms")
        total = k.splat(self._total(lanes), isa.lanes)

        def quotients(first: Index, count: int, carried: list[Value]) -> list[Value]:
            place = k.mul(first, 4)
            values = [
                nan_where_unordered(k, total, k.ir.fdiv(value, total))
                for value in load_floats(k, isa, target, place, count)
            ]
            store_floats(k, values, target, place, count)
            return carried

        self._blocks(quotients, [], "quotients")

    def _blocks(
        self,
        body: Callable[[Index, int, list[Value]], list[Value]],
        carried: list[Value],
        name: str,
    ) -> list[Value]:
        """``carried = body(first, count, carried)`` for every block; the last may be shorter."""
        whole = self.length // self.step * self.step
        carried = self.k.loop(
            0,
            whole,
            lambda first, *values: body(first, self.step, list(values)),
            step=self.step,
            carried=carried,
            name=name,
        )
        return body(whole, self.length - whole, carried) if self.length > whole else carried

    def _filled(self, values: Sequence[Value], count: int, fill: float) -> list[Value]:
        """The vectors with ``fill`` in every lane past ``count``."""
        lanes = self.isa.lanes
        result = []
        for i, value in enumerate(values):
            valid = count - i * lanes
            if valid < lanes:
                mask = ir.Constant(vector(I1, lanes), [lane < valid for lane in range(lanes)])
                value = self.k.ir.select(mask, value, constant(value.type, fill))
            result.append(value)
        return result

    def _maximum(self, source: Value) -> Value:
        """The largest element; NaN is passed over, for the sum carries it into every result."""
        k, lanes = self.k, self.isa.lanes

        def larger(first: Index, count: int, carried: list[Value]) -> list[Value]:
            best = carried[0]
            values = load_floats(k, self.isa, source, k.mul(first, 4), count)
            for value in self._filled(values, count, -np.inf):
                best = k.ir.select(k.ir.fcmp_ordered(">", value, best), value, best)
            return [best]

        lowest = constant(vector(F32, lanes), -np.inf)
        (best,) = self._blocks(larger, [lowest], "maximum")
        while best.type.count > 1:
            low, high = k.halves(best)
            best = k.ir.select(k.ir.fcmp_ordered(">", high, low), high, low)
        return k.ir.extract_element(best, constant(I32, 0))

    def _added(self, sums: Value, terms: Sequence[Value]) -> Value:
        """The lanes of ``sums`` with one block's terms added in order."""
        k = self.k
        pieces = list(terms)
        while pieces[0].type.count > SUM_LANES:
            pieces = [half for piece in pieces for half in k.halves(piece)]
        while pieces[0].type.count < SUM_LANES:
            if len(pieces) % 2:
                pieces.append(constant(pieces[0].type, 0.0))
            pieces = [k.join(a, b) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
        for piece in pieces:
            sums = k.ir.fadd(sums, k.ir.fpext(piece, vector(F64, SUM_LANES)))
        return sums

    def _total(self, lanes: Value) -> Value:
        """The sum of the lanes, added in halves, as one float32."""
        k = self.k
        while lanes.type.count > 1:
            low, high = k.halves(lanes)
            lanes = k.ir.fadd(low, high)
        return k.ir.fptrunc(k.ir.extract_element(lanes, constant(I32, 0)), F32)
