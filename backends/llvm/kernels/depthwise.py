"""Depthwise convolution: one filter a channel, vectors across channels.

The rows of one input column are interleaved in groups, so that the multiply-accumulate instruction
adds the taps of a group within a lane: four rows of bytes for the dot products, two rows of widened
bytes for ``vpmaddwd``.  An interleaved group serves every output pixel of the tile that touches it:
pixels below each other see the same groups with their taps shifted (a *phase*), pixels beside each
other see the same columns.  The interleave leaves channels in exactly the order that the epilogue's
packs undo (``epilogue.lane_channels``).
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

_CHUNK_BYTES = 24 * 1024
"""Input rows that are gone through once for every block of channels."""


@dataclass(frozen=True)
class DepthwiseKernel:
    """Depthwise convolution ``[N,C,H,W] * [C,1,kh,kw]`` over physical NHWC uint8 activations.

    ``weight_parts`` as in :class:`~qcc.backends.llvm.kernels.conv.ConvKernel`; ``tile`` overrides
    how many rows and columns of output pixels are computed together (rows must be 1 for dilated
    windows).  Operands: ``input, weight, parameters, [residual,] output``.
    """

    input: ActivationLayout
    output: ActivationLayout
    window: Window = field(default_factory=Window)
    epilogue: Epilogue = field(default_factory=Epilogue)
    weight_parts: int = 1
    tile: tuple[int, int] | None = None

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
    """Blocks of channels that are computed together, the tile, and the layout of the weights.

    A block is ``vectors`` accumulator vectors.  Weights of a block:
    ``[kx][phase][row group][part][vector][lane][row in group]``.
    """

    kernel: DepthwiseKernel
    isa: InstructionSet

    @property
    def group(self) -> int:
        """Rows that one instruction adds."""
        return self.isa.group

    @property
    def vectors(self) -> int:
        """Accumulator vectors of a block: one vector of bytes, or half of one widened."""
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
    def tile(self) -> tuple[int, int]:
        """Most rows and columns of output pixels of a tile.

        Tall tiles share interleaved rows, which dilated windows do not have in common.
        """
        if self.kernel.tile is not None:
            return self.kernel.tile
        kernel, strides = self.kernel.window.kernel, self.kernel.window.strides
        if self.kernel.window.dilations[0] > 1:
            return 1, 1
        if self.isa.dot == "vpmaddwd":
            # Measured on Zen 3: taller tiles pay where windows do not overlap much.
            return 2 * min(2, strides[0]), 1
        room = 4 if self.isa.vector_registers >= 32 else 2
        rows = 2 if strides[0] == 1 else 1
        few = kernel[1] > 3 or strides[1] > 1
        return rows, max(1, (room // 2 if few else room) // rows)

    @property
    def phases(self) -> list[int]:
        """Row in its group of the first tap of output rows of a tile, each once."""
        stride = self.kernel.window.strides[0]
        return sorted({y * stride % self.group for y in range(self.tile[0])})

    @property
    def row_groups(self) -> int:
        """Most groups that one window covers, over all phases."""
        return -(-(max(self.phases) + self.kernel.window.kernel[0]) // self.group)

    @property
    def parts(self) -> int:
        """Bytes that make a weight; widened weights are whole int16."""
        return 1 if self.isa.dot == "vpmaddwd" else self.kernel.weight_parts

    @property
    def group_bytes(self) -> int:
        """Bytes of weights of one group of rows of a block, all parts."""
        return self.parts * self.vectors * self.isa.vector_bytes

    @property
    def column_bytes(self) -> int:
        """Bytes of weights of one column of taps of a block."""
        return len(self.phases) * self.row_groups * self.group_bytes

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
        phases = self.phases
        rows = np.zeros((channels, len(phases), self.row_groups * self.group, kw), np.int16)
        for i, phase in enumerate(phases):
            rows[:, i, phase : phase + kh] = weight[:, 0]
        lanes, groups = self.isa.lanes, (len(phases), self.row_groups, self.group)
        spread = self.spread(rows).reshape(self.blocks, self.vectors, lanes, *groups, kw)
        # [block, kx, phase, row group, vector, lane, row]
        ordered = spread.transpose(0, 6, 3, 4, 1, 2, 5)
        if self.isa.dot == "vpmaddwd":
            return np.frombuffer(ordered.astype(np.int16).tobytes(), np.uint8)
        parts = np.stack(byte_parts(ordered, self.parts), axis=4)
        return np.frombuffer(parts.astype(np.int8).tobytes(), np.uint8)


@dataclass(frozen=True)
class _Block:
    """One block of channels of one image, while it is written."""

    image: Index
    block: Index
    writable: int


class _DepthwiseWriter:
    """Writes one depthwise convolution: work items of a few output rows and a channel block."""

    def __init__(self, kernel: DepthwiseKernel, isa: InstructionSet, function: Any) -> None:
        self.k = k = LoopBuilder(function)
        self.kernel, self.isa = kernel, isa
        self.cut = ChannelCut(kernel, isa)
        self.epilogue = EpilogueWriter(k, isa, self.cut.parameters, k.operand("parameters"))

    @property
    def chunk_rows(self) -> int:
        """Output rows of a work item: as many as keep their input rows in the first-level cache."""
        layout, target = self.kernel.input, self.kernel.output
        rows = _CHUNK_BYTES // (layout.row_bytes * self.kernel.window.strides[0])
        height = self.cut.tile[0]
        return min(target.height, max(1, rows // height) * height)

    def write(self) -> Any:
        """The whole function."""
        k, target, cut = self.k, self.kernel.output, self.cut
        whole = min(cut.blocks, target.channel_stride // cut.channels)
        rest = target.channel_stride - whole * cut.channels
        chunks = -(-target.height // self.chunk_rows)

        def item(number: Index) -> None:
            block, part = k.mod(number, cut.blocks), k.div(number, cut.blocks)
            image, chunk = k.div(part, chunks), k.mod(part, chunks)
            low = k.mul(chunk, self.chunk_rows)
            high = k.minimum(k.add(low, self.chunk_rows), target.height)
            if whole == cut.blocks or whole == 0:
                self._rows(image, low, high, block, cut.channels if whole else rest)
                return
            inside = k.ir.icmp_signed("<", k.index(block), k.index(whole))
            with k.ir.if_else(inside) as (then, otherwise):
                with then:
                    self._rows(image, low, high, block, cut.channels)
                with otherwise:
                    self._rows(image, low, high, whole, rest)

        begin, end = k.thread_range(target.batch * chunks * cut.blocks)
        k.loop(begin, end, item, name="items")
        return k.finish()

    def _rows(self, image: Index, low: Index, high: Index, block: Index, writable: int) -> None:
        """The output rows ``[low, high)`` of one block of channels."""
        k, height = self.k, self.cut.tile[0]
        place = _Block(image, block, writable)
        whole = k.add(low, k.mul(k.div(k.sub(high, low), height), height))
        k.loop(low, whole, lambda y: self._row(place, y, height), step=height, name="rows")
        if self.kernel.output.height % height:
            k.loop(whole, high, lambda y: self._row(place, y, 1), name="last_rows")

    def _row(self, place: _Block, y: Index, rows: int) -> None:
        """``rows`` output rows from ``y`` on."""
        k = self.k
        tiles, width, wider = split_rows(self.kernel.output.width, self.cut.tile[1])
        for first, last, pixels in ((0, wider, width + 1), (wider, tiles, width)):

            def tile(number: Index, pixels: int = pixels) -> None:
                x = k.add(k.mul(number, width), k.minimum(number, wider))
                self._tile(place, y, x, rows, pixels)

            k.loop(first, last, tile, name="pixels")

    def _tile(self, place: _Block, y: Index, x: Index, rows: int, pixels: int) -> None:
        """``rows x pixels`` output pixels of one block of channels."""
        k, kernel, cut = self.k, self.kernel, self.cut
        layout, window = kernel.input, kernel.window
        offset = k.add(
            k.mul(place.image, layout.image_bytes), k.mul(y, window.strides[0] * layout.row_bytes)
        )
        column = k.mul(x, window.strides[1] * layout.channel_stride)
        channel = k.mul(place.block, cut.channels)
        origin = k.add(k.add(offset, window.origin(layout)), k.add(column, channel))
        source = k.at(k.operand("input"), origin)
        weights = k.at(k.operand("weight"), k.mul(place.block, cut.block_bytes))
        first_vector = k.mul(place.block, cut.vectors)
        natural = kernel.epilogue.form == "uint8"
        bias = self.epilogue.bias(first_vector, cut.vectors)
        # Other forms have parameters in memory order of channels: their bias is added at the end.
        start = bias if natural else [constant(value.type, 0) for value in bias]
        accumulators = [[list(start) for _ in range(pixels)] for _ in range(rows)]
        for at, uses in self._columns(pixels).items():
            groups = self._column(k.at(source, at * layout.channel_stride), rows)
            for pixel, kx in uses:
                for row in range(rows):
                    self._accumulate(accumulators[row][pixel], groups, weights, kx, row)
        flat = [values for line in accumulators for values in line]
        if not natural:
            flat = [self._natural(values, bias) for values in flat]
        places = [
            self._place(place, k.add(y, row), k.add(x, i), channel)
            for row in range(rows)
            for i in range(pixels)
        ]
        self.epilogue.finish(flat, first_vector, places)

    def _columns(self, pixels: int) -> dict[int, list[tuple[int, int]]]:
        """Input column to the ``(pixel, kx)`` that it serves, left to right."""
        window = self.kernel.window
        uses: dict[int, list[tuple[int, int]]] = {}
        for pixel in range(pixels):
            for kx in range(window.kernel[1]):
                x = pixel * window.strides[1] + kx * window.dilations[1]
                uses.setdefault(x, []).append((pixel, kx))
        return dict(sorted(uses.items()))

    def _column(self, pointer: Value, height: int) -> list[list[Value]]:
        """The interleaved rows of one input column: ``[row group][vector]``."""
        k, cut, window = self.k, self.cut, self.kernel.window
        pitch = window.dilations[0] * self.kernel.input.row_bytes
        count = (height - 1) * window.strides[0] + window.kernel[0]
        rows = [k.load(vector(I8, cut.channels), pointer, y * pitch) for y in range(count)]
        if self.isa.dot == "sdot":
            rows = [k.ir.xor(row, constant(row.type, -128)) for row in rows]
        if self.isa.dot == "vpmaddwd":
            rows = [k.ir.zext(row, vector(I16, cut.channels)) for row in rows]
        # Rows past the last tap meet zero weights, so any value will do.
        rows += [rows[-1]] * (-count % cut.group)
        return [self._interleave(rows[i : i + cut.group]) for i in range(0, count, cut.group)]

    def _interleave(self, rows: list[Value]) -> list[Value]:
        """Rows side by side in every lane, in the order of ``lane_channels``."""
        k = self.k
        if len(rows) == 2:
            return [primitives.unpack(k, *rows, high=high) for high in (False, True)]
        type_ = rows[0].type
        words = vector(I16, type_.count // 2)
        result = []
        for high in (False, True):
            a, b = (
                k.ir.bitcast(primitives.unpack(k, rows[i], rows[i + 1], high=high), words)
                for i in (0, 2)
            )
            pairs = [primitives.unpack(k, a, b, high=upper) for upper in (False, True)]
            result += [k.ir.bitcast(value, type_) for value in pairs]
        return result

    def _accumulate(
        self,
        accumulators: list[Value],
        groups: list[list[Value]],
        weights: Value,
        kx: int,
        row: int,
    ) -> None:
        """Add one column of taps to the accumulators of one pixel of the tile's row ``row``."""
        k, cut, size = self.k, self.cut, self.isa.vector_bytes
        first, phase = divmod(row * self.kernel.window.strides[0], cut.group)
        last = first + (phase + self.kernel.window.kernel[0] - 1) // cut.group
        base = kx * cut.column_bytes + cut.phases.index(phase) * cut.row_groups * cut.group_bytes
        for number in range(first, last + 1):
            for part in range(cut.parts):
                offset = base + (number - first) * cut.group_bytes + part * cut.vectors * size
                for s, value in enumerate(groups[number]):
                    weight = k.load(value.type, weights, offset + s * size, align=size)
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

    def _place(self, place: _Block, y: Index, x: Index, channel: Index) -> Place:
        kernel = self.kernel
        size, residual = kernel.epilogue.element_bytes, kernel.epilogue.residual
        pixel = (place.image, y, x)
        output = self._address("output", kernel.output, pixel, channel, size)
        if residual is None:
            return Place(output, None, place.writable)
        addend = self._address("residual", residual, pixel, channel, 1)
        return Place(output, addend, place.writable)

    def _address(
        self,
        operand: str,
        layout: ActivationLayout,
        pixel: tuple[Index, Index, Index],
        channel: Index,
        size: int,
    ) -> Value:
        k = self.k
        image, y, x = pixel
        offset = k.add(k.mul(image, layout.image_bytes * size), k.mul(y, layout.row_bytes * size))
        inner = k.add(k.mul(x, layout.channel_stride * size), k.mul(channel, size))
        inside = k.add(offset, layout.interior_offset * size)
        return k.at(k.at(k.operand(operand), inside), inner)


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
