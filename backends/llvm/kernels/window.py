"""Sliding windows over activation layouts: which input pixels an output pixel looks at."""

from __future__ import annotations

from dataclasses import dataclass

from qcc.backends.llvm.builder import Index, LoopBuilder
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

    def origin(self, source: ActivationLayout) -> int:
        """Byte offset of the first pixel of the first window."""
        rows, columns = source.halo_top - self.pads[0], source.halo_left - self.pads[1]
        return rows * source.row_bytes + columns * source.channel_stride


def pixel_offset(
    k: LoopBuilder,
    pixel: Index,
    shape: tuple[int, int],
    image_bytes: int,
    row_bytes: int,
    column_bytes: int,
) -> Index:
    """Byte offset of pixel number ``pixel`` of images of ``shape``, for any pitches."""
    height, width = shape
    if row_bytes == width * column_bytes and image_bytes == height * row_bytes:
        return k.mul(pixel, column_bytes)
    row, column = k.div(pixel, width), k.mod(pixel, width)
    image, row = k.div(row, height), k.mod(row, height)
    offset = k.add(k.mul(row, row_bytes), k.mul(column, column_bytes))
    return k.add(k.mul(image, image_bytes), offset)
