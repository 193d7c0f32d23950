"""Sliding windows over activation layouts: which input pixels an output pixel looks at."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.llvm.builder import I64, Index, LoopBuilder
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """How output pixels look at input pixels: sizes in pixels, ``(vertical, horizontal)``.

    ``pads`` are the rows above and the columns left of the image that the first window covers; the
    input's halo must hold them, and what windows cover below and to the right.
    """

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)

    def check(self, source: ActivationLayout, target: ActivationLayout) -> None:
        """Raise :class:`ConfigError` when a window leaves the input's halo or the shapes differ."""
        if source.batch != target.batch:
            raise ConfigError(
                f"The input has {source.batch} images and the output {target.batch}; "
                "make them equal."
            )
        for axis, (size, before, after, count) in enumerate(
            (
                (source.height, source.halo_top, source.halo_bottom, target.height),
                (source.width, source.halo_left, source.halo_right, target.width),
            )
        ):
            reach = (count - 1) * self.strides[axis] + (self.kernel[axis] - 1) * self.dilations[
                axis
            ]
            if self.pads[axis] > before or reach - self.pads[axis] >= size + after:
                raise ConfigError(
                    f"The windows {self} leave the input {source}; give the input a larger halo."
                )

    def fits_winograd(self, isa: InstructionSet) -> bool:
        """Whether windows are those of ``winograd.py``, which ``isa`` gains from."""
        geometry = self.kernel, self.strides, self.dilations
        return isa.dot == "vpmaddwd" and geometry == ((3, 3), (1, 1), (1, 1))

    def origin(self, source: ActivationLayout) -> int:
        """Byte offset of the first pixel of the first window."""
        rows, columns = source.halo_top - self.pads[0], source.halo_left - self.pads[1]
        return rows * source.row_bytes + columns * source.channel_stride


@dataclass(frozen=True)
class Pitches:
    """Where pixels of ``images`` of ``shape`` (height, width) lie: bytes from one to the next."""

    images: int
    shape: tuple[int, int]
    image_bytes: int
    row_bytes: int
    column_bytes: int

    @classmethod
    def of(cls, layout: ActivationLayout, size: int = 1) -> Pitches:
        """Those of the pixels inside the halo; ``size`` bytes an element."""
        image, row, column = layout.image_bytes, layout.row_bytes, layout.channel_stride
        shape = layout.height, layout.width
        return cls(layout.batch, shape, image * size, row * size, column * size)

    @property
    def is_dense(self) -> bool:
        """Whether pixels of all images follow each other at one pitch."""
        height, width = self.shape
        images = self.images == 1 or self.image_bytes == height * self.row_bytes
        return images and self.row_bytes == width * self.column_bytes

    def offset(self, k: LoopBuilder, pixel: Index) -> Index:
        """Byte offset of pixel number ``pixel`` of all images."""
        return self.offsets(k, pixel, 1, 1)[0]

    def offsets(self, k: LoopBuilder, pixel: Index, count: int, aligned: int) -> list[Index]:
        """Byte offsets of ``count`` pixels from number ``pixel`` on.

        ``aligned``: what ``pixel`` is known to be a multiple of.
        """
        height, width = self.shape
        if self.is_dense:
            first = k.mul(pixel, self.column_bytes)
            return [k.add(first, i * self.column_bytes) for i in range(count)]
        row, column = k.div(pixel, width), k.mod(pixel, width)
        offset = k.mul(column, self.column_bytes)
        if self.images > 1:
            image, row = k.div(row, height), k.mod(row, height)
            offset = k.add(k.mul(image, self.image_bytes), offset)
        offset = k.add(k.mul(row, self.row_bytes), offset)
        if count == 1 or (width % aligned == 0 and count <= aligned):
            return [k.add(offset, i * self.column_bytes) for i in range(count)]
        return self._followed(k, (row, column), offset, count)

    def _followed(
        self, k: LoopBuilder, place: tuple[Index, Index], offset: Index, count: int
    ) -> list[Index]:
        """The offsets of pixels that follow each other, over the ends of rows and images."""
        (row, column), (height, width) = place, self.shape
        next_row = self.row_bytes - width * self.column_bytes
        next_image = self.image_bytes - height * self.row_bytes if self.images > 1 else 0
        found = [offset]
        for _ in range(count - 1):
            column, offset = k.add(column, 1), k.add(offset, self.column_bytes)
            ends = k.ir.icmp_signed("==", k.index(column), k.index(width))
            column = k.ir.select(ends, k.index(0), k.index(column))
            offset = k.add(offset, k.ir.select(ends, k.index(next_row), k.index(0)))
            if next_image:
                row = k.add(row, k.ir.zext(ends, I64))
                last = k.ir.icmp_signed("==", k.index(row), k.index(height))
                row = k.ir.select(last, k.index(0), k.index(row))
                offset = k.add(offset, k.ir.select(last, k.index(next_image), k.index(0)))
            found.append(offset)
        return found
