"""Latency, alone or in alternating turns with another engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qcc.errors import DataError
from qcc.ir.core import Array
from qcc.runtime.executable import Executable
from qcc.runtime.files import load_arrays
from qcc.runtime.footprint import footprint_bytes
from qcc.runtime.profile import Profile
from qcc.runtime.runnable import Runnable, open_runnable

_WARM_UP_SECONDS = 0.3
_FREE_DIMENSION = 1


@dataclass(frozen=True)
class Timing:
    """Times of one model over the timed runs, in milliseconds.

    ``memory_bytes`` is what opening and running it takes (:mod:`qcc.runtime.footprint`), None where
    that cannot be measured; ``instruction_set`` is that of native code, empty for other engines.
    """

    path: str
    engine: str
    median_ms: float
    least_ms: float
    p90_ms: float
    memory_bytes: int | None = None
    instruction_set: str = ""


@dataclass(frozen=True)
class BenchmarkResult:
    """One timing a model; ``ratio`` is the median of the pairs' B / A, above 1 when A is faster."""

    timings: tuple[Timing, ...]
    ratio: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def random_inputs(runnable: Runnable, seed: int = 0) -> dict[str, Array]:
    """Inputs of the model's own types: normal floats, bytes, zeros for other integers.

    Free dimensions become 1.  Raises DataError for types that cannot be made up.
    """
    generator = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for name, (dtype, shape) in runnable.input_types.items():
        size = tuple(d if isinstance(d, int) and d > 0 else _FREE_DIMENSION for d in shape)
        if dtype.startswith("float"):
            feeds[name] = generator.standard_normal(size).astype(dtype)
        elif dtype in ("uint8", "int8"):
            feeds[name] = generator.integers(0, 128, size).astype(dtype)
        elif dtype.startswith(("int", "uint", "bool")):
            feeds[name] = np.zeros(size, dtype)
        else:
            raise DataError(f"input '{name}' has type {dtype}: give values with --inputs")
    return feeds


def benchmark(
    compiled: Path,
    versus: Path | None = None,
    *,
    inputs: Path | None = None,
    threads: int = 1,
    runs: int = 50,
) -> BenchmarkResult:
    """Time ``compiled`` (and ``versus``, in alternating turns) on the same inputs.

    Raises DataError when the two models do not take the same inputs.
    """
    models = [(compiled, open_runnable(compiled, threads=threads))]
    if versus is not None:
        models.append((versus, open_runnable(versus, threads=threads)))
    first = models[0][1]
    feeds = load_arrays(inputs, first.input_names) if inputs else random_inputs(first)
    for path, model in models:
        if set(model.input_names) != set(feeds):
            raise DataError(f"{path} takes inputs {list(model.input_names)}, not {list(feeds)}")
        _warm_up(model, feeds)
    times = np.array([[_time(model, feeds) for _, model in models] for _ in range(runs)])
    timings = tuple(
        replace(
            _summary(path, model, times[:, index]),
            memory_bytes=footprint_bytes(path, inputs, threads),
        )
        for index, (path, model) in enumerate(models)
    )
    ratio = float(np.median(times[:, 1] / times[:, 0])) if versus is not None else None
    return BenchmarkResult(timings, ratio)


def profile(compiled: Path, *, inputs: Path | None = None, runs: int = 50) -> Profile:
    """Where the time of one call of a ``.qcc`` artifact goes, on one thread.

    Raises DataError for another kind of model.
    """
    model = open_runnable(compiled)
    if not isinstance(model, Executable):
        raise DataError(f"{compiled} has no profile: give a .qcc file")
    feeds = load_arrays(inputs, model.input_names) if inputs else random_inputs(model)
    return model.profile(feeds, runs)


def _warm_up(model: Runnable, feeds: Mapping[str, Array]) -> None:
    end = time.perf_counter() + _WARM_UP_SECONDS
    while time.perf_counter() < end:
        model.run(feeds)


def _time(model: Runnable, feeds: Mapping[str, Array]) -> float:
    start = time.perf_counter()
    model.run(feeds)
    return (time.perf_counter() - start) * 1e3


def _summary(path: Path, model: Runnable, times: Array) -> Timing:
    return Timing(
        str(path),
        model.engine,
        float(np.median(times)),
        float(times.min()),
        float(np.percentile(times, 90)),
        instruction_set=model.running if isinstance(model, Executable) else "",
    )
