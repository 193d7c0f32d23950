"""Exports load where onnxruntime is told to avoid saturating 8-bit products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

import qcc
from qcc.onnxio import write_onnx
from tests.passes.flow_models import feeds, residual_net


def test_an_export_loads_with_x64quantprecision(tmp_path: Path) -> None:
    graph = residual_net()
    model, exported = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    write_onnx(graph, model)
    samples = feeds(graph, 12)
    qcc.compile(model, calibration=samples, target="onnx").save(exported)
    outputs = []
    for path, key in (
        (model, "session.disable_quant_qdq"),
        (exported, "session.x64quantprecision"),
    ):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(key, "1")
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs.append(np.concatenate([session.run(None, feed)[0] for feed in samples]))
    exact, found = outputs
    error = 10 * np.log10((exact**2).mean() / ((exact - found) ** 2).mean())
    assert error > 20
