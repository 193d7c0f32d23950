"""Where a linearly resized float32 image is greatest along its channels (contracts 8 and 19).

Segmentation ends so: scores are stretched to the size of the picture, and every pixel takes its
best class.  The stretched scores, many times as large as anything else in the model, are never
stored: the two source rows of an output row are blended once into scratch memory, and every pixel
blends two columns of that in registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcc.backends.llvm.builder import F32, Index, LoopBuilder, Value, declare_kernel, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import STACK_LIMIT, Packed
from qcc.backends.llvm.kernels.arg_max import Search
from qcc.backends.llvm.kernels.lanes import load_floats, store_floats
from qcc.backends.llvm.kernels.resize import RECORD, Taps, blend, records, tap
from qcc.errors import ConfigError

MOST_CHANNELS = 64
"""The channels of a pixel are looked at without a loop."""

UNROLL = 4
"""Vectors of a row that are blended in one turn."""

_SLACK = 64
"""Bytes behind the scratch row that the last pixel's vectors may read."""


@dataclass(frozen=True)
class ResizeArgMaxKernel:
    """``sizes`` are images, rows, columns and channels of the resized image.

    ``source`` are rows and columns of the input, which lies dense with its channels last; the
    target is int64 ``[images, rows, columns]``.  The first of equal channels, or the ``last``.
    Operands: ``input, rows, columns, target``.  Reads and writes exactly the elements.
    """

    sizes: tuple[int, int, int, int]
    source: tuple[int, int]
    last: bool = False

    def __post_init__(self) -> None:
        if not self.fits(self.source[1], self.sizes[3]):
            raise ConfigError(
                f"A resized row of {self.source[1]} pixels of {self.sizes[3]} channels is too "
                "long to be searched at once."
            )

    @staticmethod
    def fits(columns: int, channels: int) -> bool:
        """Whether a source row of so many pixels has room in the scratch memory."""
        return channels <= MOST_CHANNELS and 4 * columns * channels + _SLACK <= STACK_LIMIT // 2

    @property
    def name(self) -> str:
        """Such as ``resize_arg_max_1x513x513x21``."""
        return f"resize_arg_max_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("input", "rows", "columns", "target")

    def pack(self, isa: InstructionSet, *, rows: Taps, columns: Taps) -> Packed:
        """Taps as ``qcc.ir.integer.resize.linear_taps`` gives them."""
        pixel = 4 * self.sizes[3]
        height, width = self.source
        return {
            "rows": records(rows, pixel * width, height, self.sizes[1]),
            "columns": records(columns, pixel, width, self.sizes[2]),
        }

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``; threads share out the output's rows."""
        return _Writer(self, isa, declare_kernel(module, symbol, self.operands)).write()


class _Writer:
    """The code of one kernel."""

    def __init__(self, kernel: ResizeArgMaxKernel, isa: InstructionSet, function: Any) -> None:
        self.kernel, self.isa = kernel, isa
        self.k = LoopBuilder(function)
        self.search = Search(self.k, isa, last=kernel.last)
        self.run = kernel.source[1] * kernel.sizes[3]
        self.scratch = self.k.stack(4 * self.run + _SLACK)

    def write(self) -> Any:
        """All rows of this thread."""
        k, kernel = self.k, self.kernel
        images, height, width, channels = kernel.sizes
        image_bytes = 4 * kernel.source[0] * self.run

        def row(number: Index) -> None:
            image, y = k.div(number, height), k.mod(number, height)
            self._blend_rows(k.at(k.operand("input"), k.mul(image, image_bytes)), y)
            target = k.at(k.operand("target"), k.mul(number, 8 * width))

            def pixel(x: Index) -> None:
                values = self._pixel(k.at(k.operand("columns"), k.mul(x, RECORD)))
                found = self.search.found(
                    self.search.with_block(self.search.start(), values, channels)
                )
                k.store(found, target, k.mul(x, 8), align=8)

            k.loop(0, width, pixel, name="pixels")

        begin, end = k.thread_range(images * height)
        k.loop(begin, end, row, name="rows")
        return k.finish()

    def _blend_rows(self, image: Value, y: Index) -> None:
        """Output row ``y`` before its columns are blended, into the scratch memory."""
        k, isa = self.k, self.isa
        lower, upper, below, above = tap(k, isa, k.at(k.operand("rows"), k.mul(y, RECORD)))
        sources = [k.at(image, offset) for offset in (lower, upper)]
        step = UNROLL * isa.lanes
        whole = self.run // step * step

        def some(first: Index, count: int) -> None:
            place = k.mul(first, 4)
            ends = [load_floats(k, isa, source, place, count) for source in sources]
            store_floats(k, blend(k, ends, below, above), self.scratch, place, count)

        k.loop(0, whole, lambda first: some(first, step), step=step, name="blend")
        if self.run > whole:
            some(whole, self.run - whole)

    def _pixel(self, record: Value) -> list[Value]:
        """The channels of a pixel; lanes past the last hold what follows."""
        k, isa = self.k, self.isa
        lower, upper, below, above = tap(k, isa, record)
        vectors = -(-self.kernel.sizes[3] // isa.lanes)

        def loaded(offset: Index) -> list[Value]:
            pixel = k.at(self.scratch, offset)
            return [
                k.load(vector(F32, isa.lanes), pixel, i * isa.vector_bytes) for i in range(vectors)
            ]

        return blend(k, [loaded(lower), loaded(upper)], below, above)
