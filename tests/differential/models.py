"""Models with sample inputs for differential tests: the zoo's, and the one in ``examples``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from qcc.compiler import quantize
from qcc.ir.core import Array, Graph
from qcc.onnxio import read_onnx

Feeds: TypeAlias = "Mapping[str, Array]"

ROOT = Path(__file__).resolve().parents[2]
ZOO = ROOT.parent / "shared" / "zoo"
DIGITS = "digits"


@dataclass(frozen=True)
class Sample:
    """A model file and a few feeds of real data."""

    name: str
    path: Path
    feeds: tuple[Feeds, ...]

    def numbered(self, backend: str) -> Graph:
        """The model quantized for ``backend`` with defaults, calibrated on the feeds."""
        return quantize(read_onnx(self.path), self.feeds, backend).graph


def sample(name: str, batches: int, zoo: Path = ZOO) -> Sample:
    """A zoo model, or ``digits``, with its first ``batches`` calibration feeds."""
    if name == DIGITS:
        return _digits(batches)
    task = task_of(name, zoo)
    feeds = tuple({k: np.asarray(v) for k, v in feed.items()} for feed in task.calib()[:batches])
    return Sample(name, Path(task.onnx()), feeds)


def task_of(name: str, zoo: Path = ZOO) -> Any:
    """Data and score of a zoo model: ``calib()``, ``score(run, reference)``, ``onnx()``."""
    return _evalkit(zoo).TASKS[name](str(zoo))


def zoo_names(zoo: Path = ZOO) -> list[str]:
    """The models of the zoo that are there and have data."""
    tasks: dict[str, Any] = _evalkit(zoo).TASKS
    return [name for name in tasks if (zoo / "models" / f"{name}.onnx").is_file()]


def _digits(batches: int) -> Sample:
    folder = ROOT / "examples" / DIGITS
    with np.load(folder / "calib.npz") as data:
        arrays = {name: data[name] for name in data.files}
    (name,) = (value.name for value in read_onnx(folder / "digits.onnx").inputs)
    (images,) = (array for key, array in arrays.items() if key == name)
    size = 8
    feeds = tuple({name: images[i * size : (i + 1) * size]} for i in range(batches))
    return Sample(DIGITS, folder / "digits.onnx", feeds)


@cache
def _evalkit(zoo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("evalkit", zoo / "scripts" / "evalkit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
