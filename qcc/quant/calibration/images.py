"""Images as sample inputs (needs Pillow, the ``images`` extra)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import ConfigError, DataError
from qcc.ir.core import Array
from qcc.quant.calibration.batches import Batch, InputSpec

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageOptions:
    """How a picture becomes an input.

    ``size`` is (height, width); by default the model's own.  A picture is resized (bilinear) to
    it, then, for float inputs, scaled to 0..1, ``mean`` is subtracted and it is divided by ``std``
    (one number or one a channel).  ``layout`` is the axis order of the input, nchw or nhwc.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str = "nchw"

    def __post_init__(self) -> None:
        """Check the options; raises ConfigError."""
        if self.layout not in ("nchw", "nhwc"):
            raise ConfigError(f"the image layout must be nchw or nhwc, not '{self.layout}'")
        if self.std is not None and any(s == 0 for s in self.std):
            raise ConfigError("the std of images must not be 0")


@dataclass(frozen=True)
class _Target:
    """What the model wants: size, channels, dtype."""

    name: str
    height: int
    width: int
    channels: int
    dtype: str


def read_images(
    files: Sequence[Path], inputs: Sequence[InputSpec], options: ImageOptions
) -> Iterator[Batch]:
    """One batch of one picture a file, in the given order.

    Raises DataError when the model's inputs are not a single image, or a file is no picture.
    """
    target = _target(inputs, options)
    opened = _pillow()
    for path in files:
        yield {target.name: _read(path, target, options, opened)}


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("reading images needs Pillow: pip install 'qcc[images]'") from None
    return Image


def _target(inputs: Sequence[InputSpec], options: ImageOptions) -> _Target:
    if len(inputs) != 1 or inputs[0].rank != 4 or inputs[0].dtype not in ("float32", "uint8"):
        takes = ", ".join(spec.text for spec in inputs)
        raise DataError(
            f"images fit a model with one float32 or uint8 input of 4 dimensions, but this one "
            f"takes {takes}: give an .npz file"
        )
    spec = inputs[0]
    assert spec.shape is not None
    first = options.layout == "nchw"
    channels = spec.shape[1 if first else 3]
    if channels not in (1, 3):
        raise DataError(
            f"the input {spec.text} has no 1 or 3 channels in the layout {options.layout}: "
            "choose the other with --layout"
        )
    given = spec.shape[2:4] if first else spec.shape[1:3]
    height, width = options.size or given
    if not isinstance(height, int) or not isinstance(width, int):
        raise DataError(f"the input {spec.text} has no fixed size: give --image-size")
    return _Target(spec.name, height, width, int(channels), spec.dtype)


def _read(path: Path, target: _Target, options: ImageOptions, image: Any) -> Array:
    try:
        with image.open(path) as picture:
            mode = "RGB" if target.channels == 3 else "L"
            size = (target.width, target.height)
            pixels = np.asarray(picture.convert(mode).resize(size, image.Resampling.BILINEAR))
    except (OSError, ValueError) as error:
        raise DataError(f"the image '{path}' cannot be read: {error}") from None
    pixels = pixels.reshape(target.height, target.width, target.channels)
    if target.dtype == "float32":
        pixels = _normalized(pixels, options, target.channels)
    if options.layout == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None])


def _normalized(pixels: Array, options: ImageOptions, channels: int) -> Array:
    scaled = pixels.astype(np.float32) / np.float32(255)
    for numbers, option in ((options.mean, "mean"), (options.std, "std")):
        if numbers is not None and len(numbers) not in (1, channels):
            raise DataError(f"--{option} has {len(numbers)} numbers for {channels} channels")
    if options.mean is not None:
        scaled = scaled - np.asarray(options.mean, np.float32)
    if options.std is not None:
        scaled = scaled / np.asarray(options.std, np.float32)
    return np.asarray(scaled, np.float32)
