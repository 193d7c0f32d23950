"""Native float32 code of whole models: the reference's bytes, and onnxruntime's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

import qcc
from qcc.backends.llvm.compile import NativeProgram, compile_numbered
from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.onnxio import read_onnx
from qcc.pipeline import keep_float
from qcc.quant.report import CompileReport
from qcc.ref.evaluate import evaluate
from qcc.runtime.build import backend_of
from qcc.runtime.executable import Executable, Variant
from tests.differential.models import DIGITS, Feeds, sample
from tests.differential.native import runnable_row

ROWS = ("x86-avx2", "x86-avxvnni", "x86-avx512vnni")
SMALL = (
    "resnet8_cifar10_nhwc",
    "kws_dscnn",
    "mnist_cntk",
    "mobilenet_v1_025_128_imagenet",
    "ad_autoencoder",
    "sww_wakeword",
    "vww_mobilenet025_96_nhwc",
    "mnist_gru",
)
"""Models that are all native in float32."""
EMULATED = ("kws_dscnn", "resnet8_cifar10_nhwc")
WITH_REGIONS = ("ultraface_rfb320", "fastestdet_coco")
RELATIVE = 2e-5
"""Of the largest output: sums in another order, over layers."""


def program_of(path: Path, feeds: Feeds, row: str) -> NativeProgram:
    graph = keep_float(read_onnx(path))
    isa = runnable_row(INSTRUCTION_SETS[row])
    shapes = {value.name: feeds[value.name].shape for value in graph.inputs}
    return compile_numbered(graph, isa, backend_of(isa).patterns, shapes, floats=True)


def run(program: NativeProgram, feeds: Feeds, threads: int = 1) -> dict[str, np.ndarray]:
    model = program.model
    shapes = tuple(feeds[spec.name].shape for spec in model.inputs)
    executable = Executable(
        model.inputs,
        model.outputs,
        [Variant(shapes, model)],
        CompileReport(model.isa.name),
        threads=threads,
    )
    found = executable.run(feeds)
    executable.close()
    return found


def check(name: str, row: str, threads: int = 1) -> NativeProgram:
    """Native bytes are the reference's; the outputs are near onnxruntime's."""
    model = sample(name, batches=1)
    (feeds,) = model.feeds
    program = program_of(model.path, feeds, row)
    found, wanted = run(program, feeds, threads), evaluate(program.lowered, feeds)
    assert {k: v.tobytes() for k, v in found.items()} == {
        k: np.ascontiguousarray(v).tobytes() for k, v in wanted.items()
    }
    session = ort.InferenceSession(model.path)
    names = [output.name for output in session.get_outputs()]
    for key, exact in zip(names, session.run(None, dict(feeds)), strict=True):
        assert np.abs(found[key] - exact).max() <= RELATIVE * np.abs(exact).max()
    return program


@pytest.mark.parametrize("row", ROWS)
def test_digits(row: str) -> None:
    program = check(DIGITS, row, threads=2)
    assert not program.model.regions
    assert {node.dtype for node in program.rows} == {"float32"}


@pytest.mark.shared
@pytest.mark.parametrize("name", SMALL)
def test_small_models_are_native(name: str, zoo: Path) -> None:
    assert not check(name, "x86-avx2").model.regions


@pytest.mark.shared
@pytest.mark.parametrize("name", EMULATED)
def test_wide_vectors(name: str, zoo: Path) -> None:
    check(name, "x86-avx512vnni")


@pytest.mark.shared
@pytest.mark.parametrize("name", WITH_REGIONS)
def test_models_with_regions(name: str, zoo: Path) -> None:
    check(name, "x86-avx2")


@pytest.mark.shared
def test_branches_that_samples_choose_are_native(zoo: Path) -> None:
    model = sample("silero_vad_if_dynamic", batches=1)
    (feeds,) = model.feeds
    executable = qcc.compile(model.path, [feeds], precision="float32")
    assert isinstance(executable, qcc.Executable)
    chosen = [variant for variant in executable.variants if variant.values]
    assert len(chosen) == 1
    assert not chosen[0].model.regions
    found = executable.run(feeds)
    for name, exact in zip(
        found, ort.InferenceSession(model.path).run(None, dict(feeds)), strict=True
    ):
        np.testing.assert_allclose(found[name], exact, atol=1e-5)
