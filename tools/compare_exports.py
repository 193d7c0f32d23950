"""Latency and score of a model's exports for each ONNX profile, in onnxruntime and in OpenVINO.

    python tools/compare_exports.py mobilenet_v2_10_224_imagenet nets/efficientnet_b0.onnx
    python tools/compare_exports.py --score --batches 32 squeezenet10_imagenet

Zoo models are calibrated on their own data, FILE.onnx on random numbers.  Every runtime opens the
float model and the three exports; they take turns, and the least and the median of a run's
milliseconds are printed: of processor time, which other programs on the machine stretch less than
the clock.  With ``--score``, zoo models are scored instead.  Everything runs with one thread and
the runtimes' default options.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qcc.compiler import quantize
from qcc.ir.core import Array
from qcc.onnxio import read_onnx, write_onnx
from tests.differential.models import ZOO, Feeds, Sample, sample, task_of

PROFILES = ("onnx", "onnx-openvino", "onnx-generic")
FREE_SIZE = 1
VOCABULARY = 1000

Run = Callable[[Feeds], "list[Array]"]


def random_sample(path: Path, count: int) -> Sample:
    """A model file with normal numbers, or token ids, for every input."""
    random = np.random.default_rng(0)
    inputs = read_onnx(path).inputs

    def array(tensor: Any) -> Array:
        shape = [size if isinstance(size, int) else FREE_SIZE for size in tensor.shape or ()]
        if tensor.is_float:
            return random.standard_normal(shape).astype(np.float32)
        return random.integers(0, VOCABULARY, shape).astype(tensor.storage)

    feeds = tuple({v.name: array(v.tensor) for v in inputs} for _ in range(count))
    return Sample(path.stem, path, feeds)


def onnxruntime_run(path: Path) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(feeds: Feeds) -> list[Array]:
        results: list[Array] = session.run(None, dict(feeds))
        return results

    return run


def openvino_run(path: Path) -> Run:
    import openvino as ov

    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    requests: dict[tuple[Any, ...], Any] = {}

    def run(feeds: Feeds) -> list[Array]:
        shapes = tuple((name, array.shape) for name, array in feeds.items())
        if shapes not in requests:
            model = core.read_model(str(path))
            model.reshape({name: list(shape) for name, shape in shapes})
            requests.clear()
            requests[shapes] = core.compile_model(model, "CPU", options).create_infer_request()
        results = requests[shapes].infer(dict(feeds), share_inputs=True)
        return [np.asarray(array) for array in results.values()]

    return run


RUNTIMES: Mapping[str, Callable[[Path], Run]] = {
    "onnxruntime": onnxruntime_run,
    "openvino": openvino_run,
}


def installed() -> list[str]:
    """The runtimes that are there."""
    return [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]


def exports(model: Sample, folder: Path) -> dict[str, Path]:
    """The float model, and a file for each profile."""
    files = {"float32": model.path}
    for profile in PROFILES:
        files[profile] = folder / f"{model.name}.{profile}.onnx"
        quantized = quantize(read_onnx(model.path), model.feeds, profile)
        write_onnx(quantized.graph, files[profile], opset=21)
    return files


def turns(runs: Mapping[str, Run], feeds: Feeds, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of processor time of alternating runs, for so many seconds; one run warms up."""
    for run in runs.values():
        run(feeds)
    found: dict[str, list[float]] = {name: [] for name in runs}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, run in runs.items():
            start = time.process_time()
            run(feeds)
            found[name].append(1e3 * (time.process_time() - start))
    return found


def scores(name: str, runs: Mapping[str, Run]) -> dict[str, str]:
    """The first quality of the model's task, by run."""
    found = {}
    for label, run in runs.items():
        score = task_of(name).score(run, runs["float32"])
        key = next(iter(score))
        found[label] = f"{key} {score[key]}"
    return found


def show(name: str, runtime: str, cells: Mapping[str, str]) -> None:
    line = "  ".join(f"{label} {cell}" for label, cell in cells.items())
    print(f"{name:32} {runtime:12} {line}", flush=True)


def compare(model: Sample, arguments: argparse.Namespace, runtimes: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="qcc-exports-") as temporary:
        files = exports(model, arguments.keep or Path(temporary))
        for runtime in runtimes:
            runs = {label: RUNTIMES[runtime](path) for label, path in files.items()}
            if arguments.score:
                show(model.name, runtime, scores(model.name, runs))
                continue
            times = turns(runs, model.feeds[0], arguments.seconds)
            cells = {k: f"{min(v):.2f} ({statistics.median(v):.2f}) ms" for k, v in times.items()}
            show(model.name, runtime, cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names of zoo models, or FILE.onnx")
    parser.add_argument("--batches", type=int, default=8, help="calibration feeds")
    parser.add_argument("--seconds", type=float, default=10.0, help="of turns, for each runtime")
    parser.add_argument("--score", action="store_true", help="score zoo models instead")
    parser.add_argument("--keep", type=Path, help="a folder for the exports")
    arguments = parser.parse_args()
    if arguments.keep is not None:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    files = [name.endswith(".onnx") for name in arguments.models]
    if arguments.score and any(files):
        parser.error("only zoo models have a score")
    if not all(files) and not (ZOO / "models").is_dir():
        parser.error(f"there is no zoo at {ZOO}")
    for name, is_file in zip(arguments.models, files, strict=True):
        count = arguments.batches
        model = random_sample(Path(name), count) if is_file else sample(name, count)
        compare(model, arguments, installed())
    return 0


if __name__ == "__main__":
    sys.exit(main())
