"""How an 8-bit activation lies in memory: NHWC with a halo and padded channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qcc.errors import ConfigError


@dataclass(frozen=True)
class ActivationLayout:
    """Physical layout of one uint8 activation tensor ``[batch, height, width, channels]``.

    An image has ``halo_top + height + halo_bottom`` rows of ``halo_left + width + halo_right``
    pixels of ``channel_stride`` bytes.  A pointer to the tensor points at the first byte of the
    first halo row.  The content of the channels past ``channels`` is unspecified.  Up to
    ``padded_channels`` they may be written; those further on belong to other tensors, of which
    this one is a neighbour within the same pixels.  The halo holds the zero point once it has been
    filled.  At least ``READ_SLACK`` bytes after the end are readable; none is writable.
    """

    batch: int
    height: int
    width: int
    channels: int
    channel_stride: int
    halo_top: int = 0
    halo_left: int = 0
    halo_bottom: int = 0
    halo_right: int = 0

    def __post_init__(self) -> None:
        sizes = (self.batch, self.height, self.width, self.channels)
        halos = (self.halo_top, self.halo_left, self.halo_bottom, self.halo_right)
        if min(sizes) < 1 or min(halos) < 0:
            raise ConfigError(f"The layout {self} has an empty dimension or a negative halo.")
        if self.channel_stride < self.channels or self.channel_stride % 4:
            raise ConfigError(
                f"The channel stride of {self} must be a multiple of 4 and hold every channel."
            )

    @property
    def padded_channels(self) -> int:
        """The channels of a pixel that a kernel may write: a multiple of 4."""
        return -(-self.channels // 4) * 4

    @property
    def rows(self) -> int:
        """Rows of one image, halo included."""
        return self.halo_top + self.height + self.halo_bottom

    @property
    def columns(self) -> int:
        """Pixels of one row, halo included."""
        return self.halo_left + self.width + self.halo_right

    @property
    def row_bytes(self) -> int:
        """Bytes from one row to the next."""
        return self.columns * self.channel_stride

    @property
    def image_bytes(self) -> int:
        """Bytes from one image to the next."""
        return self.rows * self.row_bytes

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole tensor, without the readable slack after it."""
        return self.batch * self.image_bytes

    @property
    def interior_offset(self) -> int:
        """Offset in bytes of channel 0 of the first pixel inside the halo."""
        return self.halo_top * self.row_bytes + self.halo_left * self.channel_stride

    @property
    def has_halo(self) -> bool:
        """Whether there is any halo."""
        return bool(self.halo_top or self.halo_left or self.halo_bottom or self.halo_right)

    def without_halo(self) -> ActivationLayout:
        """The same tensor with no halo."""
        return replace(self, halo_top=0, halo_left=0, halo_bottom=0, halo_right=0)

    @staticmethod
    def plain(batch: int, height: int, width: int, channels: int) -> ActivationLayout:
        """No halo, channels padded to the next multiple of 4."""
        return ActivationLayout(batch, height, width, channels, -(-channels // 4) * 4)

    def part(self, channels: int) -> ActivationLayout:
        """Some neighbouring channels of every pixel (a pointer says which)."""
        return replace(self, channels=channels)
