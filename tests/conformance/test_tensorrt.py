"""What TensorRT's BackendConfig claims: exports that compute the reference's numbers, in int8."""

from __future__ import annotations

import pytest

from qcc.backends.tensorrt.config import CONFIG
from qcc.onnxio import write_onnx
from qcc.quant.backend_config import BackendPatternConfig
from qcc.runtime.op_by_op import compare_export
from qcc.runtime.tensorrt_builder import build
from tests.conformance.exports import Exported, exported_claim

NOT_INT8 = ("ConvTranspose",)
"""What TensorRT-RTX computes in float whatever it reads; TensorRT has int8 kernels."""


@pytest.fixture(scope="module", params=CONFIG.patterns, ids=lambda config: str(config.name))
def exported(request: pytest.FixtureRequest) -> Exported:
    config = request.param
    assert isinstance(config, BackendPatternConfig)
    return exported_claim(CONFIG, config)


def test_entry_is_chosen(exported: Exported) -> None:
    assert exported.wrong == ()


def test_entry_computes_what_the_reference_does(exported: Exported) -> None:
    found = compare_export(exported.graph, CONFIG.patterns, exported.feeds)
    assert found.stored
    assert found.refused == []


def test_entry_runs_in_int8(exported: Exported) -> None:
    pytest.importorskip("tensorrt_rtx")
    model = write_onnx(exported.graph)
    assert model is not None
    report = build(model.SerializeToString())
    assert (report.errors, report.warnings) == ((), ())
    ops = {node.name: node.op for node in exported.graph.nodes}
    wanted = [name for name in exported.weighted if ops[name] not in NOT_INT8]
    assert wanted
    assert report.others(wanted) == ()
