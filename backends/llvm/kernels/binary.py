"""Add, sub and mul of 8-bit tensors (contract 5), with each other and with float32 constants.

Operands broadcast by strides of zero.  Which formula computes the quotient is found, and proved,
by ``formulas.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.backends.llvm.builder import (
    F32,
    I8,
    I32,
    Index,
    LoopBuilder,
    Value,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.boundary import Dequantizer
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.backends.llvm.kernels.formulas import (
    Coefficients,
    ConstantFormula,
    ConstantOp,
    Formula,
    Kind,
    Numbers,
    Op,
    binary_formula,
)
from qcc.backends.llvm.kernels.lanes import fused_multiply_add, load_words, to_floats
from qcc.backends.llvm.kernels.nest import Nest, View, activation_sizes, activation_view
from qcc.backends.llvm.kernels.rounding import Division, Quantizer, output_block, output_scalars
from qcc.errors import ConfigError

_NUMBERS = output_block(
    (
        ("a_zero_point", "i32"),
        ("b_zero_point", "i32"),
        ("a_scale", "f32"),
        ("b_scale", "f32"),
        ("factor_a", "f32"),
        ("factor_b", "f32"),
        ("offset", "f32"),
    )
)


def operand_view(layout: ActivationLayout, output: ActivationLayout) -> View:
    """The activation broadcast to ``output``'s axes.

    Raises :class:`ConfigError` when it does not broadcast.
    """
    have, want = activation_sizes(layout), activation_sizes(output)
    if any(a not in (1, b) for a, b in zip(have, want, strict=True)):
        raise ConfigError(f"An activation of shape {have} does not broadcast to {want}.")
    view = activation_view(layout)
    strides = tuple(
        0 if a == 1 and b > 1 else stride
        for a, b, stride in zip(have, want, view.strides, strict=True)
    )
    return View(view.offset, strides)


def _sizes(output: ActivationLayout) -> tuple[int, int, int, int]:
    n, h, w, _ = activation_sizes(output)
    return n, h, w, output.padded_channels


@dataclass(frozen=True)
class BinaryKernel:
    """``target = quantize(op(dequantize(a), dequantize(b)))`` over ``sizes``.

    A view's stride of 0 broadcasts.  ``kind``, ``division`` and ``bounded`` are those of the
    :class:`Formula` that the constants were found to allow.  ``target`` may be ``a`` or ``b``
    itself where the views are equal.  Operands: ``a, b, parameters, target``.
    """

    op: Op
    sizes: tuple[int, ...]
    a: View
    b: View
    target: View
    kind: Kind = "exact"
    division: Division = "divide"
    bounded: bool = False

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.a, self.b, self.target))
        if self.kind == ("affine" if self.op == "mul" else "product"):
            raise ConfigError(f"There is no {self.kind} formula for '{self.op}'.")

    @staticmethod
    def of(
        op: Op,
        a: ActivationLayout,
        b: ActivationLayout,
        output: ActivationLayout,
        numbers: Numbers,
    ) -> BinaryKernel:
        """The specification for activations that broadcast to ``output``, and known numbers."""
        formula = binary_formula(op, numbers)
        return BinaryKernel(
            op,
            _sizes(output),
            operand_view(a, output),
            operand_view(b, output),
            activation_view(output),
            formula.kind,
            formula.division,
            formula.bounded,
        )

    @property
    def name(self) -> str:
        """Such as ``add_1x56x56x64``."""
        return f"{self.op}_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("a", "b", "parameters", "target")

    def pack(self, isa: InstructionSet, *, numbers: Numbers) -> Packed:
        """The parameters of :func:`binary_formula`; its kind must be the specification's."""
        formula = binary_formula(self.op, numbers)
        if self.bounded and not formula.bounded:
            raise ConfigError("Results of these numbers can pass any bound; make the kernel anew.")
        if self.kind == "exact":
            formula = Formula("exact", self.division, self.bounded)
        if (formula.kind, formula.division) != (self.kind, self.division):
            raise ConfigError(f"These numbers do not allow the formula '{self.kind}'.")
        packed = _NUMBERS.pack(
            **output_scalars(*numbers.y, numbers.low, numbers.high, self.division),
            a_zero_point=numbers.a[1],
            b_zero_point=numbers.b[1],
            a_scale=numbers.a[0],
            b_scale=numbers.b[0],
            factor_a=formula.factor_a,
            factor_b=formula.factor_b,
            offset=formula.offset,
        )
        return {"parameters": packed}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        scalars = _NUMBERS.load(k, isa, k.operand("parameters"))
        quantizer = Quantizer(k, isa, scalars, self.division, bounded=self.bounded)
        nest = Nest(self.sizes, (self.a, self.b, self.target)).merged((1, 1, 1))
        write = {"affine": self._affine, "product": self._product, "exact": self._exact}[self.kind]

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            a, b = (
                stored_words(k, isa, k.operand(name), offsets[i], first, nest.run_strides[i], count)
                for i, name in enumerate(("a", "b"))
            )
            octets = write(k, quantizer, scalars, a, b)
            store_bytes(k, octets, k.operand("target"), k.add(offsets[2], first), count)

        nest.write(k, isa.vector_bytes, piece)
        return k.finish()

    def _affine(
        self,
        k: LoopBuilder,
        quantizer: Quantizer,
        scalars: dict[str, Value],
        a: list[Value],
        b: list[Value],
    ) -> Value:
        inner = [
            fused_multiply_add(k, y, scalars["factor_b"], scalars["offset"])
            for y in to_floats(k, b)
        ]
        return quantizer.narrow(
            [
                fused_multiply_add(k, x, scalars["factor_a"], y)
                for x, y in zip(to_floats(k, a), inner, strict=True)
            ]
        )

    def _product(
        self,
        k: LoopBuilder,
        quantizer: Quantizer,
        scalars: dict[str, Value],
        a: list[Value],
        b: list[Value],
    ) -> Value:
        a = to_floats(k, [k.ir.sub(x, scalars["a_zero_point"]) for x in a])
        b = to_floats(k, [k.ir.sub(y, scalars["b_zero_point"]) for y in b])
        return quantizer.narrow(
            [k.ir.fmul(k.ir.fmul(x, y), scalars["factor_a"]) for x, y in zip(a, b, strict=True)]
        )

    def _exact(
        self,
        k: LoopBuilder,
        quantizer: Quantizer,
        scalars: dict[str, Value],
        a: list[Value],
        b: list[Value],
    ) -> Value:
        real_a, real_b = (
            Dequantizer(
                k, {"zero_point": scalars[f"{n}_zero_point"], "scale": scalars[f"{n}_scale"]}
            )(words)
            for n, words in (("a", a), ("b", b))
        )
        return quantizer.octets(
            [float_op(k, self.op, x, y) for x, y in zip(real_a, real_b, strict=True)]
        )


def float_op(k: LoopBuilder, op: ConstantOp, a: Value, b: Value) -> Value:
    """One float32 add, sub or mul."""
    if op == "reversed_sub":
        return k.ir.fsub(b, a)
    return {"add": k.ir.fadd, "sub": k.ir.fsub, "mul": k.ir.fmul}[op](a, b)


def stored_words(
    k: LoopBuilder,
    isa: InstructionSet,
    pointer: Value,
    offset: Index,
    first: Index,
    stride: int,
    count: int,
) -> list[Value]:
    """``count`` stored bytes of a run as int32 vectors; a stride of 0 repeats one byte."""
    if stride:
        return load_words(k, isa, pointer, k.add(offset, first), count)
    word = k.ir.zext(k.load(I8, pointer, offset), I32)
    return [k.splat(word, isa.lanes)] * -(-count // isa.lanes)


@dataclass(frozen=True)
class ConstantBinaryKernel:
    """``target = quantize(op(dequantize(a), constant))`` with a float32 constant tensor.

    ``constant`` is the view of the float32 tensor (strides in bytes; 0 broadcasts).  ``kind``,
    ``division`` and ``bounded`` are those of :func:`formulas.constant_formula`.  Operands:
    ``a, parameters, factors, offsets, target`` (``constant`` in the place of factors and offsets
    where the kind is ``exact``).
    """

    op: ConstantOp
    sizes: tuple[int, ...]
    a: View
    constant: View
    target: View
    formula: ConstantFormula

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.a, self.constant, self.target))

    @property
    def name(self) -> str:
        """Such as ``mul_constant_1x56x56x64``."""
        return f"{self.op}_constant_{'x'.join(map(str, self.sizes))}"

    @property
    def _constants(self) -> tuple[str, ...]:
        return ("factors", "offsets") if self.formula.kind == "affine" else ("constant",)

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("a", "parameters", *self._constants, "target")

    def pack(
        self,
        isa: InstructionSet,
        *,
        constant: Any,
        coefficients: Coefficients | None,
        a: tuple[float, int],
        y: tuple[float, int],
        low: int = 0,
        high: int = 255,
    ) -> Packed:
        """``constant`` and the ``coefficients`` that :func:`formulas.constant_formula` gave.

        ``a`` and ``y`` are ``(scale, zero point)`` in uint8 units.
        """
        packed = _NUMBERS.pack(
            **output_scalars(*y, low, high, self.formula.division),
            a_zero_point=a[1],
            b_zero_point=0,
            a_scale=a[0],
            b_scale=0.0,
            factor_a=0.0,
            factor_b=0.0,
            offset=0.0,
        )
        if self.formula.kind == "affine" and coefficients is None:
            raise ConfigError("An affine formula needs the coefficients that were found for it.")
        values = coefficients if self.formula.kind == "affine" else (constant,)
        arrays = {
            name: np.frombuffer(np.ascontiguousarray(value, np.float32).tobytes(), np.uint8)
            for name, value in zip(self._constants, values or (), strict=True)
        }
        return {"parameters": packed, **arrays}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        scalars = _NUMBERS.load(k, isa, k.operand("parameters"))
        quantizer = Quantizer(k, isa, scalars, self.formula.division, bounded=self.formula.bounded)
        real = Dequantizer(k, {"zero_point": scalars["a_zero_point"], "scale": scalars["a_scale"]})
        nest = Nest(self.sizes, (self.a, self.constant, self.target)).merged((1, 4, 1))
        strides = nest.run_strides

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            words = stored_words(k, isa, k.operand("a"), offsets[0], first, strides[0], count)
            constants = [
                _floats(k, isa, k.operand(name), offsets[1], first, strides[1], count)
                for name in self._constants
            ]
            if self.formula.kind == "affine":
                values = zip(to_floats(k, words), *constants, strict=True)
                octets = quantizer.narrow([fused_multiply_add(k, *triple) for triple in values])
            else:
                pairs = zip(real(words), *constants, strict=True)
                octets = quantizer.octets([float_op(k, self.op, x, c) for x, c in pairs])
            store_bytes(k, octets, k.operand("target"), k.add(offsets[2], first), count)

        nest.write(k, isa.vector_bytes, piece)
        return k.finish()


def _floats(
    k: LoopBuilder,
    isa: InstructionSet,
    pointer: Value,
    offset: Index,
    first: Index,
    stride: int,
    count: int,
) -> list[Value]:
    """Float32 constants of a run (readable past their end), or one of them repeated."""
    lanes = isa.lanes
    if not stride:
        return [k.splat(k.load(F32, pointer, offset), lanes)] * -(-count // lanes)
    start = k.add(offset, k.mul(first, 4))
    return [
        k.load(vector(F32, lanes), pointer, k.add(start, 4 * i)) for i in range(0, count, lanes)
    ]
