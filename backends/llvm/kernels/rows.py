"""Walks along one row of float32 and sums over it in the lanes of contracts 11 and 12.

A row is walked in blocks of a whole number of vectors and of ``SUM_LANES``; sums are float64 in
eight lanes, however wide the vectors are, so every instruction set adds in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from qcc.backends.llvm.builder import F64, I1, I32, Index, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.nest import Nest, View
from qcc.errors import ConfigError
from qcc.numerics import SUM_LANES

Map = Callable[[Value], Value]


def check_rows(sizes: tuple[int, ...], views: Sequence[View], what: str) -> None:
    """Raise :class:`ConfigError` where the last axis of a float32 view has gaps."""
    Nest(sizes, tuple(views))
    if any(view.strides[-1] != 4 for view in views) and sizes[-1] > 1:
        raise ConfigError(f"The last axis of {what} must be contiguous on both sides.")


def each_row(
    k: LoopBuilder,
    sizes: tuple[int, ...],
    views: tuple[View, View],
    write: Callable[[Value, Value], None],
) -> None:
    """``write(source, target)`` with pointers to the beginnings of every row; threads share them.

    The operands are called ``source`` and ``target``.
    """
    rows = tuple(View(v.offset, (*v.strides[:-1], 0)) for v in views)
    nest = Nest((*sizes[:-1], 1), rows).merged((0, 0))

    def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
        del first, count
        write(k.at(k.operand("source"), offsets[0]), k.at(k.operand("target"), offsets[1]))

    nest.write(k, 1, piece)


class RowWriter:
    """Code for rows of ``length`` elements; ``blocks`` smallest blocks are walked at once."""

    def __init__(self, k: LoopBuilder, isa: InstructionSet, length: int, blocks: int = 1) -> None:
        self.k, self.isa, self.length = k, isa, length
        self.step = max(isa.lanes, SUM_LANES) * blocks

    def blocks(
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

    def filled(self, values: Sequence[Value], count: int, fill: float) -> list[Value]:
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

    def zero_sums(self) -> Value:
        """The lanes before anything is added."""
        return constant(vector(F64, SUM_LANES), 0.0)

    def added(self, sums: Value, terms: Sequence[Value], of: Map | None = None) -> Value:
        """The lanes of ``sums`` with one block's float32 terms added in order.

        ``of`` maps each term, widened to float64, to what is added.
        """
        k = self.k
        pieces = list(terms)
        while pieces[0].type.count > SUM_LANES:
            pieces = [half for piece in pieces for half in k.halves(piece)]
        while pieces[0].type.count < SUM_LANES:
            if len(pieces) % 2:
                pieces.append(constant(pieces[0].type, 0.0))
            pieces = [k.join(a, b) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
        for piece in pieces:
            wide = k.ir.fpext(piece, vector(F64, SUM_LANES))
            sums = k.ir.fadd(sums, wide if of is None else of(wide))
        return sums

    def total(self, lanes: Value) -> Value:
        """The sum of the lanes, added in halves, as a float64 scalar."""
        k = self.k
        while lanes.type.count > 1:
            low, high = k.halves(lanes)
            lanes = k.ir.fadd(low, high)
        return k.ir.extract_element(lanes, constant(I32, 0))


def square_root(k: LoopBuilder, value: Value) -> Value:
    """The correctly rounded root of a float32 or float64 scalar or vector."""
    kind = value.type
    count = getattr(kind, "count", None)
    scalar: Any = kind if count is None else kind.element
    suffix = "f64" if scalar == F64 else "f32"
    name = f"llvm.sqrt.{suffix}" if count is None else f"llvm.sqrt.v{count}{suffix}"
    found = k.module.globals.get(name)
    function = found or ir.Function(k.module, ir.FunctionType(kind, [kind]), name)
    return k.ir.call(function, [value])
