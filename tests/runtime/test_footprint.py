"""The memory that a loaded model takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qcc
from qcc.errors import DataError
from qcc.ir.builder import GraphBuilder
from qcc.ir.types import float32
from qcc.onnxio import write_onnx
from qcc.runtime.footprint import MAPPINGS, footprint_bytes

pytestmark = pytest.mark.skipif(not MAPPINGS.exists(), reason="this system does not say")


def big_product(folder: Path) -> Path:
    """A product by 8 MiB of float weights, which are 2 MiB in int8."""
    weight = np.random.default_rng(0).normal(size=(1024, 2048)).astype(np.float32)
    b = GraphBuilder()
    x = b.input("x", float32(1, 1024))
    write_onnx(b.output(b.op.MatMul(x, b.constant(weight, "w"))), folder / "m.onnx")
    return folder / "m.onnx"


def test_weights_are_most_of_what_a_product_takes(tmp_path: Path) -> None:
    model = big_product(tmp_path)
    data = [{"x": np.random.default_rng(1).normal(size=(1, 1024)).astype(np.float32)}]
    qcc.compile(model, calibration=data, target="host").save(tmp_path / "m.qcc")
    ours, theirs = footprint_bytes(tmp_path / "m.qcc"), footprint_bytes(model)
    assert ours is not None
    assert theirs is not None
    assert 2 * 2**20 <= ours < 6 * 2**20
    assert theirs >= 8 * 2**20


def test_a_model_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"m\.onnx cannot be measured"):
        footprint_bytes(tmp_path / "m.onnx")
