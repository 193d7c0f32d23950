"""Maximum and average pooling over channels-last bytes.

Output rows and columns are grouped by which taps of the window lie inside the image; within a group
every window looks alike, so borders need no tests and no halo.  The groups of rows times the groups
of columns are one loop nest each, vectorised over channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import (
    F32,
    I8,
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
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.boundary import float_view
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.backends.llvm.kernels.lanes import Scalars
from qcc.backends.llvm.kernels.nest import Nest, View, activation_view
from qcc.backends.llvm.kernels.reduce import (
    MEAN_FIELDS,
    UNROLLED,
    Axis,
    Form,
    MeanWriter,
    SumWriter,
    check_mean_scales,
    mean_multiplier,
)
from qcc.backends.llvm.kernels.window import Window
from qcc.errors import ConfigError

MOST_BLOCKS = 9
"""More kinds of windows than this are told apart by tables instead of code."""

UNROLL = 4
"""Vectors of channels of one turn of the loops over a window of unknown size."""

RECORD = 16
"""Bytes of a table's entry: where a window begins (int64), how many of its taps count (int64)."""


@dataclass(frozen=True)
class Span:
    """Neighbouring outputs along one axis whose windows look alike.

    Outputs ``first .. first + count``; taps ``low .. high`` of the kernel lie inside the image;
    ``counted`` taps count in an average.
    """

    first: int
    count: int
    low: int
    high: int
    counted: int


def spans(
    size: int, outputs: int, window: Window, axis: int, end_pad: int | None = None
) -> list[Span]:
    """The spans of one axis; with ``end_pad`` padding counts in an average (not past the pad)."""
    kernel, stride = window.kernel[axis], window.strides[axis]
    dilation, pad = window.dilations[axis], window.pads[axis]
    result: list[Span] = []
    for output in range(outputs):
        taps = [output * stride - pad + tap * dilation for tap in range(kernel)]
        inside = [tap for tap, place in enumerate(taps) if 0 <= place < size]
        low, high = (inside[0], inside[-1] + 1) if inside else (0, 0)
        counted = high - low
        if end_pad is not None:
            counted = sum(-pad <= place < size + end_pad for place in taps)
        last = result[-1] if result else None
        if last is not None and (last.low, last.high, last.counted) == (low, high, counted):
            result[-1] = Span(last.first, last.count + 1, low, high, counted)
        else:
            result.append(Span(output, 1, low, high, counted))
    return result


@dataclass(frozen=True)
class Block:
    """Outputs whose windows look alike: a loop nest and the axes of the window's taps."""

    nest: Nest
    taps: tuple[Axis, Axis]
    counted: int


def blocks(
    source: ActivationLayout,
    target: ActivationLayout,
    target_view: View,
    window: Window,
    end_pads: tuple[int, int] | None = None,
) -> Iterator[Block]:
    """Every block of outputs; views are of the first tap and of the output."""
    channels = target.padded_channels if target_view.strides[3] == 1 else target.channels
    source_view = activation_view(source)
    steps = (source.row_bytes, source.channel_stride)
    end = (None, None) if end_pads is None else end_pads
    rows = spans(source.height, target.height, window, 0, end[0])
    columns = spans(source.width, target.width, window, 1, end[1])
    for row in rows:
        for column in columns:
            first = [0, 0, 0, 0]
            taps = []
            for axis, span in enumerate((row, column)):
                place = span.first * window.strides[axis] - window.pads[axis]
                first[1 + axis] = place + span.low * window.dilations[axis]
                taps.append((span.high - span.low, window.dilations[axis] * steps[axis]))
            strides = (
                source.image_bytes,
                window.strides[0] * steps[0],
                window.strides[1] * steps[1],
                1,
            )
            views = (
                View(source_view.shifted(first).offset, strides),
                target_view.shifted((0, row.first, column.first, 0)),
            )
            sizes = (target.batch, row.count, column.count, channels)
            element = target_view.strides[3]
            nest = Nest(sizes, views).merged((1, element))
            yield Block(nest, (taps[0], taps[1]), row.counted * column.counted)


def _check(source: ActivationLayout, target: ActivationLayout) -> None:
    if (source.batch, source.channels) != (target.batch, target.channels):
        raise ConfigError("Pooling keeps images and channels; make input and output agree in them.")


def _pool_name(kind: str, source: ActivationLayout, window: Window) -> str:
    shape = f"{source.batch}x{source.height}x{source.width}x{source.channels}"
    return f"{kind}_{shape}_k{window.kernel[0]}x{window.kernel[1]}"


@dataclass(frozen=True)
class MaxPoolKernel:
    """Maximum over windows; ``window.pads`` never win and need no halo.

    Windows past the end of the image (end padding, ceil mode) follow from the output's size.
    Operands: ``input, [rows, columns,] output``; where borders are many (:attr:`by_table`), tables
    say where each window begins and how many of its taps lie inside the image.
    """

    input: ActivationLayout
    output: ActivationLayout
    window: Window

    def __post_init__(self) -> None:
        _check(self.input, self.output)

    @property
    def name(self) -> str:
        """Such as ``max_pool_1x112x112x64_k3x3``."""
        return _pool_name("max_pool", self.input, self.window)

    @property
    def by_table(self) -> bool:
        """Whether there are too many kinds of windows to write code for each."""
        kinds = [len(spans(*sizes, self.window, axis)) for axis, sizes in enumerate(self._sizes)]
        return kinds[0] * kinds[1] > MOST_BLOCKS

    @property
    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        i, o = self.input, self.output
        return (i.height, o.height), (i.width, o.width)

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", *(("rows", "columns") if self.by_table else ()), "output")

    def pack(self, isa: InstructionSet) -> Packed:
        """The tables, if any; there are no other constants."""
        if not self.by_table:
            return {}
        tables = {}
        steps = (self.input.row_bytes, self.input.channel_stride)
        for axis, name in enumerate(("rows", "columns")):
            sizes, window = self._sizes[axis], self.window
            records = []
            for span in spans(*sizes, window, axis):
                for output in range(span.first, span.first + span.count):
                    place = output * window.strides[axis] - window.pads[axis]
                    first = place + span.low * window.dilations[axis]
                    records.append((first * steps[axis], span.high - span.low))
            tables[name] = np.frombuffer(np.array(records, np.int64).tobytes(), np.uint8)
        return tables

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        if self.by_table:
            self._emit_by_table(k, isa)
            return k.finish()
        view = activation_view(self.output)
        for block in blocks(self.input, self.output, view, self.window):
            block.nest.write(k, isa.vector_bytes, _MaxPiece(k, isa, block.taps))
        return k.finish()

    def _emit_by_table(self, k: LoopBuilder, isa: InstructionSet) -> None:
        source, target = self.input, self.output
        view = activation_view(source)
        nest = Nest(
            (target.batch, target.height, target.width, target.padded_channels),
            (
                View(0, (0, RECORD, 0, 0)),
                View(0, (0, 0, RECORD, 0)),
                View(view.offset, (view.strides[0], 0, 0, 1)),
                activation_view(target),
            ),
        ).merged((0, 0, 1, 1))
        steps = (
            self.window.dilations[0] * source.row_bytes,
            self.window.dilations[1] * source.channel_stride,
        )
        nest.write(k, UNROLL * isa.vector_bytes, _MaxByTable(k, isa, steps))


@dataclass(frozen=True)
class _MaxPiece:
    """The maximum over the taps of one vector of channels."""

    k: LoopBuilder
    isa: InstructionSet
    taps: tuple[Axis, Axis]

    def __call__(self, offsets: Sequence[Index], first: Index, count: int) -> None:
        k = self.k
        source = k.at(k.operand("input"), k.add(offsets[0], first))
        (rows, row_bytes), (columns, column_bytes) = self.taps
        if rows * columns <= UNROLLED:
            best = constant(vector(I8, self.isa.vector_bytes), 0)
            for row in range(rows):
                for column in range(columns):
                    place = k.at(source, row * row_bytes + column * column_bytes)
                    best = primitives.integer_minmax(k, "umax", best, k.load(best.type, place))
            values = [best]
        else:
            values = max_over(k, self.isa, source, self.taps, 1)
        store_bytes(k, values[0], k.operand("output"), k.add(offsets[1], first), count)


@dataclass(frozen=True)
class _MaxByTable:
    """The maximum over as many taps as the tables say, of a few vectors of channels."""

    k: LoopBuilder
    isa: InstructionSet
    steps: tuple[int, int]

    def __call__(self, offsets: Sequence[Index], first: Index, count: int) -> None:
        k, width = self.k, self.isa.vector_bytes
        source = k.at(k.operand("input"), k.add(offsets[2], first))
        taps = []
        for axis, name in enumerate(("rows", "columns")):
            record = k.at(k.operand(name), offsets[axis])
            source = k.at(source, k.load(I64, record, align=8))
            taps.append((k.load(I64, record, 8, align=8), self.steps[axis]))
        values = max_over(k, self.isa, source, (taps[0], taps[1]), -(-count // width))
        target = k.at(k.operand("output"), k.add(offsets[3], first))
        for i, value in enumerate(values):
            store_bytes(k, value, target, i * width, min(width, count - i * width))


def max_over(
    k: LoopBuilder,
    isa: InstructionSet,
    source: Value,
    taps: tuple[tuple[Index, int], tuple[Index, int]],
    vectors: int,
) -> list[Value]:
    """Maxima of neighbouring byte vectors over rows and columns ``(count, stride)`` of taps."""
    (rows, row_bytes), (columns, column_bytes) = taps
    width = isa.vector_bytes
    type_ = vector(I8, width)

    def tap(row: Index, column: Index, values: Sequence[Value]) -> list[Value]:
        place = k.at(source, k.add(k.mul(row, row_bytes), k.mul(column, column_bytes)))
        return [
            primitives.integer_minmax(k, "umax", value, k.load(type_, place, i * width))
            for i, value in enumerate(values)
        ]

    def line(row: Index, *values: Value) -> list[Value]:
        return k.loop(0, columns, lambda c, *v: tap(row, c, v), carried=values, name="tap_columns")

    return k.loop(0, rows, line, carried=[constant(type_, 0)] * vectors, name="tap_rows")


@dataclass(frozen=True)
class AveragePoolKernel:
    """Mean over windows: the sum of ``x - zero_point`` requantized by the number of taps.

    ``include_pad``: taps in the padding count (as zeros), up to ``end_pads`` below and to the
    right.  ``form`` ``float32`` stores the real mean into a dense ``[N, H, W, C]`` tensor.
    Operands: ``input, parameters, output``.
    """

    input: ActivationLayout
    output: ActivationLayout
    window: Window
    include_pad: bool = False
    end_pads: tuple[int, int] = (0, 0)
    form: Form = "uint8"
    clamp_float: bool = False

    def __post_init__(self) -> None:
        _check(self.input, self.output)
        if min(block.counted for block in self._blocks()) < 1:
            raise ConfigError("Some window of an average pooling lies wholly in the padding.")

    @property
    def name(self) -> str:
        """Such as ``average_pool_1x7x7x1280_k7x7``."""
        return _pool_name("average_pool", self.input, self.window)

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", "parameters", "output")

    def _blocks(self) -> list[Block]:
        floats = self.form == "float32"
        view = float_view(self.output, "nhwc") if floats else activation_view(self.output)
        end_pads = self.end_pads if self.include_pad else None
        return list(blocks(self.input, self.output, view, self.window, end_pads))

    def _parameters(self) -> Scalars:
        multipliers = tuple((f"multiplier{i}", "f32") for i in range(len(self._blocks())))
        return Scalars((*MEAN_FIELDS, *multipliers))

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
        counts = np.array([block.counted for block in self._blocks()])
        multipliers = mean_multiplier(input_scale, output_scale, counts)
        packed = self._parameters().pack(
            zero_point_x=input_zero_point,
            zero_point=output_zero_point,
            low=low,
            high=high,
            **{f"multiplier{i}": value for i, value in enumerate(multipliers)},
        )
        return {"parameters": packed}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        parameters = k.operand("parameters")
        scalars = Scalars(MEAN_FIELDS).load(k, isa, parameters)
        mean = MeanWriter(k, isa, scalars, self.form, self.clamp_float)
        size = 1 if self.form == "uint8" else 4
        for number, block in enumerate(self._blocks()):
            scalar = k.load(F32, parameters, 4 * (len(MEAN_FIELDS) + number), align=4)
            multiplier = k.splat(scalar, isa.lanes)
            sums = SumWriter(k, isa, block.taps)

            def piece(
                offsets: Sequence[Index],
                first: Index,
                count: int,
                sums: SumWriter = sums,
                multiplier: Any = multiplier,
                taps: tuple[Axis, Axis] = block.taps,
            ) -> None:
                words = sums.words(k.at(k.operand("input"), k.add(offsets[0], first)), count)
                place = k.at(k.operand("output"), k.add(offsets[1], k.mul(first, size)))
                mean.store(words, taps[0][0] * taps[1][0], multiplier, place, count)

            block.nest.write(k, isa.vector_bytes, piece)
        return k.finish()
