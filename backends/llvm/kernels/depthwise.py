"""Depthwise convolution: one filter a channel, vectors across channels.

The taps of one input column are interleaved so that the multiply-accumulate instruction adds them
within a lane: four rows of bytes for the dot products, two rows of widened bytes for ``vpmaddwd``.
Each interleaved column serves every output pixel of the tile that it touches.  The interleave
leaves channels in exactly the order that the epilogue's packs undo (``epilogue.lane_channels``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import (
    I8,
    I16,
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
from qcc.backends.llvm.kernels.epilogue import (
    Epilogue,
    EpilogueWriter,
    Form,
    ParameterBlock,
    Place,
    lane_channels,
    needs_float_clamp,
)
from qcc.backends.llvm.kernels.gemm import byte_parts, parts_needed
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.schedule import split_rows
from qcc.errors import ConfigError


@dataclass(frozen=True)
class DepthwiseKernel:
    """Depthwise convolution ``[N,C,H,W] * [C,1,kh,kw]`` over physical NHWC uint8 activations.

    ``weight_parts`` as in :class:`~qcc.backends.llvm.kernels.conv.ConvKernel`; ``pixels`` overrides
    how many output pixels of a row one tile computes.  Operands: ``input, weight, parameters,
    [residual,] output``.
    """

    input: ActivationLayout
    output: ActivationLayout
    window: Window = field(default_factory=Window)
    epilogue: Epilogue = field(default_factory=Epilogue)
    weight_parts: int = 1
    pixels: int | None = None

    def __post_init__(self) -> None:
        self.window.check(self.input, self.output)
        if self.input.channels != self.output.channels:
            raise ConfigError(
                "A depthwise kernel keeps the number of channels; use a grouped convolution for "
                f"{self.input.channels} to {self.output.channels} channels."
            )

    @property
    def name(self) -> str:
        """Such as ``depthwise_1x56x56x64_k3x3_s1x1``."""
        i, w = self.input, self.window
        shape = f"{i.batch}x{i.height}x{i.width}x{i.channels}"
        return f"depthwise_{shape}_k{w.kernel[0]}x{w.kernel[1]}_s{w.strides[0]}x{w.strides[1]}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        residual = () if self.epilogue.residual is None else ("residual",)
        return ("input", "weight", "parameters", *residual, "output")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call, padding not counted."""
        o, taps = self.output, self.window.kernel[0] * self.window.kernel[1]
        return o.batch * o.height * o.width * o.channels * taps

    def pack(
        self,
        isa: InstructionSet,
        *,
        weight: Any,
        multiplier: Any,
        input_zero_point: int,
        bias: Any | None = None,
        output_zero_point: int = 0,
        low: int = 0,
        high: int = 255,
        residual_zero_point: int = 0,
        residual_multiplier: float = 0.0,
        table: Any | None = None,
    ) -> Packed:
        """Pack ``weight`` int ``[C, 1, kh, kw]``; other constants as for a convolution."""
        weights, channels = np.asarray(weight), self.output.channels
        if weights.shape != (channels, 1, *self.window.kernel):
            raise ConfigError(
                f"The weight has shape {weights.shape}; the kernel needs "
                f"{(channels, 1, *self.window.kernel)}."
            )
        if parts_needed(weights) > self.weight_parts:
            raise ConfigError(f"The weights need weight_parts={parts_needed(weights)}.")
        cut = ChannelCut(self, isa)
        centre = input_zero_point - (128 if isa.dot == "sdot" else 0)
        total = weights.astype(np.int64).reshape(channels, -1).sum(1)
        start = (0 if bias is None else np.asarray(bias, np.int64)) - centre * total
        start = np.broadcast_to(start, channels).astype(np.int32)
        scale = np.broadcast_to(np.asarray(multiplier, np.float32), channels)
        parameters = cut.parameters.pack(
            cut.spread(start, self.epilogue.form),
            cut.spread(scale, self.epilogue.form),
            output_zero_point=output_zero_point,
            low=low,
            high=high,
            residual_zero_point=residual_zero_point,
            residual_multiplier=residual_multiplier,
            table=table,
        )
        return {"weight": cut.pack_weight(weights), "parameters": parameters}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``; threads share out rows and channel blocks."""
        return _DepthwiseWriter(self, isa, declare_kernel(module, symbol, self.operands)).write()


@dataclass(frozen=True)
class ChannelCut:
    """Blocks of channels that are computed together, and the layout of their weights.

    A block is one vector of bytes (dot products) or half of one (widened): ``vectors`` accumulator
    vectors.  Weights of a block: ``[kx][row group][part][vector][lane][row in group]``.
    """

    kernel: DepthwiseKernel
    isa: InstructionSet

    @property
    def group(self) -> int:
        """Rows that one instruction adds."""
        return self.isa.group

    @property
    def vectors(self) -> int:
        """Accumulator vectors of a block."""
        return 2 if self.isa.dot == "vpmaddwd" else 4

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.vectors * self.isa.lanes

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may be partly used."""
        return -(-self.kernel.output.channels // self.channels)

    @property
    def row_groups(self) -> int:
        """Groups of rows of one column."""
        return -(-self.kernel.window.kernel[0] // self.group)

    @property
    def parts(self) -> int:
        """Bytes that make a weight; widened weights are whole int16."""
        return 1 if self.isa.dot == "vpmaddwd" else self.kernel.weight_parts

    @property
    def column_bytes(self) -> int:
        """Bytes of weights of one column of taps of a block."""
        return self.row_groups * self.parts * self.vectors * self.isa.vector_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of weights of a block."""
        return self.kernel.window.kernel[1] * self.column_bytes

    @property
    def parameters(self) -> ParameterBlock:
        """The constant operand of the epilogue."""
        return ParameterBlock(self.isa, self.blocks * self.vectors, self.kernel.epilogue)

    def spread(self, values: NDArray[Any], form: Form = "uint8") -> NDArray[Any]:
        """``[channels, ...]`` in lane order along axis 0, zero where there is no channel."""
        padded = np.zeros((self.blocks * self.channels, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        order = lane_channels(self.vectors, self.isa.lanes, form)
        starts = np.arange(self.blocks)[:, None] * self.channels
        spread: NDArray[Any] = padded[(starts + order).reshape(-1)]
        return spread

    def pack_weight(self, weight: NDArray[Any]) -> NDArray[np.uint8]:
        """``[C, 1, kh, kw]`` to the bytes of all blocks."""
        channels, _, kh, kw = weight.shape
        rows = np.zeros((channels, self.row_groups * self.group, kw), np.int16)
        rows[:, :kh] = weight[:, 0]
        spread = self.spread(rows).reshape(
            self.blocks, self.vectors, self.isa.lanes, self.row_groups, self.group, kw
        )
        # [block, kx, row group, vector, lane, row]
        ordered = spread.transpose(0, 5, 3, 1, 2, 4)
        if self.isa.dot == "vpmaddwd":
            return np.frombuffer(ordered.astype(np.int16).tobytes(), np.uint8)
        parts = np.stack(byte_parts(ordered, self.parts), axis=3)
        return np.frombuffer(parts.astype(np.int8).tobytes(), np.uint8)


class _DepthwiseWriter:
    """Writes one depthwise convolution: work items of one output row and one channel block."""

    def __init__(self, kernel: DepthwiseKernel, isa: InstructionSet, function: Any) -> None:
        self.k = k = LoopBuilder(function)
        self.kernel, self.isa = kernel, isa
        self.cut = ChannelCut(kernel, isa)
        self.epilogue = EpilogueWriter(k, isa, self.cut.parameters, k.operand("parameters"))

    @property
    def tile_pixels(self) -> int:
        """Output pixels of a tile: as many as leave registers for the columns."""
        if self.kernel.pixels is not None:
            return self.kernel.pixels
        return 4 if self.isa.vector_registers >= 32 or self.cut.vectors == 2 else 2

    def write(self) -> Any:
        """The whole function."""
        k, target = self.k, self.kernel.output
        whole = target.channel_stride // self.cut.channels

        def item(number: Index) -> None:
            block, row = k.mod(number, self.cut.blocks), k.div(number, self.cut.blocks)
            if whole >= self.cut.blocks:
                self._row(row, block, self.cut.channels)
                return
            rest = target.channel_stride - whole * self.cut.channels
            if whole == 0:
                self._row(row, block, rest)
                return
            inside = k.ir.icmp_signed("<", k.index(block), k.index(whole))
            with k.ir.if_else(inside) as (then, otherwise):
                with then:
                    self._row(row, block, self.cut.channels)
                with otherwise:
                    self._row(row, whole, rest)

        begin, end = k.thread_range(target.batch * target.height * self.cut.blocks)
        k.loop(begin, end, item, name="items")
        return k.finish()

    def _row(self, row: Index, block: Index, writable: int) -> None:
        """One row of output pixels of one block of channels."""
        k, target = self.k, self.kernel.output
        tiles, height, taller = split_rows(target.width, self.tile_pixels)
        for low, high, pixels in ((0, taller, height + 1), (taller, tiles, height)):

            def tile(number: Index, pixels: int = pixels) -> None:
                first = k.add(k.mul(number, height), k.minimum(number, taller))
                self._tile(row, first, pixels, block, writable)

            k.loop(low, high, tile, name="pixels")

    def _tile(self, row: Index, first: Index, pixels: int, block: Index, writable: int) -> None:
        """``pixels`` neighbouring output pixels of one block of channels."""
        k, kernel, cut = self.k, self.kernel, self.cut
        layout, window = kernel.input, kernel.window
        image, y = k.div(row, kernel.output.height), k.mod(row, kernel.output.height)
        offset = k.add(
            k.mul(image, layout.image_bytes), k.mul(y, window.strides[0] * layout.row_bytes)
        )
        column = k.mul(first, window.strides[1] * layout.channel_stride)
        channel = k.mul(block, cut.channels)
        origin = k.add(k.add(offset, window.origin(layout)), k.add(column, channel))
        source = k.at(k.operand("input"), origin)
        weights = k.at(k.operand("weight"), k.mul(block, cut.block_bytes))
        first_vector = k.mul(block, cut.vectors)
        bias = self.epilogue.bias(first_vector, cut.vectors)
        if kernel.epilogue.form != "uint8":
            # The natural order of the parameters is not that of the interleave: add bias later.
            bias = [constant(value.type, 0) for value in bias]
        accumulators = [list(bias) for _ in range(pixels)]
        for x, uses in self._columns(pixels).items():
            columns = self._column(k.at(source, x * layout.channel_stride))
            for pixel, kx in uses:
                self._accumulate(accumulators[pixel], columns, weights, kx)
        if kernel.epilogue.form != "uint8":
            bias = self.epilogue.bias(first_vector, cut.vectors)
            accumulators = [self._natural(values, bias) for values in accumulators]
        places = [self._place(image, y, k.add(first, i), channel, writable) for i in range(pixels)]
        self.epilogue.finish(accumulators, first_vector, places)

    def _columns(self, pixels: int) -> dict[int, list[tuple[int, int]]]:
        """Input column to the ``(pixel, kx)`` that it serves, left to right."""
        window = self.kernel.window
        uses: dict[int, list[tuple[int, int]]] = {}
        for pixel in range(pixels):
            for kx in range(window.kernel[1]):
                x = pixel * window.strides[1] + kx * window.dilations[1]
                uses.setdefault(x, []).append((pixel, kx))
        return dict(sorted(uses.items()))

    def _column(self, pointer: Value) -> list[list[Value]]:
        """The interleaved rows of one input column: ``[row group][vector]``."""
        k, cut, window = self.k, self.cut, self.kernel.window
        pitch = window.dilations[0] * self.kernel.input.row_bytes
        octets = vector(I8, cut.channels)
        rows: list[Value | None] = []
        for ky in range(cut.row_groups * cut.group):
            if ky >= window.kernel[0]:
                rows.append(None)
                continue
            row = k.load(octets, pointer, ky * pitch)
            if self.isa.dot == "sdot":
                row = k.ir.xor(row, constant(octets, -128))
            if self.isa.dot == "vpmaddwd":
                row = k.ir.zext(row, vector(I16, cut.channels))
            rows.append(row)
        groups = [rows[i : i + cut.group] for i in range(0, len(rows), cut.group)]
        return [self._interleave(group) for group in groups]

    def _interleave(self, rows: list[Value | None]) -> list[Value]:
        """Rows side by side in every lane, in the order of ``lane_channels``."""
        k = self.k
        type_ = next(row.type for row in rows if row is not None)
        filled = [constant(type_, 0) if row is None else row for row in rows]
        if len(filled) == 2:
            return [primitives.unpack(k, *filled, high=high) for high in (False, True)]
        result = []
        words = vector(I16, type_.count // 2)
        for high in (False, True):
            a, b = (
                k.ir.bitcast(primitives.unpack(k, filled[i], filled[i + 1], high=high), words)
                for i in (0, 2)
            )
            pairs = [primitives.unpack(k, a, b, high=upper) for upper in (False, True)]
            result += [k.ir.bitcast(value, type_) for value in pairs]
        return result

    def _accumulate(
        self, accumulators: list[Value], columns: list[list[Value]], weights: Value, kx: int
    ) -> None:
        """Add one column of taps to the accumulators of one pixel."""
        k, cut, isa = self.k, self.cut, self.isa
        size = isa.vector_bytes
        for g, column in enumerate(columns):
            for part in range(cut.parts):
                base = kx * cut.column_bytes + (g * cut.parts + part) * cut.vectors * size
                for s, value in enumerate(column):
                    weight = k.load(value.type, weights, base + s * size, align=size)
                    accumulators[s] = self._multiply_add(accumulators[s], value, weight)

    def _multiply_add(self, accumulator: Value, value: Value, weight: Value) -> Value:
        k, isa = self.k, self.isa
        if isa.dot == "vpmaddwd":
            product = primitives.call(k, isa, "multiply_add_pairs", value, weight)
            return k.ir.add(accumulator, product)
        name = "dot_signed_signed" if isa.dot == "sdot" else "dot_unsigned_signed"
        return primitives.call(k, isa, name, accumulator, value, weight)

    def _natural(self, accumulators: list[Value], bias: list[Value]) -> list[Value]:
        """Accumulators in memory order of channels, bias added."""
        k, lanes = self.k, self.isa.lanes
        joined = list(accumulators)
        while len(joined) > 1:
            joined = [k.join(joined[i], joined[i + 1]) for i in range(0, len(joined), 2)]
        order = np.argsort(lane_channels(len(accumulators), lanes, "uint8"))
        return [
            k.ir.add(
                k.shuffle(joined[0], None, [int(i) for i in order[s * lanes : (s + 1) * lanes]]),
                bias[s],
            )
            for s in range(len(accumulators))
        ]

    def _place(self, image: Index, y: Index, x: Index, channel: Index, writable: int) -> Place:
        kernel, k = self.kernel, self.k
        size, residual = kernel.epilogue.element_bytes, kernel.epilogue.residual
        output = self._address("output", kernel.output, image, y, x, channel, size)
        if residual is None:
            return Place(output, None, writable)
        addend = self._address("residual", residual, image, y, x, channel, 1)
        return Place(output, k.at(addend, 0), writable)

    def _address(
        self,
        operand: str,
        layout: ActivationLayout,
        image: Index,
        y: Index,
        x: Index,
        channel: Index,
        size: int,
    ) -> Value:
        k = self.k
        offset = k.add(k.mul(image, layout.image_bytes * size), k.mul(y, layout.row_bytes * size))
        pixel = k.add(k.mul(x, layout.channel_stride * size), k.mul(channel, size))
        inside = k.add(offset, layout.interior_offset * size)
        return k.at(k.at(k.operand(operand), inside), pixel)


def depthwise_kernel(
    source: ActivationLayout,
    target: ActivationLayout,
    weight: Any,
    *,
    multiplier: Any,
    input_zero_point: int,
    bias: Any | None = None,
    window: Window | None = None,
    form: Form = "uint8",
    residual: ActivationLayout | None = None,
    residual_multiplier: float = 0.0,
    table: bool = False,
) -> DepthwiseKernel:
    """The specification for real constants: ``weight`` int ``[C, 1, kh, kw]``.

    Raises :class:`ConfigError` when an accumulator can leave int32 (contract 2).
    """
    weights = np.asarray(weight)
    low, high = -input_zero_point, 255 - input_zero_point
    bound = numerics.accumulator_bound(weights, bias, low, high, 0)
    if bound >= 2**31:
        raise ConfigError(
            "The accumulators of a depthwise convolution can pass 2^31; keep it in float."
        )
    clamp = form == "uint8" and needs_float_clamp(bound, multiplier, residual_multiplier)
    return DepthwiseKernel(
        input=source,
        output=target,
        window=window or Window(weights.shape[2:]),
        epilogue=Epilogue(form, residual, table, clamp),
        weight_parts=parts_needed(weights),
    )
