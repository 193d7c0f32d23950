"""Resize images channels last: nearest (an indexed copy) and linear.

Source indices and weights are constants; ``qcc.ir.integer.resize`` computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.builder import F32, I64, Index, LoopBuilder, Value, declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.boundary import Dequantizer
from qcc.backends.llvm.kernels.copy import CopyKernel
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.backends.llvm.kernels.lanes import load_words
from qcc.backends.llvm.kernels.nest import Nest, View, activation_view
from qcc.backends.llvm.kernels.rounding import (
    REACH,
    Division,
    Quantizer,
    division_for,
    output_block,
    output_scalars,
)
from qcc.errors import ConfigError

Taps = tuple[Any, Any, Any]
"""``(lower index, upper index, weight of the upper)`` of every output index of an axis."""

_RECORD = np.dtype([("lower", "<i8"), ("upper", "<i8"), ("below", "<f4"), ("above", "<f4")])
"""One output index of an axis: byte offsets of its two sources, and their weights."""

_PARAMETERS = output_block((("zero_point_x", "i32"), ("scale_x", "f32")))


def _sizes(source: ActivationLayout, target: ActivationLayout) -> tuple[int, int, int, int]:
    if (source.batch, source.channels) != (target.batch, target.channels):
        raise ConfigError("Resizing keeps images and channels; make input and output agree there.")
    return target.batch, target.height, target.width, target.padded_channels


def nearest_kernel(source: ActivationLayout, target: ActivationLayout) -> CopyKernel:
    """Nearest resizing as a copy whose rows and columns are indexed; see :func:`nearest_tables`."""
    view = activation_view(source)
    strides = (view.strides[0], 0, 0, 1)
    sizes = _sizes(source, target)
    return CopyKernel(sizes, View(view.offset, strides), activation_view(target), indexed=(1, 2))


def nearest_tables(source: ActivationLayout, rows: Any, columns: Any) -> dict[str, Any]:
    """Arguments of the ``pack`` of :func:`nearest_kernel`, from source indices of every output."""
    return {
        "indices1": np.asarray(rows, np.int64) * source.row_bytes,
        "indices2": np.asarray(columns, np.int64) * source.channel_stride,
    }


RECORD = _RECORD.itemsize
"""Bytes of a record."""


def records(taps: Taps, stride: int, size_in: int, size_out: int) -> NDArray[np.uint8]:
    """The records of one axis: source places ``stride`` bytes apart, and weights."""
    lower, upper, weight = (np.asarray(part) for part in taps)
    if not lower.shape == upper.shape == weight.shape == (size_out,):
        raise ConfigError(f"The taps of a resized axis must have {size_out} entries.")
    if lower.min() < 0 or max(lower.max(), upper.max()) >= size_in:
        raise ConfigError(f"The taps of a resized axis leave its {size_in} elements.")
    records = np.zeros(size_out, _RECORD)
    records["lower"] = lower * stride
    records["upper"] = upper * stride
    records["above"] = weight.astype(np.float32)
    records["below"] = np.float32(1) - records["above"]
    return np.frombuffer(records.tobytes(), np.uint8)


@dataclass(frozen=True)
class ResizeLinearKernel:
    """Dequantize, interpolate rows and then columns, quantize: ``low * (1 - t) + high * t``.

    Every product and sum is rounded to float32.  ``bounded`` where no result passes
    ``rounding.REACH`` output units.  Operands: ``input, rows, columns, parameters, output``.
    """

    input: ActivationLayout
    output: ActivationLayout
    division: Division = "divide"
    bounded: bool = False

    def __post_init__(self) -> None:
        _sizes(self.input, self.output)

    @staticmethod
    def of(
        source: ActivationLayout,
        target: ActivationLayout,
        input_scale: float,
        output_scale: float,
    ) -> ResizeLinearKernel:
        """The specification for known scales."""
        bounded = _is_bounded(input_scale, output_scale)
        return ResizeLinearKernel(source, target, division_for(float(output_scale)), bounded)

    @property
    def name(self) -> str:
        """Such as ``resize_linear_1x64x64x21_512x512``."""
        i, o = self.input, self.output
        shape = f"{i.batch}x{i.height}x{i.width}x{i.channels}"
        return f"resize_linear_{shape}_{o.height}x{o.width}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", "rows", "columns", "parameters", "output")

    def pack(
        self,
        isa: InstructionSet,
        *,
        rows: Taps,
        columns: Taps,
        input_scale: float,
        input_zero_point: int,
        output_scale: float,
        output_zero_point: int,
        low: int = 0,
        high: int = 255,
    ) -> Packed:
        """Taps as ``qcc.ir.integer.resize.linear_taps`` gives them, and both quantizations."""
        if self.bounded and not _is_bounded(input_scale, output_scale):
            raise ConfigError("Results at these scales can pass any bound; make the kernel anew.")
        i, o = self.input, self.output
        packed = _PARAMETERS.pack(
            **output_scalars(output_scale, output_zero_point, low, high, self.division),
            zero_point_x=input_zero_point,
            scale_x=input_scale,
        )
        return {
            "rows": records(rows, i.row_bytes, i.height, o.height),
            "columns": records(columns, i.channel_stride, i.width, o.width),
            "parameters": packed,
        }

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        scalars = _PARAMETERS.load(k, isa, k.operand("parameters"))
        real = Dequantizer(k, {"zero_point": scalars["zero_point_x"], "scale": scalars["scale_x"]})
        quantizer = Quantizer(k, isa, scalars, self.division, bounded=self.bounded)
        source = activation_view(self.input)
        nest = Nest(
            _sizes(self.input, self.output),
            (
                View(0, (0, RECORD, 0, 0)),
                View(0, (0, 0, RECORD, 0)),
                View(source.offset, (source.strides[0], 0, 0, 1)),
                activation_view(self.output),
            ),
        ).merged((0, 0, 1, 1))

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            row = tap(k, isa, k.at(k.operand("rows"), offsets[0]))
            column = tap(k, isa, k.at(k.operand("columns"), offsets[1]))
            pixel = k.at(k.operand("input"), k.add(offsets[2], first))

            def line(across: Index) -> list[Value]:
                ends = [
                    real(load_words(k, isa, pixel, k.add(down, across), count)) for down in row[:2]
                ]
                return blend(k, ends, row[2], row[3])

            values = blend(k, [line(across) for across in column[:2]], column[2], column[3])
            octets = quantizer.octets(values)
            store_bytes(k, octets, k.operand("output"), k.add(offsets[3], first), count)

        nest.write(k, isa.vector_bytes, piece)
        return k.finish()


def _is_bounded(input_scale: float, output_scale: float) -> bool:
    return float(input_scale) < 2.0**100 and 256.0 * float(input_scale) / output_scale < REACH / 2


def tap(k: LoopBuilder, isa: InstructionSet, record: Value) -> tuple[Value, Value, Value, Value]:
    """Both byte offsets and both weights (spread over a vector) of a record."""
    lower, upper = (k.load(I64, record, offset, align=8) for offset in (0, 8))
    below, above = (k.splat(k.load(F32, record, offset, align=4), isa.lanes) for offset in (16, 20))
    return lower, upper, below, above


def blend(k: LoopBuilder, ends: Sequence[list[Value]], below: Value, above: Value) -> list[Value]:
    """``low * below + high * above`` of vectors, each operation rounded."""
    return [
        k.ir.fadd(k.ir.fmul(low, below), k.ir.fmul(high, above))
        for low, high in zip(*ends, strict=True)
    ]
