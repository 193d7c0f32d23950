"""Options that several commands share, said once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from qcc.errors import ConfigError

CalibrationOption = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Sample inputs: .npz, .npy, a folder of them, a folder of images, or module:function "
        "that yields {input: array}.",
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="host, an instruction set, or an export target; `qcc targets` lists them. "
        "Default: what OUT's ending asks for.",
    ),
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads of the executable.")]
SamplesOption = Annotated[
    int | None,
    typer.Option("--samples", min=1, help="Use at most this many batches of the data."),
]
ImageSizeOption = Annotated[
    str | None,
    typer.Option("--image-size", metavar="N or HxW", help="Resize images to this size."),
]
MeanOption = Annotated[
    str | None,
    typer.Option("--mean", metavar="R,G,B", help="Subtracted after scaling pixels to 0..1."),
]
StdOption = Annotated[
    str | None, typer.Option("--std", metavar="R,G,B", help="Divided by after the mean.")
]
LayoutOption = Annotated[
    str, typer.Option("--layout", metavar="nchw|nhwc", help="Axis order of image batches.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """``"0.5,0.5,0.5"`` as floats; raises ConfigError naming ``option``."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} takes numbers separated by commas, not '{text}'") from None


def image_size_of(text: str | None) -> tuple[int, int] | None:
    """``"224"`` or ``"240x320"`` as (height, width); raises ConfigError."""
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--image-size takes N or HEIGHTxWIDTH, not '{text}'")
    return int(parts[0]), int(parts[-1])


def calibration_from(
    model: Path,
    data: str | None,
    samples: int | None,
    image_size: str | None,
    mean: str | None,
    std: str | None,
    layout: str,
) -> Iterable[Mapping[str, Any]] | None:
    """Batches for ``model`` from the data options, or None without ``--calib``."""
    if data is None:
        return None
    from qcc.compiler import open_data

    return open_data(
        data,
        model,
        samples=samples,
        image_size=image_size_of(image_size),
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        layout=layout,
    )
