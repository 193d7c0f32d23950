"""What onnxruntime computes wrongly or in float: each rule with bad and good models.

What a rule says of onnxruntime is held against what it makes of the model.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from qcc.lint import Finding, Severity, lint_model
from tests.lint.models import Net, kernels, random, run, run_fused, stored_weight

U0, U128, S0 = np.uint8(0), np.uint8(128), np.int8(0)


def single(model: ModelProto) -> Finding:
    """The only error or warning of a model."""
    report = lint_model(model, "onnx")
    (finding,) = (*report.errors, *report.warnings)
    return finding


def rules(model: ModelProto) -> list[str]:
    """The ids of errors and warnings."""
    report = lint_model(model, "onnx")
    return [finding.rule for finding in (*report.errors, *report.warnings)]


def int32_bias(net: Net, scale: Any, count: int = 16) -> str:
    stored = net.constant(np.arange(count, dtype=np.int32) * 20)
    return net.dequantize(stored, scale, np.zeros(np.shape(scale), np.int32), axis=0)


def conv(net: Net, zero: Any = U128, **more: Any) -> str:
    """A Conv of quantized operands, result float."""
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, zero)
    w = net.weight(random(16, 16, 3, 3), 0, **more)
    return net.node("Conv", x, w, net.constant(random(16)), name="conv")


def out(net: Net, y: str, scale: Any = 0.2, zero: Any = U128) -> ModelProto:
    """A model whose result is quantized and dequantized."""
    return net.model(net.pair(y, scale, zero))


def test_a_good_conv_is_silent_and_runs_on_integers(tmp_path: Path) -> None:
    net = Net()
    model = out(net, conv(net))
    assert rules(model) == []
    assert "QLinearConv" in kernels(model, tmp_path)


# -- R1, R7, R11 -----------------------------------------------------------------------------------


def test_a_conv_whose_result_nobody_quantizes_is_r1(tmp_path: Path) -> None:
    net = Net()
    model = net.model(net.node("Tanh", conv(net)))
    found = single(model)
    assert (found.rule, found.node) == ("R1", "conv")
    assert "QLinearConv" not in kernels(model, tmp_path)


def test_a_conv_whose_result_is_an_output_is_r7(tmp_path: Path) -> None:
    net = Net()
    y = conv(net)
    model = net.model(y, net.pair(y, 0.2, U128))
    found = single(model)
    assert (found.rule, found.node) == ("R7", "conv")
    assert "QLinearConv" not in kernels(model, tmp_path)


def test_two_quantizations_of_one_result_are_r11(tmp_path: Path) -> None:
    net = Net()
    y = conv(net)
    model = net.model(net.pair(y, 0.2, U128), net.pair(y, 0.1, U128))
    found = single(model)
    assert (found.rule, found.node) == ("R11", "conv")
    assert "QLinearConv" not in kernels(model, tmp_path)


def test_a_float_reader_beside_the_quantization_is_r11(tmp_path: Path) -> None:
    net = Net()
    y = conv(net)
    model = net.model(net.pair(y, 0.2, U128), net.node("Tanh", y))
    assert single(model).rule == "R11"
    assert "QLinearConv" not in kernels(model, tmp_path)


# -- R2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zero", "scale", "implied"),
    [(U0, 0.1, True), (np.int8(-128), 0.1, True), (U128, 0.1, False), (S0, 0.1, False)],
)
def test_a_relu_that_the_zero_point_does_not_imply_is_r2(
    zero: Any, scale: float, implied: bool, tmp_path: Path
) -> None:
    net = Net()
    x_zero = U128 if np.asarray(zero).dtype == np.uint8 else S0
    model = out(net, net.node("Relu", conv(net, x_zero), name="relu"), scale, zero)
    assert rules(model) == ([] if implied else ["R2"])
    assert ("QLinearConv" in kernels(model, tmp_path)) is implied
    if not implied:
        assert single(model).node == "relu"


@pytest.mark.parametrize(("scale", "implied"), [(6 / 255, True), (0.1, False)])
def test_a_clip_that_cuts_the_quantized_range_is_r2(
    scale: float, implied: bool, tmp_path: Path
) -> None:
    net = Net()
    bounds = net.constant(np.float32(0)), net.constant(np.float32(6))
    model = out(net, net.node("Clip", conv(net), *bounds), scale, U0)
    assert rules(model) == ([] if implied else ["R2"])
    assert ("QLinearConv" in kernels(model, tmp_path)) is implied


# -- R3 --------------------------------------------------------------------------------------------


def test_int8_activations_with_uint8_weights_are_r3(tmp_path: Path) -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, S0)
    stored, _ = stored_weight(random(16, 16, 3, 3), None)
    shifted = (stored.astype(np.int16) + 128).astype(np.uint8)
    w = net.dequantize(net.constant(shifted), 0.01, U128)
    model = out(net, net.node("Conv", x, w, name="conv"), 0.2, S0)
    found = single(model)
    assert (found.rule, found.node) == ("R3", "conv")
    assert "QLinearConv" not in kernels(model, tmp_path)


def test_a_result_of_another_type_is_r3(tmp_path: Path) -> None:
    net = Net()
    model = out(net, conv(net, S0), 0.2, U128)
    assert single(model).rule == "R3"
    assert "QLinearConv" not in kernels(model, tmp_path)


def test_operands_of_16_bits_are_r3(tmp_path: Path) -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, np.uint16(0))
    y = net.node("Conv", x, net.weight(random(16, 16, 3, 3), 0), name="conv")
    model = out(net, y, 0.2, np.uint16(0))
    assert single(model).rule == "R3"
    assert "QLinearConv" not in kernels(model, tmp_path)


def test_a_sum_of_two_types_is_r3(tmp_path: Path) -> None:
    def model(second: Any) -> ModelProto:
        net = Net()
        a = net.pair(net.input("a", ["n", 8]), 0.05, U128)
        return out(net, net.node("Add", a, net.pair(net.input("b", ["n", 8]), 0.1, second)))

    assert rules(model(U0)) == []
    assert "QLinearAdd" in kernels(model(U0), tmp_path)
    assert single(model(S0)).rule == "R3"
    assert "QLinearAdd" not in kernels(model(S0), tmp_path)


# -- R4, R5, R12 -----------------------------------------------------------------------------------


def biased_conv(factor: float) -> tuple[ModelProto, np.ndarray[Any, Any]]:
    """A Conv whose int32 bias has ``factor`` times the scale that integers mean."""
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, U128)
    data = random(16, 16, 3, 3)
    _, scale = stored_weight(data, 0)
    bias = int32_bias(net, scale * np.float32(0.05 * factor))
    model = out(net, net.node("Conv", x, net.weight(data, 0), bias, name="conv"))
    return model, random(1, 16, 8, 8, seed=1)


def test_a_bias_of_another_scale_is_wrong_in_a_conv_or_keeps_it_in_float(tmp_path: Path) -> None:
    good, x = biased_conv(1.0)
    assert rules(good) == []
    (literal,), (fused,) = run(good, {"x": x}), run_fused(good, {"x": x})
    assert np.abs(literal - fused).max() <= 0.2 * 1.001
    bad, x = biased_conv(8.0)
    found = single(bad)
    assert (found.rule, found.severity, found.fixable) == ("R4", Severity.ERROR, True)
    (literal,), (fused,) = run(bad, {"x": x}), run_fused(bad, {"x": x})
    wrong = np.abs(literal - fused).max() > 1.0
    assert wrong == ("QLinearConv" in kernels(bad, tmp_path))


def test_a_bias_of_another_scale_makes_a_gemm_really_wrong() -> None:
    def other_scale(net: Net, scale: Any) -> str:
        return int32_bias(net, scale * np.float32(0.4), 8)

    x = random(2, 16, seed=1)
    (literal,), (fused,) = (f(gemm(stored_bias), {"x": x}) for f in (run, run_fused))
    assert np.abs(literal - fused).max() <= 0.2 * 1.001
    bad = gemm(other_scale)
    found = single(bad)
    assert (found.rule, found.severity, found.fixable) == ("R4", Severity.ERROR, True)
    (literal,), (fused,) = (f(bad, {"x": x}) for f in (run, run_fused))
    assert np.abs(literal - fused).max() > 1.0


def test_a_bias_of_8_bits_is_r4(tmp_path: Path) -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, U128)
    bias = net.dequantize(net.constant(np.arange(16, dtype=np.int8)), 0.1, S0)
    model = out(net, net.node("Conv", x, net.weight(random(16, 16, 3, 3), 0), bias))
    assert single(model).rule == "R4"
    assert "QLinearConv" not in kernels(model, tmp_path)


def gemm(bias: Callable[[Net, Any], str], quantized: bool = True, **more: float) -> ModelProto:
    net = Net()
    x = net.pair(net.input("x", ["n", 16]), 0.05, U128)
    data = random(16, 8)
    _, scale = stored_weight(data, 1)
    y = net.node("Gemm", x, net.weight(data, 1), bias(net, scale), name="gemm", **more)
    return out(net, y) if quantized else net.model(y)


def float_bias(net: Net, scale: Any) -> str:
    del scale
    return net.constant(random(8))


def stored_bias(net: Net, scale: Any) -> str:
    return int32_bias(net, scale * np.float32(0.05), 8)


def test_a_gemm_with_beta_is_r5(tmp_path: Path) -> None:
    assert rules(gemm(stored_bias)) == []
    assert "QGemm" in kernels(gemm(stored_bias), tmp_path)
    found = single(gemm(stored_bias, beta=0.5))
    assert (found.rule, found.node) == ("R5", "gemm")
    assert "QGemm" not in kernels(gemm(stored_bias, beta=0.5), tmp_path)


def test_a_last_gemm_with_a_float_bias_is_r12(tmp_path: Path) -> None:
    assert rules(gemm(float_bias)) == []
    assert "QGemm" in kernels(gemm(float_bias), tmp_path)
    assert rules(gemm(stored_bias, quantized=False)) == []
    assert "QGemm" in kernels(gemm(stored_bias, quantized=False), tmp_path)
    found = single(gemm(float_bias, quantized=False))
    assert (found.rule, found.node) == ("R12", "gemm")
    assert "QGemm" not in kernels(gemm(float_bias, quantized=False), tmp_path)


# -- R6 --------------------------------------------------------------------------------------------


def moved(scale: float, zero: Any) -> ModelProto:
    net = Net()
    y = net.pair(conv(net), 0.2, U128)
    return out(net, net.node("Transpose", y, name="move", perm=[0, 2, 3, 1]), scale, zero)


def test_a_movement_to_another_scale_is_r6() -> None:
    assert rules(moved(0.2, U128)) == []
    for bad in (moved(0.1, U128), moved(0.2, U0)):
        found = single(bad)
        assert (found.rule, found.node) == ("R6", "move")


def test_a_movement_without_a_zero_point_is_r6_and_repaired() -> None:
    net = Net()
    net.node("Relu", net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, U0))
    y = net.node("Transpose", net.pair("relu3_y", 0.2, U0), name="move", perm=[0, 2, 3, 1])
    y = net.dequantize(net.quantize(y, 0.2, None), 0.2, None)
    report = lint_model(net.model(net.node("Softmax", y)), "onnx")
    assert {f.rule for f in report.warnings if f.fixable} == {"R6", "G3"}


# -- R8, R9, R10 -----------------------------------------------------------------------------------


def test_a_pair_that_no_integer_kernel_touches_is_r8() -> None:
    net = Net()
    y = net.pair(net.node("Tanh", net.input("x", ["n", 8])), 0.01, U128)
    found = single(net.model(net.node("Sub", y, net.input("z", ["n", 8]))))
    assert found.rule == "R8"
    assert "Sub" in found.message


def test_a_pair_around_a_float_op_between_integer_ops_is_needed() -> None:
    net = Net()
    y = net.pair(net.node("HardSwish", net.pair(conv(net), 0.2, U128)), 0.2, U128)
    model = out(net, net.node("Conv", y, net.weight(random(16, 16, 1, 1), 0)))
    assert rules(model) == []


def test_wide_weights_under_uint8_are_a_note_and_no_warning() -> None:
    net = Net()
    report = lint_model(out(net, conv(net)), "onnx")
    (note,) = report.notes
    assert (note.rule, note.node) == ("R9", "conv")
    assert "x64quantprecision" in note.message
    net = Net()
    assert lint_model(out(net, conv(net, S0), 0.2, S0), "onnx").notes == ()


@pytest.mark.parametrize(("op", "right"), [("Conv", 0), ("MatMul", 1), ("Gemm", 1)])
def test_a_wrong_axis_is_r10_and_really_wrong(op: str, right: int) -> None:
    def model(axis: int) -> ModelProto:
        net = Net()
        shape = ["n", 16, 8, 8] if op == "Conv" else ["n", 16]
        data = random(16, 16, 3, 3) if op == "Conv" else random(16, 16).T.copy()
        x = net.pair(net.input("x", shape), 0.05, U128)
        return out(net, net.node(op, x, net.weight(data, right, written=axis), name="op"))

    x = random(2, 16, 8, 8, seed=1) if op == "Conv" else random(2, 16, seed=1)
    good, bad = model(right), model(1 - right)
    assert rules(good) == []
    (literal,), (fused,) = run(good, {"x": x}), run_fused(good, {"x": x})
    assert np.abs(literal - fused).max() <= 0.2 * 1.001
    found = lint_model(bad, "onnx").errors
    assert [(f.rule, f.fixable) for f in found] == [("R10", True)]
    (literal,), (fused,) = run(bad, {"x": x}), run_fused(bad, {"x": x})
    assert np.abs(literal - fused).max() > 0.5


def test_a_wrong_axis_of_a_weight_alone_computes_what_it_says() -> None:
    net = Net()
    w = net.weight(random(16, 16, 3, 3), 0, written=1)
    assert rules(net.model(net.node("Conv", net.input("x", ["n", 16, 8, 8]), w))) == []


# -- what ONNX says --------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["onnx", "onnx-openvino", "onnx-generic"])
def test_good_models_are_silent_for_every_onnx_target(target: str) -> None:
    net = Net()
    report = lint_model(out(net, conv(net)), target)
    assert (*report.errors, *report.warnings) == ()


@pytest.mark.parametrize("target", ["onnx", "onnx-openvino", "onnx-generic"])
def test_what_onnx_forbids_is_an_error_for_every_onnx_target(target: str) -> None:
    def found(model: ModelProto) -> list[str]:
        return [f.rule for f in lint_model(model, target).errors]

    net = Net(13)
    code = TensorProto.INT16
    assert found(net.model(net.pair(net.input("x", ["n", 8]), 0.05, 0, element=code))) == ["G1"]
    net = Net()
    assert found(net.model(net.pair(net.input("x", ["n", 8]), 0.0, U0))) == ["G2"]
    net = Net()
    bias = net.dequantize(net.constant(np.arange(8, dtype=np.int32)), 0.1, np.int32(3))
    assert found(net.model(bias)) == ["G3"]
    net = Net()
    w = net.dequantize(net.constant(np.ones((4, 4), np.int8)), np.ones(3), np.zeros(3, np.int8))
    assert found(net.model(w)) == ["G4"]
    net = Net()
    w = net.dequantize(net.constant(np.ones(4, np.int8)), np.ones(4), np.zeros(4, np.int8), axis=1)
    assert found(net.model(w)) == ["G4"]
    net = Net(10)
    w = net.dequantize(net.constant(np.ones((4, 4), np.int8)), np.ones(4), np.zeros(4, np.int8))
    assert found(net.model(w)) == ["G4"]


def test_ops_of_com_microsoft_are_g5_where_the_runtime_is_another() -> None:
    net = Net()
    x = net.input("x", ["n", 8], TensorProto.UINT8)
    parameters = net.constant(np.float32(0.1)), net.constant(U0)
    y = net.node("com.microsoft.QLinearSigmoid", x, *parameters, *parameters, name="sigmoid")
    model = net.model(y)
    (found,) = lint_model(model, "onnx-generic").errors
    assert (found.rule, found.node) == ("G5", "sigmoid")
    assert [f.rule for f in lint_model(model, "onnx-openvino").warnings] == ["G5"]
    assert lint_model(model, "onnx").errors == ()


def test_what_openvino_computes_in_float_is_g7_and_g8() -> None:
    def found(model: ModelProto) -> list[str]:
        return [f.rule for f in lint_model(model, "onnx-openvino").warnings]

    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, np.uint16(0))
    assert found(net.model(net.node("Conv", x, net.weight(random(16, 16, 3, 3), 0)))) == ["G8"]
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, U0)
    assert found(net.model(net.node("Conv", x, net.constant(random(16, 16, 3, 3))))) == ["G7"]


@pytest.mark.parametrize(("scale", "rules"), [(0.05, []), (0.07, ["G7"])])
def test_values_joined_on_one_grid_are_read_quantized(scale: float, rules: list[str]) -> None:
    """OpenVINO moves the parameters of equal operands through joining, resizing and pools."""
    net = Net()
    x = net.input("x", ["n", 8, 8, 8])
    y = net.node("Concat", net.pair(x, 0.05, U0), net.pair(x, scale, U0), axis=1)
    y = net.node("Resize", y, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    model = net.model(net.node("Conv", y, net.weight(random(16, 16, 3, 3), 0)))
    assert [f.rule for f in lint_model(model, "onnx-openvino").warnings] == rules


def test_a_wrong_axis_is_g6_for_others() -> None:
    net = Net()
    model = out(net, conv(net, written=1))
    (found,) = lint_model(model, "onnx-generic").warnings
    assert (found.rule, found.fixable) == ("G6", True)


# -- R13 -------------------------------------------------------------------------------------------


def test_names_may_be_shared_by_constants_and_by_nodes_of_two_branches() -> None:
    def branch(name: str) -> Any:
        nodes = [
            helper.make_node("Constant", [], [f"{name}_c"], name="same", value_float=1.0),
            helper.make_node("Constant", [], [f"{name}_d"], name="same", value_float=2.0),
            helper.make_node("Add", [f"{name}_c", f"{name}_d"], [f"{name}_y"], name="sum"),
        ]
        given = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [])
        return helper.make_graph(nodes, name, [], [given])

    net = Net()
    branches = {f"{name}_branch": branch(name) for name in ("then", "else")}
    y = net.node("If", net.input("b", [], TensorProto.BOOL), **branches)
    model = net.model(y)
    assert rules(model) == []
    assert run(model, {"b": np.array(True)})[0] == 3


def test_two_nodes_of_one_name_are_r13() -> None:
    net = Net()
    conv(net)
    net.nodes[-1].name = net.nodes[0].name
    assert "R13" in rules(net.model("conv_y"))


# -- R14 -------------------------------------------------------------------------------------------


def branching(zero: Any, readers: int) -> ModelProto:
    """A Conv of which some Convs read the quantized result."""
    net = Net()
    q = net.quantize(conv(net, zero), 0.2, zero)
    outputs = []
    for _ in range(readers):
        w = net.weight(random(16, 16, 1, 1), 0)
        outputs.append(net.pair(net.node("Conv", net.dequantize(q, 0.2, zero), w), 0.2, zero))
    return net.model(*outputs)


def test_int8_values_that_x86_would_store_in_two_types_are_r14(tmp_path: Path) -> None:
    assert rules(branching(S0, 1)) == []
    assert rules(branching(U128, 2)) == []
    found = single(branching(S0, 2))
    assert (found.rule, found.node) == ("R14", "conv")
    assert "3 nodes read" in found.message
    assert kernels(branching(S0, 2), tmp_path).count("QLinearConv") == 3


def test_int8_constants_beside_int8_values_are_r14() -> None:
    def model(zero: Any) -> ModelProto:
        net = Net()
        x = net.pair(net.input("x", ["n", 8]), 0.05, zero)
        stored = net.constant(np.arange(8).astype(np.asarray(zero).dtype))
        return out(net, net.node("Add", x, net.dequantize(stored, 0.1, zero)), 0.2, zero)

    assert rules(model(S0)) == ["R14"]
    assert rules(model(U128)) == []


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="is of x86 only")
def test_int8_values_of_two_types_are_computed_in_float_on_x86(tmp_path: Path) -> None:
    as_is = "session.disable_double_qdq_remover"
    assert kernels(branching(S0, 1), tmp_path, as_is).count("QLinearConv") == 2
    assert kernels(branching(S0, 2), tmp_path, as_is).count("QLinearConv") == 0
    assert kernels(branching(U128, 2), tmp_path, as_is).count("QLinearConv") == 3
