"""Hold TensorRT exports against the rules, NVIDIA's builder and the reference, model by model.

Each model is compiled for target tensorrt with defaults.  A row says: how many layers with weights
there are, how many are quantized, how many of these NVIDIA's builder runs on int8 values, what its
parser and the linter say, and how op by op in onnxruntime (fusion of Q/DQ off) differs from the
reference.  Below it, one line for each layer that the builder runs in float, and each warning.  The
exit code is 1 where anything is wrong; layers of TensorRT-RTX's known exceptions are not.

``--nets DIR`` takes float models with random weights (``zoo/scripts/make_nets.py``), calibrated on
random inputs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import qcc
from qcc.lint import lint_model
from qcc.onnxio import read_onnx
from qcc.runtime.tensorrt_builder import BuilderReport
from qcc.runtime.tensorrt_check import quantized_layers
from tests.differential.models import Feeds, sample, zoo_names

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

ADVICE = "Make sure"
"""How a sentence of the parser begins that speaks of the caller's buffers, not of the model."""

EXCEPTIONS = {
    "ConvTranspose": "TensorRT-RTX has no int8 deconvolution (TensorRT has)",
    "1x1": "TensorRT-RTX computes a convolution of one pixel with few channels as pointwise float",
}


def random_feeds(path: Path, batches: int) -> tuple[Feeds, ...]:
    """Random inputs for a model; free dimensions are 1, integers are token numbers."""
    random = np.random.default_rng(0)
    graph = read_onnx(path)

    def array(value: Any) -> Any:
        shape = [size if isinstance(size, int) else 1 for size in value.tensor.shape]
        if value.tensor.is_float:
            return random.standard_normal(shape).astype(np.float32)
        return random.integers(0, 100, shape).astype(value.tensor.storage)

    return tuple({value.name: array(value) for value in graph.inputs} for _ in range(batches))


def exception_of(model: Any, name: str) -> str | None:
    """The known exception of TensorRT-RTX that a layer in float is, or None."""
    node = next(node for node in model.graph.nodes if node.name == name)
    if node.op == "ConvTranspose":
        return EXCEPTIONS["ConvTranspose"]
    shape = node.output.tensor.shape
    weight = node.operand(1).tensor.static_shape
    if node.op == "Conv" and shape is not None and shape[2:] == (1, 1) and weight[1] < 16:
        return EXCEPTIONS["1x1"]
    return None


def check(name: str, path: Path, feeds: Sequence[Feeds], float_type: str) -> bool:
    """Compile one model and print its rows; whether all is well."""
    start = time.monotonic()
    model = qcc.compile(path, feeds, target="tensorrt", float_type=float_type)
    assert isinstance(model, qcc.ExportedModel)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.onnx")
        lint = lint_model(Path(folder) / "model.onnx", "tensorrt")
    layers = [node.name for node in quantized_layers(model.graph)]
    weighted = sum(node.op in WEIGHTED and has_weight(node) for node in model.graph.nodes)
    built = model.built if isinstance(model.built, BuilderReport) else None
    floats = () if built is None else built.others(layers)
    known = {layer: exception_of(model, layer) for layer in floats}
    compared = next((note for note in model.report.notes if note.startswith("op by op")), "")
    said = [] if built is None else [w for w in built.warnings if ADVICE not in w]
    print(
        f"{name:44} weighted {weighted:3} quantized {len(layers):3} Int8 "
        f"{'-' if built is None else len(layers) - len(floats):>3}  parser "
        f"{'-' if built is None else len(built.errors)} errors {len(said)} warnings  lint "
        f"{len(lint.errors)} errors {len(lint.warnings)} warnings  {compared}  "
        f"({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    for layer, reason in known.items():
        assert built is not None
        print(f"    '{layer}' runs as {built.types_of(layer)}: {reason or 'NOT EXPECTED'}")
    for text in (*said, *map(str, lint.findings)):
        print(f"    {text}")
    wrong = [note for note in model.report.notes if note.startswith("op by op, ")]
    for note in wrong:
        print(f"    {note}")
    good_lint = not lint.errors and not lint.warnings
    return good_lint and is_clean(built, said) and None not in known.values() and not wrong


def is_clean(built: BuilderReport | None, warnings: Sequence[str]) -> bool:
    """Whether the builder has nothing to say against a model, or was not asked."""
    return built is None or (not built.errors and not warnings)


def has_weight(node: Any) -> bool:
    """Whether the second operand is a constant, as stored or dequantized."""
    value = node.operand(1)
    producer = value.producer
    return bool(value.is_constant or (producer is not None and producer.operand(0).is_constant))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", help="names of zoo models")
    parser.add_argument("--zoo", action="store_true", help="every model of the zoo")
    parser.add_argument("--nets", type=Path, help="a folder of float models")
    parser.add_argument("--only", nargs="*", help="names of models in the folder of --nets")
    parser.add_argument("--batches", type=int, default=16, help="calibration feeds of zoo models")
    parser.add_argument("--float-type", default="float32")
    chosen = parser.parse_args()
    jobs: list[tuple[str, Path, Sequence[Feeds]]] = []
    for name in [*chosen.models, *(zoo_names() if chosen.zoo else [])]:
        item = sample(name, chosen.batches)
        if not name.endswith("_qdq"):
            jobs.append((name, item.path, item.feeds))
    nets = sorted(chosen.nets.glob("*.onnx")) if chosen.nets else []
    wanted = [path for path in nets if not chosen.only or path.stem in chosen.only]
    jobs += [(path.stem, path, random_feeds(path, 2)) for path in wanted]
    if not jobs:
        parser.error("name models, or give --zoo or --nets")
    wrong = [name for name, path, feeds in jobs if not check(name, path, feeds, chosen.float_type)]
    if wrong:
        print(f"not clean: {', '.join(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
