"""Linear resizing of float32 images, channels last (contract 8 without quantization)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcc.backends.llvm.builder import Index, LoopBuilder, Value, declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.exponential import nan_where_unordered
from qcc.backends.llvm.kernels.lanes import load_floats, store_floats
from qcc.backends.llvm.kernels.nest import Nest, View
from qcc.backends.llvm.kernels.resize import RECORD, Taps, blend, records, tap
from qcc.errors import ConfigError

UNROLL = 2
"""Vectors of one turn of the loop."""


@dataclass(frozen=True)
class FloatResizeKernel:
    """Interpolate rows and then columns: ``low * (1 - t) + high * t``, every operation rounded.

    ``sizes`` are images, rows, columns and channels of the output, ``source`` rows and columns of
    the input; views have strides ``(image, row, column, channel)`` in bytes, the channel's is 4.
    Operands: ``input, rows, columns, output``.  Reads and writes exactly the elements.
    """

    sizes: tuple[int, int, int, int]
    source: tuple[int, int]
    input: View
    output: View

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.input, self.output))
        if self.input.strides[3] != 4 or self.output.strides[3] != 4:
            raise ConfigError("The channels of a resized float image must lie side by side.")

    @property
    def name(self) -> str:
        """Such as ``float_resize_1x64x64x21``."""
        return f"float_resize_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", "rows", "columns", "output")

    def pack(self, isa: InstructionSet, *, rows: Taps, columns: Taps) -> Packed:
        """Taps as ``qcc.ir.integer.resize.linear_taps`` gives them."""
        steps = self.input.strides[1:3]
        return {
            name: records(taps, step, size, count)
            for name, taps, step, size, count in zip(
                ("rows", "columns"),
                (rows, columns),
                steps,
                self.source,
                self.sizes[1:3],
                strict=True,
            )
        }

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        image = self.input.strides[0]
        nest = Nest(
            self.sizes,
            (
                View(0, (0, RECORD, 0, 0)),
                View(0, (0, 0, RECORD, 0)),
                View(self.input.offset, (image, 0, 0, 4)),
                self.output,
            ),
        ).merged((0, 0, 4, 4))

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            row, column = (
                tap(k, isa, k.at(k.operand(name), offset))
                for name, offset in zip(("rows", "columns"), offsets, strict=False)
            )
            start = k.mul(first, 4)
            pixel = k.at(k.operand("input"), k.add(offsets[2], start))

            def line(across: Index) -> list[Value]:
                ends = [load_floats(k, isa, pixel, k.add(down, across), count) for down in row[:2]]
                return blend(k, ends, row[2], row[3])

            values = blend(k, [line(across) for across in column[:2]], column[2], column[3])
            values = [nan_where_unordered(k, value, value) for value in values]
            store_floats(k, values, k.operand("output"), k.add(offsets[3], start), count)

        nest.write(k, UNROLL * isa.lanes, piece)
        return k.finish()
