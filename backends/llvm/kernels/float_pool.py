"""Pools of float32 images (contract 16): maxima and means over windows, channels last.

One output pixel after the other: which taps of its window lie inside the image is computed, then a
few vectors of channels go through those taps together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qcc.backends.llvm.builder import (
    F32,
    F64,
    Index,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import WithoutConstants
from qcc.backends.llvm.kernels.exponential import nan_where_unordered
from qcc.backends.llvm.kernels.lanes import load_floats, store_floats
from qcc.backends.llvm.kernels.nest import View
from qcc.backends.llvm.kernels.window import Window
from qcc.errors import ConfigError

Pool = Literal["max", "average"]

VECTORS = 4
"""Vectors of channels that go through a window together."""


@dataclass(frozen=True)
class FloatPoolKernel(WithoutConstants):
    """``output = pool(windows of input)`` on float32 images.

    ``sizes`` are images, rows, columns and channels of the output, ``source`` rows and columns of
    the input.  Views have strides ``(image, row, column, channel)`` in bytes, the channel's is 4.
    ``counted_pads``: padding after the image ``(rows, columns)`` that counts in a mean, as that
    before it then does; None where no padding counts.  Every window holds a pixel of the image.
    Operands: ``input, output``.  Reads and writes exactly the elements.
    """

    pool: Pool
    sizes: tuple[int, int, int, int]
    source: tuple[int, int]
    window: Window
    input: View
    output: View
    counted_pads: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        views = (self.input, self.output)
        if any(len(view.strides) != 4 or view.strides[3] != 4 for view in views):
            raise ConfigError("The views of a float pool need 4 strides, the last of them 4.")
        if min(*self.sizes, *self.source) < 1:
            raise ConfigError("A float pool without elements has no kernel.")

    @property
    def name(self) -> str:
        """Such as ``float_max_pool_1x56x56x64_k3x3``."""
        kernel = self.window.kernel
        return f"float_{self.pool}_pool_{'x'.join(map(str, self.sizes))}_k{kernel[0]}x{kernel[1]}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", "output")

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function; threads share out pixels and pieces of their channels."""
        return _Writer(self, isa, declare_kernel(module, symbol, self.operands)).write()


@dataclass(frozen=True)
class _Taps:
    """The taps ``low .. high`` of one axis that lie inside, where tap 0 lies, how many count."""

    low: Index
    high: Index
    start: Index
    counted: Index


class _Writer:
    """The code of one pool."""

    def __init__(self, kernel: FloatPoolKernel, isa: InstructionSet, function: Any) -> None:
        self.kernel, self.isa = kernel, isa
        self.k = LoopBuilder(function)

    def write(self) -> Any:
        k, (images, rows, columns, channels) = self.k, self.kernel.sizes
        width = VECTORS * self.isa.lanes
        whole, rest = divmod(channels, width)
        pieces = whole + bool(rest)

        def item(number: Index) -> None:
            piece, pixel = k.mod(number, pieces), k.div(number, pieces)
            column, line = k.mod(pixel, columns), k.div(pixel, columns)
            place = (k.div(line, rows), k.mod(line, rows), column)
            channel = k.mul(piece, 4 * width)
            if not rest or not whole:
                self._pixel(place, channel, rest or width)
                return
            last = k.ir.icmp_signed("==", k.index(piece), k.index(whole))
            with k.ir.if_else(last) as (narrow, wide):
                with narrow:
                    self._pixel(place, channel, rest)
                with wide:
                    self._pixel(place, channel, width)

        begin, end = k.thread_range(images * rows * columns * pieces)
        k.loop(begin, end, item, name="pixels")
        return k.finish()

    def _pixel(self, place: tuple[Index, Index, Index], channel: Index, count: int) -> None:
        k, kernel = self.k, self.kernel
        rows, columns = (self._taps(axis, place[1 + axis]) for axis in range(2))
        strides = kernel.input.strides
        steps = [strides[1 + axis] * kernel.window.dilations[axis] for axis in range(2)]
        offset = k.add(k.mul(place[0], strides[0]), kernel.input.offset)
        for taps, stride, step in zip((rows, columns), strides[1:3], steps, strict=True):
            offset = k.add(offset, k.add(k.mul(taps.start, stride), k.mul(taps.low, step)))
        source = k.at(k.operand("input"), k.add(offset, channel))
        lines, length = k.sub(rows.high, rows.low), k.sub(columns.high, columns.low)
        first, add, last = self._form(count)

        def line(i: Index, *values: Value) -> list[Value]:
            start = k.at(source, k.mul(i, steps[0]))

            def tap(j: Index, *inner: Value) -> list[Value]:
                found = load_floats(k, self.isa, start, k.mul(j, steps[1]), count)
                return [add(a, b) for a, b in zip(inner, found, strict=True)]

            return k.loop(0, length, tap, carried=values, name="columns")

        totals = k.loop(0, lines, line, carried=first, name="rows")
        results = last(totals, k.mul(rows.counted, columns.counted))
        view = kernel.output
        target = k.add(view.offset, channel)
        for index, stride in zip(place, view.strides[:3], strict=True):
            target = k.add(target, k.mul(index, stride))
        store_floats(k, results, k.operand("output"), target, count)

    def _taps(self, axis: int, output: Index) -> _Taps:
        """The taps of the window of output row or column number ``output``."""
        k, window = self.k, self.kernel.window
        size, kernel = self.kernel.source[axis], window.kernel[axis]
        dilation, pad = window.dilations[axis], window.pads[axis]
        start = k.sub(k.mul(output, window.strides[axis]), pad)
        low: Index = 0
        if pad:
            low = k.div(k.add(k.maximum(k.sub(0, start), 0), dilation - 1), dilation)

        def until(end: int) -> Index:
            return k.minimum(k.div(k.add(k.sub(end, start), dilation - 1), dilation), kernel)

        high = until(size)
        counted = k.sub(high, low)
        if self.kernel.counted_pads is not None:
            counted = until(size + self.kernel.counted_pads[axis])
        return _Taps(low, high, start, counted)

    def _form(
        self, count: int
    ) -> tuple[
        list[Value],
        Callable[[Value, Value], Value],
        Callable[[Sequence[Value], Index], list[Value]],
    ]:
        """Accumulators before the first tap, how a tap joins them, and what is made of them."""
        k, lanes = self.k, self.isa.lanes
        vectors = -(-count // lanes)
        if self.kernel.pool == "max":
            return (
                [constant(vector(F32, lanes), float("-inf"))] * vectors,
                self._larger,
                lambda values, _: [nan_where_unordered(k, v, v) for v in values],
            )
        wide = vector(F64, lanes)

        def mean(values: Sequence[Value], counted: Index) -> list[Value]:
            divisor = k.splat(k.ir.sitofp(k.index(counted), F64), lanes)
            narrow = [k.ir.fptrunc(k.ir.fdiv(v, divisor), vector(F32, lanes)) for v in values]
            return [nan_where_unordered(k, v, v) for v in narrow]

        zeros = [constant(wide, 0.0)] * vectors
        return zeros, lambda total, x: k.ir.fadd(total, k.ir.fpext(x, wide)), mean

    def _larger(self, a: Value, b: Value) -> Value:
        """``b`` of two equal ones; a NaN stays."""
        ir = self.k.ir
        chosen = ir.select(ir.fcmp_ordered(">", a, b), a, b)
        return ir.select(ir.fcmp_unordered("uno", a, a), a, chosen)
