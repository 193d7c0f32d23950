"""What qcc exports is clean, and models quantized by others are repaired as far as can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import qcc
from qcc.lint import PROFILES, fix_model, lint_model
from tests.lint.models import run

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model for onnxruntime: uint8 activations, int32 biases."""
    return export("onnx", tmp_path_factory.mktemp("digits"))


def export(target: str, folder: Path) -> Path:
    with np.load(DIGITS / "calib.npz") as data:
        batches = [{"x": data["x"][i : i + 8]} for i in range(0, 64, 8)]
    path = folder / "digits.onnx"
    qcc.compile(DIGITS / "digits.onnx", batches, target=target).save(path)
    return path


@pytest.mark.parametrize("target", sorted(PROFILES))
def test_what_qcc_exports_is_clean(target: str, tmp_path: Path) -> None:
    report = lint_model(export(target, tmp_path), target)
    assert (*report.errors, *report.warnings) == ()


def test_an_export_for_onnxruntime_is_repaired_for_tensorrt(unsigned: Path) -> None:
    model = onnx.load(unsigned)
    assert {f.rule for f in lint_model(model, "tensorrt").errors} == {"E1", "E4"}
    fixed, _ = fix_model(model, "tensorrt")
    assert lint_model(fixed, "tensorrt").errors == ()
    with np.load(DIGITS / "test.npz") as data:
        x = data["x"][:128]
    before, after = (run(m, {"x": x})[0] for m in (model, fixed))
    assert (before.argmax(axis=1) == after.argmax(axis=1)).mean() >= 0.98


@pytest.mark.parametrize("name", ["mobilenet_v1_025_128", "mobilenet_v2_10_224"])
def test_only_its_interface_is_left_of_a_model_of_bytes(zoo: Path, name: str) -> None:
    path = zoo / "models" / f"{name}_imagenet_tflite_qat_qdq.onnx"
    before = lint_model(path, "tensorrt").errors
    assert {f.rule for f in before} == {"E1", "E4"}
    fixed, applied = fix_model(path, "tensorrt")
    left = lint_model(fixed, "tensorrt").errors
    assert len(applied) >= len(before) - 2
    assert [f.rule for f in left] == ["E1", "E1"]
    assert all("takes or gives" in f.message for f in left)
    assert lint_model(path, "onnx").errors == ()
