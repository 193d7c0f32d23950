"""What onnxruntime makes of Q/DQ models, and the reasons for what stays float."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qcc.errors import ModelError
from qcc.runtime.fusion import FusionReport, fused_share, reasons, table
from qcc.runtime.fusion_rules import QdqIndex, float_reason
from tests.runtime.qdq_models import QdqModel

pytest.importorskip("onnxruntime")


def only(report: FusionReport, op: str) -> tuple[bool, bool, str]:
    """Whether the one node of an op is expected, whether it fused, and the reason if not."""
    (node,) = [node for node in report.nodes if node.op == op]
    return node.expected, node.fused, node.reason


def conv(m: QdqModel, x: str, *extra: str) -> str:
    return m.node("Conv", x, m.weight(4, 4, 3, 3), *extra, pads=[1, 1, 1, 1])


def test_a_conv_between_quantize_and_dequantize_becomes_an_integer_kernel() -> None:
    m = QdqModel()
    y = m.both(conv(m, m.both("x"), m.bias(4)), 128)
    report = fused_share(m.model(y))
    assert only(report, "Conv") == (True, True, "")
    assert report.nodes[0].kernel == "QLinearConv"
    assert (report.expected, report.fused, report.share) == (1, 1, 1.0)


def no_quantizer(m: QdqModel) -> str:
    return conv(m, m.both("x"))


def output_of_the_graph(m: QdqModel) -> tuple[str, ...]:
    y = conv(m, m.both("x"))
    return y, m.both(y)


def two_quantizers(m: QdqModel) -> tuple[str, ...]:
    y = conv(m, m.both("x"))
    return m.both(y), m.both(y, scale=0.2)


def float_reader(m: QdqModel) -> tuple[str, ...]:
    y = conv(m, m.both("x"))
    return m.both(y), m.node("Tanh", y)


def symmetric_relu(m: QdqModel) -> str:
    y = m.node("Relu", conv(m, m.both("x", 0, "int8")))
    return m.both(y, 0, "int8")


def unsigned_weight(m: QdqModel) -> str:
    x = m.both("x", 0, "int8")
    return m.both(m.node("Conv", x, m.weight(4, 4, 1, 1, dtype="uint8")), 0, "int8")


def other_type(m: QdqModel) -> str:
    return m.both(conv(m, m.both("x")), 0, "int8")


def sixteen_bits(m: QdqModel) -> str:
    return m.both(conv(m, m.both("x", 0, "uint16")), 0, "uint16")


def float_weight(m: QdqModel) -> str:
    w = m.node("Abs", m.weight(4, 4, 1, 1))
    return m.both(m.node("Conv", m.both("x"), w))


def gemm_with_float_bias(m: QdqModel) -> str:
    x = m.node("Flatten", m.both("x"))
    bias = m.constant("bias", [1.0, 2.0])
    return m.node("Gemm", m.both(x), m.weight(2, 256), bias, transB=1)


def gemm_with_beta(m: QdqModel) -> str:
    x = m.node("Flatten", m.both("x"))
    return m.both(m.node("Gemm", m.both(x), m.weight(2, 256), m.bias(2), transB=1, beta=0.5))


@pytest.mark.parametrize(
    ("build", "op", "words"),
    [
        (no_quantizer, "Conv", "is an output of the graph"),
        (output_of_the_graph, "Conv", "is an output of the graph"),
        (two_quantizers, "Conv", "2 QuantizeLinear nodes read its result"),
        (float_reader, "Conv", "a Tanh reads its result"),
        (symmetric_relu, "Conv", "the zero point must lie at -128"),
        (sixteen_bits, "Conv", "an operand is uint16"),
        (gemm_with_float_bias, "Gemm", "only an int32 bias fuses there"),
        (gemm_with_beta, "Gemm", "it has beta 0.5"),
    ],
)
def test_a_product_that_stays_float_has_its_reason(
    build: Callable[[QdqModel], str | tuple[str, ...]], op: str, words: str
) -> None:
    m = QdqModel()
    outputs = build(m)
    outputs = (outputs,) if isinstance(outputs, str) else outputs
    expected, fused, reason = only(fused_share(m.model(*outputs)), op)
    assert (expected, fused) == (True, False)
    assert words in reason


def test_a_product_of_a_float_weight_is_not_expected_on_integers() -> None:
    m = QdqModel()
    expected, fused, reason = only(fused_share(m.model(float_weight(m))), "Conv")
    assert (expected, fused) == (False, False)
    assert reason.endswith("is float, not dequantized")


def test_a_gemm_needs_no_quantized_result() -> None:
    m = QdqModel()
    x = m.node("Flatten", m.both("x"))
    y = m.node("Gemm", m.both(x), m.weight(2, 256), m.bias(2), transB=1)
    assert only(fused_share(m.model(y)), "Gemm") == (True, True, "")


def test_movements_need_the_same_parameters_on_both_sides() -> None:
    for scale, fuses in ((0.05, True), (0.07, False)):
        m = QdqModel()
        y = m.both(m.node("MaxPool", m.both("x"), kernel_shape=[2, 2], strides=[2, 2]), scale=scale)
        expected, fused, reason = only(fused_share(m.model(y)), "MaxPool")
        assert (expected, fused) == (True, fuses)
        assert ("the same scale and zero point" in reason) is not fuses


@pytest.mark.parametrize(("mode", "expected"), [("nearest", True), ("linear", False)])
def test_only_nearest_resizing_is_expected_on_stored_values(mode: str, expected: bool) -> None:
    m = QdqModel()
    sizes = m.constant("sizes", [1, 1, 2, 2])
    y = m.both(m.node("Resize", m.both("x"), "", sizes, mode=mode))
    assert only(fused_share(m.model(y)), "Resize")[:2] == (expected, expected)


def mixed_operands(m: QdqModel) -> str:
    return m.both(m.node("Add", m.both("x"), m.both("x", 3, "int8")))


def mixed_parts(m: QdqModel) -> str:
    return m.both(m.node("Concat", m.both("x"), m.both("x", 3, "int8"), axis=1))


@pytest.mark.parametrize(
    ("build", "op", "words"),
    [
        (unsigned_weight, "Conv", "its weight must be int8 too, not uint8"),
        (other_type, "Conv", "it reads uint8 and gives int8"),
        (mixed_operands, "Add", "different types (uint8, int8)"),
        (mixed_parts, "Concat", "different types (uint8, int8)"),
    ],
)
def test_types_that_do_not_go_together_are_named(
    build: Callable[[QdqModel], str], op: str, words: str
) -> None:
    """On x86 onnxruntime turns int8 activations into uint8 first, and may fuse them after all."""
    m = QdqModel()
    graph = m.model(build(m)).graph
    (node,) = [node for node in graph.node if node.op_type == op]
    assert words in float_reason(node, QdqIndex(graph))


def test_pools_and_functions_of_float_readers_are_not_expected() -> None:
    m = QdqModel()
    pooled = m.node("AveragePool", m.both("x"), kernel_shape=[2, 2])
    report = fused_share(m.model(m.node("Sigmoid", pooled)))
    assert report.expected == 0
    assert report.share == 1.0
    assert [node.op for node in report.floats] == ["AveragePool", "Sigmoid"]
    assert "no QuantizeLinear reads its result" in report.floats[0].reason


def test_transposed_convolutions_have_no_integer_form() -> None:
    m = QdqModel()
    y = m.both(m.node("ConvTranspose", m.both("x"), m.weight(4, 4, 2, 2)))
    expected, fused, reason = only(fused_share(m.model(y)), "ConvTranspose")
    assert (expected, fused) == (False, False)
    assert "has no integer form of ConvTranspose" in reason


def test_reports_count_by_op_and_join_like_reasons() -> None:
    m = QdqModel()
    y = m.both(conv(m, m.both("x")))
    report = fused_share(m.model(conv(m, y), conv(m, y)))
    assert report.by_op() == {"Conv": (3, 3, 1)}
    ((sentence, count),) = reasons(report.missing)
    assert count == 2
    assert sentence.startswith("Conv: its result … is an output of the graph")
    assert table([("net", report)])[1].split() == ["net", "3", "3", "1", "33.3%"]


def test_files_and_bytes_are_read_alike_and_left_as_they_are(tmp_path: Path) -> None:
    m = QdqModel()
    model = m.model(m.both(conv(m, m.both("x"))))
    data = model.SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    assert fused_share(path) == fused_share(data) == fused_share(model)
    assert model.SerializeToString() == data
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]


def test_what_cannot_be_read_or_loaded_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be read"):
        fused_share(tmp_path / "none.onnx")
    m = QdqModel()
    with pytest.raises(ModelError, match="onnxruntime refuses the model"):
        fused_share(m.model(m.node("NoSuchOp", "x")))
