"""Options that several commands share, said once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from qcc.errors import ConfigError

ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The float model.")]
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


@dataclass(frozen=True)
class DataOptions:
    """How sample inputs are read: the fields are options of every command that reads some."""

    samples: Annotated[
        int | None,
        typer.Option("--samples", min=1, help="Use at most this many batches of the data."),
    ] = None
    image_size: Annotated[
        str | None,
        typer.Option("--image-size", metavar="N or HxW", help="Resize images to this size."),
    ] = None
    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="R,G,B", help="Subtracted after scaling pixels to 0..1."),
    ] = None
    std: Annotated[
        str | None, typer.Option("--std", metavar="R,G,B", help="Divided by after the mean.")
    ] = None
    layout: Annotated[
        str, typer.Option("--layout", metavar="nchw|nhwc", help="Axis order of image batches.")
    ] = "nchw"

    def open(self, model: Path, data: str) -> Iterable[Mapping[str, Any]]:
        """Batches of ``data`` for ``model``; raises ConfigError or DataError in one sentence."""
        from qcc.compiler import open_data

        return open_data(
            data,
            model,
            samples=self.samples,
            image_size=image_size_of(self.image_size),
            mean=numbers("--mean", self.mean),
            std=numbers("--std", self.std),
            layout=self.layout,
        )


PLAIN = DataOptions()
"""All data, as they are."""


def takes_data_options(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, whose parameter ``reading`` is a DataOptions, with an option for each field."""
    parameters = list(inspect.signature(command, eval_str=True).parameters.values())
    place = next(i for i, p in enumerate(parameters) if p.name == "reading")
    own = list(inspect.signature(DataOptions, eval_str=True).parameters.values())

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        reading = DataOptions(**{option.name: given.pop(option.name) for option in own})
        command(**given, reading=reading)

    spread = [*parameters[:place], *own, *parameters[place + 1 :]]
    with_options.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    with_options.__annotations__ = {p.name: p.annotation for p in spread}
    return with_options
