"""Float32 elementwise ops on strided tensors: one IEEE operation an element, or a sigmoid.

Results are those of :mod:`qcc.ref.float_ops`.  ``minimum``, ``maximum``, ``clip`` and ``relu`` give
NaN where an operand is NaN, as numpy and ONNX Runtime do, and of two zeros the second operand (the
bound).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qcc.backends.llvm.builder import F32, Index, LoopBuilder, Value, constant, declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed, WithoutConstants
from qcc.backends.llvm.kernels.curves import CURVES, Curve
from qcc.backends.llvm.kernels.exponential import chains, side_by_side
from qcc.backends.llvm.kernels.lanes import Scalars, load_floats, store_floats
from qcc.backends.llvm.kernels.nest import Nest, View
from qcc.backends.llvm.kernels.rows import square_root
from qcc.errors import ConfigError

FloatOp = Literal["add", "sub", "mul", "div", "minimum", "maximum"]
UnaryOp = Literal[
    "relu",
    "neg",
    "clip",
    "sigmoid",
    "square",
    "sqrt",
    "reciprocal",
    "tanh",
    "gelu",
    "gelu_tanh",
    "silu",
    "exp",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
]

UNROLL = 2
"""Vectors of one turn of the loop."""


def _select_ordered(k: LoopBuilder, a: Value, b: Value, wins: str) -> Value:
    """``a`` where ``a wins b``, else ``b``; NaN where either is NaN."""
    chosen = k.ir.select(k.ir.fcmp_unordered(wins, a, b), a, b)
    return k.ir.select(k.ir.fcmp_unordered("uno", b, b), b, chosen)


_OPS: dict[str, Callable[[LoopBuilder, Value, Value], Value]] = {
    "add": lambda k, a, b: k.ir.fadd(a, b),
    "sub": lambda k, a, b: k.ir.fsub(a, b),
    "mul": lambda k, a, b: k.ir.fmul(a, b),
    "div": lambda k, a, b: k.ir.fdiv(a, b),
    "minimum": lambda k, a, b: _select_ordered(k, a, b, "<"),
    "maximum": lambda k, a, b: _select_ordered(k, a, b, ">"),
}


def _floats(
    k: LoopBuilder,
    isa: InstructionSet,
    pointer: Value,
    start: Index,
    stride: int,
    count: int,
) -> list[Value]:
    if stride:
        return load_floats(k, isa, pointer, start, count)
    return [k.splat(k.load(F32, pointer, start), isa.lanes)] * -(-count // isa.lanes)


def _positions(k: LoopBuilder, nest: Nest, offsets: Sequence[Index], first: Index) -> list[Index]:
    strides = nest.run_strides
    return [k.add(o, k.mul(first, s)) for o, s in zip(offsets, strides, strict=True)]


@dataclass(frozen=True)
class FloatBinaryKernel(WithoutConstants):
    """``target = op(a, b)`` over ``sizes``; a stride of 0 broadcasts.

    The target may be ``a`` or ``b`` itself where the views are equal.  Operands: ``a, b, target``.
    """

    op: FloatOp
    sizes: tuple[int, ...]
    a: View
    b: View
    target: View

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.a, self.b, self.target))

    @property
    def name(self) -> str:
        """Such as ``float_add_1x1000``."""
        return f"float_{self.op}_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("a", "b", "target")

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        nest = Nest(self.sizes, (self.a, self.b, self.target)).merged((4, 4, 4))
        pointers = [k.operand(name) for name in self.operands]

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            places = _positions(k, nest, offsets, first)
            a, b = (
                _floats(k, isa, pointers[i], places[i], nest.run_strides[i], count)
                for i in range(2)
            )
            values = [_OPS[self.op](k, x, y) for x, y in zip(a, b, strict=True)]
            store_floats(k, values, pointers[2], places[2], count)

        nest.write(k, UNROLL * isa.lanes, piece)
        return k.finish()


_SHORT: dict[str, Callable[[LoopBuilder, Value], Value]] = {
    "neg": lambda k, x: k.ir.fneg(x),
    "square": lambda k, x: k.ir.fmul(x, x),
    "sqrt": square_root,
    "reciprocal": lambda k, x: k.ir.fdiv(constant(x.type, 1.0), x),
}
_BOUNDS = Scalars((("low", "f32"), ("high", "f32")))


@dataclass(frozen=True)
class FloatUnaryKernel:
    """One operation an element over ``sizes``; the target may be the source.

    ``numbers`` are those of a curve that has some (:class:`Curve`).  Operands:
    ``source, [bounds,] target`` (``bounds`` for ``clip``).
    """

    op: UnaryOp
    sizes: tuple[int, ...]
    source: View
    target: View
    numbers: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.source, self.target))

    @property
    def name(self) -> str:
        """Such as ``float_relu_1x1000``."""
        return f"float_{self.op}_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", *(("bounds",) if self.op == "clip" else ()), "target")

    def pack(self, isa: InstructionSet, *, low: float = -np.inf, high: float = np.inf) -> Packed:
        """The bounds of ``clip`` (inclusive; not NaN)."""
        if np.isnan(low) or np.isnan(high):
            raise ConfigError("The bounds of a clip must be numbers.")
        return {"bounds": _BOUNDS.pack(low=low, high=high)} if self.op == "clip" else {}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        nest = Nest(self.sizes, (self.source, self.target)).merged((4, 4))
        bounds = _BOUNDS.load(k, isa, k.operand("bounds")) if self.op == "clip" else {}
        # Long chains of operations: several vectors are computed side by side.
        curve = Curve(self.op, self.numbers) if self.op in CURVES else None

        def one(value: Value) -> Value:
            if self.op in _SHORT:
                return _SHORT[self.op](k, value)
            low = bounds.get("low", constant(value.type, 0.0))
            # Ordered compares are false of NaN, which so stays; an equal zero becomes the bound.
            value = k.ir.select(k.ir.fcmp_ordered("<=", value, low), low, value)
            if self.op == "relu":
                return value
            high = bounds["high"]
            return k.ir.select(k.ir.fcmp_ordered(">=", value, high), high, value)

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            places = _positions(k, nest, offsets, first)
            stride = nest.run_strides[0]
            values = _floats(k, isa, k.operand("source"), places[0], stride, count)
            results = side_by_side(k, values, curve) if curve else [one(v) for v in values]
            store_floats(k, results, k.operand("target"), places[1], count)

        nest.write(k, (chains(isa) if curve else UNROLL) * isa.lanes, piece)
        return k.finish()
