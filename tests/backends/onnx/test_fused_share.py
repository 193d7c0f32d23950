"""onnxruntime runs all that target onnx quantizes on integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qcc
from qcc.onnxio import to_model_proto
from qcc.runtime.fusion import FusionReport, fused_share
from tests.backends.onnx.nets import NETS, decoder_net, exported, fire_net, silu_net
from tests.differential.models import DIGITS, sample

pytest.importorskip("onnxruntime")

PROFILES = ("onnx", "onnx-openvino", "onnx-generic")

MODELS = (
    "squeezenet10_imagenet",
    "mobilenet_v2_10_224_imagenet",
    "fastestdet_coco",
    "ultraface_rfb320",
    "yunet_n_dynamic",
    "resnet8_cifar10_nhwc",
    "kws_dscnn",
    "mnist_cntk",
)


def report_of(name: str, target: str, opset: int = 21) -> FusionReport:
    return fused_share(to_model_proto(exported(NETS[name], target), opset=opset))


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("name", NETS)
def test_every_node_between_quantize_and_dequantize_is_an_integer_kernel(
    name: str, opset: int
) -> None:
    report = report_of(name, "onnx", opset)
    assert [node.reason for node in report.missing] == []
    for op in ("Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "AveragePool"):
        total, expected, fused = report.by_op().get(op, (0, 0, 0))
        assert total == expected == fused, op


def test_a_skip_that_is_joined_keeps_the_parameters_that_imply_its_relu() -> None:
    """The joined values have a zero point, which would leave Conv and Relu in float."""
    graph = exported(decoder_net, "onnx")
    assert "Relu" not in [node.op for node in graph.nodes]
    (joined,) = [node for node in graph.nodes if node.op == "Concat"]
    quants = [value.producer.operand(0).tensor.quant for value in joined.inputs]  # type: ignore[union-attr]
    assert [quant is not None and quant.zero_point[0] == 0 for quant in quants] == [True, False]
    (after,) = joined.output.users
    assert after.output.tensor.quant not in (quants[0],)


def test_sigmoid_and_product_are_integer_kernels_of_their_own() -> None:
    report = fused_share(to_model_proto(exported(silu_net, "onnx")))
    kernels = {node.op: node.kernel for node in report.nodes}
    assert (kernels["Sigmoid"], kernels["Mul"]) == ("QLinearSigmoid", "QLinearMul")


def test_the_example_is_fused_as_a_whole() -> None:
    report = fused_share(to_model_proto(sample(DIGITS, batches=4).numbered("onnx")))
    assert (report.share, report.floats) == (1.0, ())
    assert report.expected == 7


def test_the_report_of_an_export_says_how_much_is_fused() -> None:
    model = sample(DIGITS, batches=4)
    notes = {t: qcc.compile(model.path, model.feeds, target=t).report.notes for t in PROFILES}
    sentence = "onnxruntime runs 7 of 7 quantized nodes on integers"
    assert [target for target in PROFILES if sentence in notes[target]] == ["onnx"]


@pytest.mark.parametrize("name", NETS)
def test_the_generic_profile_is_fused_but_for_clamps_of_joined_values(name: str) -> None:
    """It has one scale over a Concat, so the Relu in front of one may need to be computed."""
    missing = report_of(name, "onnx-generic", 13).missing
    assert all("cuts at 0" in node.reason for node in missing)
    assert not missing or name == "decoder_net"


@pytest.mark.shared
@pytest.mark.parametrize("name", MODELS)
def test_real_models_are_fused_as_far_as_they_are_quantized(name: str, zoo: Path) -> None:
    report = fused_share(to_model_proto(sample(name, 2, zoo).numbered("onnx")))
    assert [node.reason for node in report.missing] == []
    total, expected, fused = report.by_op()["Conv"]
    assert total == expected == fused


@pytest.mark.parametrize("target", PROFILES)
def test_no_two_neighbouring_weights_saturate_where_products_are_added_in_16_bits(
    target: str,
) -> None:
    nodes = exported(fire_net, target).nodes
    weights = [node.operand(1).producer for node in nodes if len(node.inputs) > 1]
    stored = [w.operand(0).constant for w in weights if w is not None and w.op == "q.dequantize"]
    seen = 0
    for data in stored:
        if data is None or data.ndim != 4 or data.shape[1] < 8:
            continue
        even, odd = np.asarray(data[:, ::2], np.int32), np.asarray(data[:, 1::2], np.int32)
        assert np.abs(even + odd).max() <= 128
        seen += 1
    assert seen == 3
