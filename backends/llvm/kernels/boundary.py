"""Where float32 meets 8 bits: quantize and dequantize (contract 1), with a change of layout fused.

Float tensors are dense, channels first (``nchw``) or last (``nhwc``); 8-bit tensors lie as their
:class:`ActivationLayout` says.  Reads and writes of float tensors stay within them, so they may be
a caller's own arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from qcc.backends.llvm.builder import I8, Index, LoopBuilder, Value, declare_kernel, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.backends.llvm.kernels.lanes import (
    Scalars,
    interleave,
    load_floats,
    load_words,
    power_of_two,
    store_floats,
    to_floats,
    widen,
)
from qcc.backends.llvm.kernels.nest import (
    Nest,
    View,
    activation_sizes,
    activation_view,
    dense_view,
)
from qcc.backends.llvm.kernels.rounding import (
    Division,
    Quantizer,
    division_for,
    output_block,
    output_scalars,
)

Order = Literal["nchw", "nhwc"]

TILE = 16
"""Channels (and pixels, on the way out) that are transposed together: bytes of a 128-bit lane."""

GROUP = 4
"""Channels that activations have at least room for."""

IN_REGISTERS = 4
"""Up to so many channels of a vector of pixels are quantized without a loop over channels."""


def float_view(layout: ActivationLayout, order: Order) -> View:
    """A dense float32 tensor of the layout's shape as axes ``[batch, height, width, channel]``."""
    n, h, w, c = activation_sizes(layout)
    if order == "nhwc":
        return dense_view((n, h, w, c), 4)
    return dense_view((n, c, h, w), 4).permuted((0, 2, 3, 1))


def _same_order(layout: ActivationLayout, order: Order) -> bool:
    """Whether runs of several channels are contiguous in the float tensor, too."""
    return layout.height * layout.width == 1 or (order == "nhwc" and layout.channels > 1)


def _shape_name(layout: ActivationLayout) -> str:
    return "x".join(map(str, activation_sizes(layout)))


@dataclass(frozen=True)
class QuantizeKernel:
    """``output = clamp(round_half_even(input / scale) + zero_point)``.

    Operands: ``input`` (float32), ``parameters``, ``output``.  Padding channels of the output get
    unspecified values.
    """

    output: ActivationLayout
    order: Order = "nchw"
    division: Division = "divide"

    @staticmethod
    def of(output: ActivationLayout, order: Order, scale: float) -> QuantizeKernel:
        """The specification for a known scale: it multiplies where that is proved to be equal."""
        return QuantizeKernel(output, order, division_for(float(scale)))

    @property
    def name(self) -> str:
        """Such as ``quantize_nchw_1x224x224x3``."""
        return f"quantize_{self.order}_{_shape_name(self.output)}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", "parameters", "output")

    def pack(
        self, isa: InstructionSet, *, scale: float, zero_point: int, low: int = 0, high: int = 255
    ) -> Packed:
        """The numbers of the output's quantization, in stored uint8 units."""
        values = output_scalars(scale, zero_point, low, high, self.division)
        return {"parameters": output_block().pack(**values)}

    @property
    def _few_channels(self) -> bool:
        """Whether pixels of two or three channels follow each other on both sides."""
        few = self.order == "nhwc" and self.output.channels in (2, 3)
        return few and self.output.channel_stride == GROUP

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        scalars = output_block().load(k, isa, k.operand("parameters"))
        quantizer = Quantizer(k, isa, scalars, self.division)
        sizes = activation_sizes(self.output)
        source, target = float_view(self.output, self.order), activation_view(self.output)
        planes = Nest(sizes[:3], (_pixels(source), _pixels(target))).merged()
        if self._few_channels:
            planes.write(k, isa.lanes, _QuantizeFew(k, isa, quantizer, self.output.channels))
            return k.finish()
        if _same_order(self.output, self.order):
            source = float_view(self.output, "nhwc")
            nest = Nest(sizes, (source, target)).merged((4, 1))
            nest.write(k, isa.vector_bytes, _QuantizeRun(k, isa, quantizer))
            return k.finish()
        stack = k.stack(TILE * isa.vector_bytes)
        body = _QuantizePixels(k, isa, quantizer, self.output, planes.run_strides[1], stack)
        planes.write(k, isa.vector_bytes, body)
        return k.finish()


def _pixels(view: View) -> View:
    """The view of channel 0 of every pixel."""
    return View(view.offset, view.strides[:3])


@dataclass(frozen=True)
class _QuantizeRun:
    """Elements that follow each other on both sides."""

    k: LoopBuilder
    isa: InstructionSet
    quantizer: Quantizer

    def __call__(self, offsets: Sequence[Index], first: Index, count: int) -> None:
        k = self.k
        source = k.add(offsets[0], k.mul(first, 4))
        values = load_floats(k, self.isa, k.operand("input"), source, count)
        octets = self.quantizer.octets(values)
        store_bytes(k, octets, k.operand("output"), k.add(offsets[1], first), count)


@dataclass(frozen=True)
class _QuantizeFew:
    """Pixels of two or three channels, as many as a vector has lanes: bytes are spread at once."""

    k: LoopBuilder
    isa: InstructionSet
    quantizer: Quantizer
    channels: int

    def __call__(self, offsets: Sequence[Index], first: Index, count: int) -> None:
        k, channels = self.k, self.channels
        source = k.add(offsets[0], k.mul(first, 4 * channels))
        values = load_floats(k, self.isa, k.operand("input"), source, count * channels)
        octets = self.quantizer.octets(values)
        order = [
            pixel * channels + min(channel, channels - 1)
            for pixel in range(self.isa.lanes)
            for channel in range(GROUP)
        ]
        target = k.add(offsets[1], k.mul(first, GROUP))
        spread = k.shuffle(octets, None, order)
        store_bytes(k, spread, k.operand("output"), target, count * GROUP)


@dataclass(frozen=True)
class _QuantizePixels:
    """Pixels of all channel planes, transposed to channels last 16 channels at a time."""

    k: LoopBuilder
    isa: InstructionSet
    quantizer: Quantizer
    layout: ActivationLayout
    pixel_stride: int
    stack: Value

    def __call__(self, offsets: Sequence[Index], first: Index, count: int) -> None:
        k, channels = self.k, self.layout.channels
        source = k.at(k.operand("input"), k.add(offsets[0], k.mul(first, 4)))
        target = k.at(k.operand("output"), k.add(offsets[1], k.mul(first, self.pixel_stride)))
        plane = 4 * self.layout.height * self.layout.width
        whole = channels // TILE * TILE

        def row(channel: Index) -> Value:
            return self.quantizer.octets(
                load_floats(k, self.isa, source, k.mul(channel, plane), count)
            )

        def block(channel: Index, wanted: int) -> None:
            if wanted <= IN_REGISTERS:
                rows = [row(k.add(channel, c)) for c in range(wanted)]
            else:
                rows = self._through_stack(lambda c: row(k.add(channel, c)), wanted)
            self._store(rows, k.at(target, channel), count)

        k.loop(0, whole, lambda c: block(c, TILE), step=TILE, name="channels")
        if channels > whole:
            block(whole, channels - whole)

    def _through_stack(self, row: Callable[[Index], Value], count: int) -> list[Value]:
        """Rows made by a loop (so that its body is written once) and kept on the stack."""
        k, width = self.k, self.isa.vector_bytes
        k.loop(0, count, lambda c: k.store(row(c), self.stack, k.mul(c, width), width), name="row")
        type_ = vector(I8, width)
        return [k.load(type_, self.stack, c * width, width) for c in range(count)]

    def _store(self, rows: list[Value], target: Value, count: int) -> None:
        """Store bytes ``rows[channel][pixel]``; channels up to a multiple of 4 are written."""
        k = self.k
        group = power_of_two(max(4, len(rows)))
        width = -(-len(rows) // 4) * 4
        rows = rows + [rows[0]] * (group - len(rows))
        results = interleave(k, rows)
        together = TILE // group
        contiguous = self.pixel_stride == group
        for lane in range(self.isa.vector_bytes // TILE):
            for i, result in enumerate(results):
                pixel = lane * TILE + i * together
                wanted = min(together, count - pixel)
                if wanted <= 0:
                    continue
                piece = result
                if result.type.count > TILE:
                    piece = k.shuffle(result, None, range(lane * TILE, (lane + 1) * TILE))
                if contiguous:
                    store_bytes(k, piece, target, pixel * group, wanted * group)
                    continue
                for j in range(wanted):
                    one = k.shuffle(piece, None, range(j * group, (j + 1) * group))
                    store_bytes(k, one, target, (pixel + j) * self.pixel_stride, width)


_INPUT = Scalars((("zero_point", "i32"), ("scale", "f32")))


@dataclass(frozen=True)
class DequantizeKernel:
    """``output = float32(input - zero_point) * scale``.

    Operands: ``input``, ``parameters``, ``output`` (float32).
    """

    input: ActivationLayout
    order: Order = "nchw"

    @property
    def name(self) -> str:
        """Such as ``dequantize_nchw_1x1x1x1000``."""
        return f"dequantize_{self.order}_{_shape_name(self.input)}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", "parameters", "output")

    def pack(self, isa: InstructionSet, *, scale: float, zero_point: int) -> Packed:
        """The numbers of the input's quantization, in stored uint8 units."""
        return {"parameters": _INPUT.pack(scale=scale, zero_point=zero_point)}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        real = Dequantizer(k, _INPUT.load(k, isa, k.operand("parameters")))
        sizes = activation_sizes(self.input)
        source, target = activation_view(self.input), float_view(self.input, self.order)
        if _same_order(self.input, self.order):
            target = float_view(self.input, "nhwc")
            nest = Nest(sizes, (source, target)).merged((1, 4))
            nest.write(k, isa.vector_bytes, _DequantizeRun(k, isa, real))
            return k.finish()
        planes = Nest(sizes[:3], (_pixels(source), _pixels(target))).merged()
        body = _DequantizePixels(k, isa, real, self.input, planes.run_strides[0])
        planes.write(k, TILE, body)
        return k.finish()


@dataclass(frozen=True)
class Dequantizer:
    """Writes ``float32(q - zero_point) * scale``; scalars ``zero_point`` (i32) and ``scale``."""

    k: LoopBuilder
    scalars: dict[str, Value]

    def __call__(self, words: Sequence[Value]) -> list[Value]:
        """Float vectors from int32 vectors of stored values."""
        k = self.k
        centred = [k.ir.sub(word, self.scalars["zero_point"]) for word in words]
        return [k.ir.fmul(value, self.scalars["scale"]) for value in to_floats(k, centred)]


@dataclass(frozen=True)
class _DequantizeRun:
    """Elements that follow each other on both sides."""

    k: LoopBuilder
    isa: InstructionSet
    real: Dequantizer

    def __call__(self, offsets: Sequence[Index], first: Index, count: int) -> None:
        k = self.k
        words = load_words(k, self.isa, k.operand("input"), k.add(offsets[0], first), count)
        target = k.add(offsets[1], k.mul(first, 4))
        store_floats(k, self.real(words), k.operand("output"), target, count)


@dataclass(frozen=True)
class _DequantizePixels:
    """16 pixels of 16 channels at a time, transposed to channel planes as bytes."""

    k: LoopBuilder
    isa: InstructionSet
    real: Dequantizer
    layout: ActivationLayout
    pixel_stride: int

    def __call__(self, offsets: Sequence[Index], first: Index, count: int) -> None:
        k, channels = self.k, self.layout.channels
        source = k.at(k.operand("input"), k.add(offsets[0], k.mul(first, self.pixel_stride)))
        target = k.at(k.operand("output"), k.add(offsets[1], k.mul(first, 4)))
        plane = 4 * self.layout.height * self.layout.width
        whole = channels // TILE * TILE

        def block(channel: Index, wanted: int) -> None:
            base = k.at(source, channel)
            rows = [
                k.load(vector(I8, TILE), base, min(p, count - 1) * self.pixel_stride)
                for p in range(TILE)
            ]
            for c, row in enumerate(interleave(k, rows)[:wanted]):
                values = self.real(widen(k, self.isa, row, count))
                start = k.mul(k.add(channel, c), plane)
                store_floats(k, values, target, start, count)

        k.loop(0, whole, lambda c: block(c, TILE), step=TILE, name="channels")
        if channels > whole:
            block(whole, channels - whole)
