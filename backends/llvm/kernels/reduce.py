"""Sums of bytes and the mean over axes: the body of average pooling and of reduce-mean.

Bytes are added as int16 as long as that cannot wrap, then as int32; the zero point is subtracted
once, times the number of elements.  The sum becomes a byte by contract 4, or a float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
from llvmlite import ir

from qcc import numerics
from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import (
    F32,
    I8,
    I16,
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
from qcc.backends.llvm.kernels.epilogue import FLOAT_BOUND, store_bytes
from qcc.backends.llvm.kernels.lanes import Scalars, narrow, store_floats
from qcc.backends.llvm.kernels.nest import Nest, View
from qcc.errors import ConfigError

Form = Literal["uint8", "float32"]

MOST_IN_INT16 = 257
"""So many bytes add up to 65535 at most."""

MOST_IN_INT32 = (2**31 - 1) // 255
"""So many bytes add up to less than 2^31."""

UNROLLED = 16
"""Sums of up to so many elements are written without a loop."""

Axis = tuple[int, int]
"""``(size, stride in bytes)`` of an axis that is summed over."""


def merged_axes(axes: Sequence[Axis]) -> list[Axis]:
    """The axes with those merged that follow each other without a gap, longest stride first."""
    result: list[Axis] = []
    for size, stride in sorted(axes, key=lambda axis: -abs(axis[1])):
        if size == 1:
            continue
        if result and result[-1][1] == stride * size:
            result[-1] = (result[-1][0] * size, stride)
        else:
            result.append((size, stride))
    return result


class SumWriter:
    """Writes the sum of bytes over ``axes`` for a piece of a contiguous run that is kept."""

    def __init__(self, k: LoopBuilder, isa: InstructionSet, axes: Sequence[Axis]) -> None:
        self.k, self.isa = k, isa
        self.axes = merged_axes(axes)
        self.size = prod(size for size, _ in self.axes)

    def words(self, pointer: Value, count: int) -> list[Value]:
        """Int32 sums of ``count`` (at most a vector) bytes; may read a vector past the last."""
        width = self.isa.vector_bytes // 2
        vectors = -(-count // width)
        wide = vector(I16, width)
        if self.size > MOST_IN_INT16:
            wide = vector(I32, width)
        start = [constant(wide, 0)] * vectors

        def add(offset: Index, sums: Sequence[Value]) -> list[Value]:
            place = self.k.at(pointer, offset)
            loaded = [self.k.load(vector(I8, width), place, i * width) for i in range(vectors)]
            return [
                self.k.ir.add(total, self.k.ir.zext(octets, total.type))
                for total, octets in zip(sums, loaded, strict=True)
            ]

        totals = self._walk(0, start, add) if wide.element == I16 else self._long(pointer, vectors)
        if wide.element == I16:
            totals = [self.k.ir.zext(total, vector(I32, width)) for total in totals]
        halves = [half for total in totals for half in self.k.halves(total)]
        return halves[: -(-count // self.isa.lanes)]

    def _walk(
        self,
        offset: Index,
        sums: Sequence[Value],
        add: Callable[[Index, Sequence[Value]], list[Value]],
        axes: list[Axis] | None = None,
    ) -> list[Value]:
        """``add`` at every offset of the axes, with the sums carried along."""
        k = self.k
        axes = self.axes if axes is None else axes
        if not axes:
            return add(offset, sums)
        (size, stride), rest = axes[0], axes[1:]
        if self.size <= UNROLLED:
            values = list(sums)
            for i in range(size):
                values = self._walk(k.add(offset, i * stride), values, add, rest)
            return values
        return k.loop(
            0,
            size,
            lambda i, *values: self._walk(k.add(offset, k.mul(i, stride)), values, add, rest),
            carried=sums,
            name="sum",
        )

    def _long(self, pointer: Value, vectors: int) -> list[Value]:
        """Sums too long for int16: int16 sums of up to 256 elements, added up as int32."""
        k, width = self.k, self.isa.vector_bytes // 2
        (size, stride), outer = self.axes[-1], self.axes[:-1]

        def short(offset: Index, count: int, sums: Sequence[Value]) -> list[Value]:
            def add(i: Index, *values: Value) -> list[Value]:
                place = k.at(pointer, k.add(offset, k.mul(i, stride)))
                octets = [k.load(vector(I8, width), place, v * width) for v in range(vectors)]
                return [
                    k.ir.add(value, k.ir.zext(octet, value.type))
                    for value, octet in zip(values, octets, strict=True)
                ]

            zero = [constant(vector(I16, width), 0)] * vectors
            parts = k.loop(0, count, add, carried=zero, name="sum")
            return [
                k.ir.add(total, k.ir.zext(part, total.type))
                for total, part in zip(sums, parts, strict=True)
            ]

        block = MOST_IN_INT16 - 1
        whole = size // block

        def line(offset: Index, sums: Sequence[Value]) -> list[Value]:
            totals = k.loop(
                0,
                whole,
                lambda i, *values: short(k.add(offset, k.mul(i, block * stride)), block, values),
                carried=sums,
                name="sum.blocks",
            )
            if size % block:
                totals = short(k.add(offset, whole * block * stride), size % block, totals)
            return totals

        start = [constant(vector(I32, width), 0)] * vectors
        return self._walk(0, start, line, outer)

    def single(self, pointer: Value) -> Value:
        """The sum of one element's bytes as an i32; runs of the innermost axis go by vectors."""
        k, lanes = self.k, self.isa.lanes
        axes = self.axes
        zero = constant(vector(I32, lanes), 0)
        if not axes or axes[-1][1] != 1:

            def one(offset: Index, sums: Sequence[Value]) -> list[Value]:
                octet = k.load(I8, pointer, offset)
                return [k.ir.add(sums[0], k.ir.zext(octet, I32))]

            return self._walk(0, [constant(I32, 0)], one)[0]
        size = axes[-1][0]
        whole = size // lanes * lanes

        def line(offset: Index, sums: Sequence[Value]) -> list[Value]:
            place = k.at(pointer, offset)

            def step(i: Index, total: Value, rest: Value) -> list[Value]:
                octets = k.load(vector(I8, lanes), place, i)
                return [k.ir.add(total, k.ir.zext(octets, total.type)), rest]

            total, rest = k.loop(0, whole, step, step=lanes, carried=list(sums), name="line")
            for i in range(whole, size):
                rest = k.ir.add(rest, k.ir.zext(k.load(I8, place, i), I32))
            return [total, rest]

        total, rest = self._walk(0, [zero, constant(I32, 0)], line, axes[:-1])
        return k.ir.add(rest, horizontal_sum(k, total))


def horizontal_sum(k: LoopBuilder, value: Value) -> Value:
    """The sum of all elements of an integer vector."""
    name = f"llvm.vector.reduce.add.v{value.type.count}i{value.type.element.width}"
    found = k.module.globals.get(name)
    type_ = ir.FunctionType(value.type.element, [value.type])
    return k.ir.call(found or ir.Function(k.module, type_, name), [value])


MEAN_FIELDS = (("zero_point_x", "i32"), ("zero_point", "i16"), ("low", "u8"), ("high", "u8"))
"""Scalars of a mean besides its multipliers."""


def mean_multiplier(input_scale: float, output_scale: float | None, count: Any) -> Any:
    """``float32(s_x / (s_y * count))``, as the reference has it; ``s_y`` is 1 for float results."""
    divisor = np.asarray(count, np.float64)
    if output_scale is not None:
        divisor = np.float64(np.float32(output_scale)) * divisor
    return numerics.requantize_multiplier(np.float32(input_scale), 1.0, divisor)


def mean_needs_clamp(input_scale: float, output_scale: float) -> bool:
    """Whether a mean can pass +-2^30 output units."""
    return not 256.0 * float(input_scale) / float(output_scale) < FLOAT_BOUND


@dataclass(frozen=True)
class MeanWriter:
    """Turns int32 sums of ``count`` stored bytes into stored results."""

    k: LoopBuilder
    isa: InstructionSet
    scalars: dict[str, Value]
    form: Form
    clamp_float: bool

    def store(
        self, sums: list[Value], elements: int, multiplier: Value, target: Value, count: int
    ) -> None:
        """Store ``count`` results; each sum is of ``elements`` bytes."""
        k = self.k
        correction = k.ir.mul(
            self.scalars["zero_point_x"], constant(vector(I32, self.isa.lanes), elements)
        )
        values = [
            k.ir.fmul(
                k.ir.sitofp(k.ir.sub(total, correction), vector(F32, self.isa.lanes)), multiplier
            )
            for total in sums
        ]
        if self.form == "float32":
            store_floats(k, values, target, 0, count)
            return
        if self.clamp_float:
            values = [primitives.clamp_float(k, value, FLOAT_BOUND) for value in values]
        words = [primitives.call(k, self.isa, "round_to_int", value) for value in values]
        scalars = self.scalars
        octets = narrow(k, self.isa, words, scalars["zero_point"], scalars["low"], scalars["high"])
        store_bytes(k, octets, target, 0, count)


@dataclass(frozen=True)
class ReduceMeanKernel:
    """Mean over the axes ``reduced`` of an 8-bit tensor; global average pooling is one.

    ``sizes`` are the input's; the target's view has a stride for each of them, 0 along ``reduced``
    axes.  ``form`` ``float32`` stores the real mean.  ``clamp_float`` is
    :func:`mean_needs_clamp` of the scales.  Operands: ``source, parameters, target``.
    """

    sizes: tuple[int, ...]
    reduced: tuple[int, ...]
    source: View
    target: View
    form: Form = "uint8"
    clamp_float: bool = False

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.source, self.target))
        if any(self.target.strides[axis] for axis in self.reduced):
            raise ConfigError("The target of a mean must have stride 0 along the reduced axes.")
        if self.count > MOST_IN_INT32:
            raise ConfigError(
                f"A mean over {self.count} elements can pass 2^31; keep this operator in float."
            )

    @property
    def count(self) -> int:
        """Elements that each result is the mean of."""
        return prod(self.sizes[axis] for axis in self.reduced)

    @property
    def name(self) -> str:
        """Such as ``mean_1x7x7x1280``."""
        return f"mean_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", "parameters", "target")

    def pack(
        self,
        isa: InstructionSet,
        *,
        input_scale: float,
        input_zero_point: int,
        output_scale: float | None = None,
        output_zero_point: int = 0,
        low: int = 0,
        high: int = 255,
    ) -> Packed:
        """The numbers of both quantizations; no output scale for a float32 result."""
        check_mean_scales(self.form, self.clamp_float, input_scale, output_scale)
        packed = _PARAMETERS.pack(
            zero_point_x=input_zero_point,
            zero_point=output_zero_point,
            low=low,
            high=high,
            multiplier=mean_multiplier(input_scale, output_scale, self.count),
        )
        return {"parameters": packed}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        scalars = _PARAMETERS.load(k, isa, k.operand("parameters"))
        mean = MeanWriter(k, isa, scalars, self.form, self.clamp_float)
        kept = [axis for axis in range(len(self.sizes)) if axis not in self.reduced]
        size = 1 if self.form == "uint8" else 4
        views = (self.source.permuted(kept), self.target.permuted(kept))
        nest = Nest(tuple(self.sizes[axis] for axis in kept), views).merged()
        axes = [(self.sizes[axis], self.source.strides[axis]) for axis in self.reduced]
        sums = SumWriter(k, isa, axes)
        source, target = k.operand("source"), k.operand("target")
        vectors = nest.run_strides == (1, size)

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            moved = [
                k.add(offset, k.mul(first, stride))
                for offset, stride in zip(offsets, nest.run_strides, strict=True)
            ]
            if vectors:
                words = sums.words(k.at(source, moved[0]), count)
            else:
                words = [k.splat(sums.single(k.at(source, moved[0])), isa.lanes)]
            place = k.at(target, moved[1])
            mean.store(words, self.count, scalars["multiplier"], place, count)

        nest.write(k, isa.vector_bytes if vectors else 1, piece)
        return k.finish()


_PARAMETERS = Scalars((*MEAN_FIELDS, ("multiplier", "f32")))


def check_mean_scales(
    form: Form, clamp_float: bool, input_scale: float, output_scale: float | None
) -> None:
    """Raise :class:`ConfigError` when the scales do not fit the specification."""
    if (form == "uint8") != (output_scale is not None):
        raise ConfigError("A mean stored as uint8 has an output scale, and a float32 one has none.")
    if output_scale is not None and mean_needs_clamp(input_scale, output_scale) > clamp_float:
        raise ConfigError("The mean can pass 2^30; make the kernel with clamp_float.")
