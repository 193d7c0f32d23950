"""A model with data and targets, what is demanded of it, and how it lies in a folder.

A folder holds ``model.onnx``, ``calib.npz`` (arrays as ``qcc compile --calib`` takes them),
``case.json`` (targets, threads, seed), and, written for a person, ``failure.txt`` and
``versions.txt``.
"""

from __future__ import annotations

import json
import re
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

import qcc
from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet, can_run
from qcc.backends.llvm.machine import host_architecture
from qcc.backends.registry import backend_config
from qcc.cli.crash import versions
from qcc.compiler import quantize
from qcc.ir.core import Array, Graph
from qcc.onnxio import write_onnx
from qcc.pipeline import QuantizedModel
from qcc.ref.evaluate import evaluate
from qcc.runtime import program
from qcc.runtime.export_check import check_export, output_sqnr
from qcc.runtime.op_by_op import compare_export
from tests.differential.models import Feeds
from tests.differential.native import compare_native, runnable_row, with_stored_outputs
from tests.fuzzing.growers import random_model

EXPORT = "onnx"

OPSET = 21
"""Of exported models."""

FEEDS = 4
"""Calibration batches of a random case."""

LEAST_FLOAT_DB = 80.0
"""Least SQNR of the float graph after the float passes against the model in onnxruntime.

Both compute in float32; batch-norm folding and sums in another order cost a few of 140 dB.
"""

LEAST_OUTPUT_DB = 0.0
"""Least SQNR of a quantized output: below it the error is larger than the signal.

A random network of ten steps may lose much; a scale or an offset that is wrong loses all.
"""


@dataclass(frozen=True)
class Case:
    """A model as ONNX bytes, calibration feeds, and the targets that it is compiled for.

    ``observer`` names the activation observer (None: the default), as ``qcc compile --observer``.
    """

    model: bytes
    feeds: tuple[Feeds, ...]
    targets: tuple[str, ...]
    threads: int = 1
    observer: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Failure:
    """What went wrong, in one sentence; ``details`` are a traceback or nothing."""

    message: str
    details: str = ""

    @property
    def signature(self) -> str:
        """The message without names and numbers: what stays equal while a model shrinks."""
        first = self.message.split("\n", 1)[0]
        return re.sub(r"'[^']*'|\"[^\"]*\"|%\w+|-?\d+(\.\d+)?(e-?\d+)?", "_", first)


class Wrong(Exception):
    """A demand is not met."""


def random_case(seed: int, targets: Sequence[str], most_steps: int = 10) -> Case:
    """The case of a seed: equal seeds give equal cases, whatever the targets."""
    model = random_model(seed, most_steps)
    proto = model.finish()
    observer = model.pick(("minmax", "minmax", "minmax", "histogram", "percentile", None))
    return Case(
        proto.SerializeToString(),
        model.feeds(FEEDS),
        tuple(targets),
        threads=model.pick((1, 1, 2, 3)),
        observer=observer,
        seed=seed,
    )


def native_rows() -> tuple[str, ...]:
    """Instruction sets of this machine's architecture; those that it lacks are emulated."""
    here = host_architecture()
    return tuple(row.name for row in INSTRUCTION_SETS.values() if row.architecture == here)


def default_targets() -> tuple[str, ...]:
    """Instruction sets that this CPU runs, and the export target."""
    return (*(name for name in native_rows() if can_run(INSTRUCTION_SETS[name])), EXPORT)


# -- demands ---------------------------------------------------------------------------------------


def failure_of(case: Case) -> Failure | None:
    """Compile the model for each target and hold it to everything that can be demanded.

    Demanded are that it compiles, that the float passes change nothing, that native code gives the
    reference's bytes for every output and every stored value, that the exported file loads and
    agrees with the reference within a step, and that the result resembles the float model's.
    """
    try:
        with mock.patch.object(program, "LEAST_MACS", 0):
            _demand(case)
    except Wrong as wrong:
        return Failure(str(wrong))
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())
    return None


def _demand(case: Case) -> None:
    try:
        exact = _run_in_onnxruntime(case.model, case.feeds)
    except Exception as error:
        raise Wrong(f"onnxruntime does not run the float model: {error}") from None
    rows = [name for name in case.targets if name != EXPORT]
    if rows:
        _demand_native(case, rows, exact)
    if EXPORT in case.targets:
        _demand_export(case, exact)


def _demand_native(case: Case, rows: Sequence[str], exact: list[dict[str, Array]]) -> None:
    graph = _quantized(case, "x86", exact).graph
    feeds = (*case.feeds[:2], {k: 8 * v for k, v in case.feeds[-1].items()})
    for name in rows:
        isa = runnable_row(INSTRUCTION_SETS[name])
        _demand_bytes(graph, isa, feeds, case.threads, "an output")
        _demand_bytes(with_stored_outputs(graph), isa, feeds, case.threads, "a stored value")


def _quantized(case: Case, backend: str, exact: list[dict[str, Array]]) -> QuantizedModel:
    """The quantized model, when its float graph and the result resemble the float model's."""
    graph = qcc.read_onnx(case.model)
    quantized = quantize(graph, case.feeds, backend, observer=case.observer)
    assert quantized.float_graph is not None
    found = [evaluate(quantized.float_graph, feed) for feed in case.feeds]
    _demand_likeness("after the float passes", exact, found, LEAST_FLOAT_DB)
    found = [evaluate(quantized.graph, feed) for feed in case.feeds]
    _demand_likeness(f"quantized for {backend}", exact, found, LEAST_OUTPUT_DB)
    return quantized


def _demand_bytes(
    graph: Graph, isa: InstructionSet, feeds: Sequence[Feeds], threads: int, what: str
) -> None:
    found = compare_native(graph, isa, feeds, threads)
    if found.differing_bytes and found.has_regions and threads > 1:
        # onnxruntime sums in another order with more threads (ReduceMean over two axes does).
        found = compare_native(graph, isa, feeds)
    if found.differing_bytes:
        raise Wrong(
            f"native code of {isa.name} differs from the reference in {what}: "
            f"{found.differing_bytes} bytes in {found.elements} elements"
        )


def _demand_export(case: Case, exact: list[dict[str, Array]]) -> None:
    graph = _quantized(case, EXPORT, exact).graph
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(graph, path, opset=OPSET)
        check_export(graph, path, case.feeds)
    for wrong in compare_export(graph, backend_config(EXPORT).patterns, case.feeds[:2]).refused:
        unit = "steps" if wrong.is_stored else "of the largest value"
        raise Wrong(
            f"the exported group '{wrong.label}' differs from the reference in onnxruntime: "
            f"{wrong.differing} of {wrong.elements} elements by up to {wrong.worst:g} {unit}"
        )


def _demand_likeness(
    when: str, exact: Sequence[Feeds], found: Sequence[Feeds], least: float
) -> None:
    for name, ratio in output_sqnr(exact, found).items():
        if ratio < least:
            raise Wrong(f"output '{name}' {when} has an SQNR of {ratio:.1f} dB, less than {least}")


def _run_in_onnxruntime(model: bytes, feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
    """The outputs of the model as it was given, without optimizations, feed by feed."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]


# -- folders ---------------------------------------------------------------------------------------


def save_case(case: Case, folder: Path, failure: Failure) -> None:
    """Write ``case`` into ``folder``, which is made; what lies there is overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(case.model)
    arrays = {name: np.stack([feed[name] for feed in case.feeds]) for name in case.feeds[0]}
    np.savez(folder / "calib.npz", allow_pickle=False, **arrays)
    facts = {
        "targets": list(case.targets),
        "threads": case.threads,
        "observer": case.observer,
        "seed": case.seed,
    }
    (folder / "case.json").write_text(json.dumps(facts, indent=2) + "\n")
    (folder / "failure.txt").write_text(f"{failure.message}\n{failure.details}")
    (folder / "versions.txt").write_text(versions())


def load_case(folder: Path) -> Case:
    """What :func:`save_case` wrote; raises OSError or ValueError for another folder."""
    facts = json.loads((folder / "case.json").read_text())
    with np.load(folder / "calib.npz", allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    count = len(next(iter(arrays.values())))
    feeds = tuple({name: array[i] for name, array in arrays.items()} for i in range(count))
    model = (folder / "model.onnx").read_bytes()
    rest = (facts["threads"], facts["observer"], facts["seed"])
    return Case(model, feeds, tuple(facts["targets"]), *rest)
