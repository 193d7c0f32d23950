"""Repaired models: clean for the rule, valid, and of the same numbers or as near as can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from qcc.lint import fix_model, lint_model
from tests.lint.models import Net, good_conv, random, run, stored_weight

U0, U128, S0 = np.uint8(0), np.uint8(128), np.int8(0)

Array = np.ndarray[Any, Any]


def repaired(model: ModelProto, target: str = "tensorrt", *rules: str) -> ModelProto:
    """The repaired form: valid, without the findings of ``rules``, the given model untouched."""
    before = model.SerializeToString()
    fixed, applied = fix_model(model, target)
    assert model.SerializeToString() == before
    assert {finding.rule for finding in applied} >= set(rules)
    onnx.checker.check_model(fixed, full_check=True)
    left = {f.rule for f in lint_model(fixed, target).findings}
    assert not left & set(rules)
    return fixed


def results(model: ModelProto, *feeds: Array) -> Array:
    """The first output of a model in onnxruntime, every node as it is written."""
    names = [value.name for value in model.graph.input]
    return run(model, dict(zip(names, feeds, strict=True)))[0]


def initializers(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def conv_of(activation: Callable[[Net, str], str], weight: Callable[[Net], str]) -> ModelProto:
    net = Net()
    x = activation(net, net.input("x", ["n", 16, 8, 8]))
    bias = net.constant(random(32, seed=5))
    y = net.node("Conv", x, weight(net), bias, name="conv")
    return net.model(net.node("Relu", y))


def good_activation(net: Net, x: str) -> str:
    return net.pair(x)


def good_weight(net: Net) -> str:
    return net.weight(random(32, 16, 3, 3), 0)


X = random(2, 16, 8, 8, seed=9) * np.float32(2)


# -- E1: uint8 -------------------------------------------------------------------------------------


def test_uint8_around_128_becomes_int8_without_changing_a_bit() -> None:
    def weight(net: Net) -> str:
        stored, scale = stored_weight(random(32, 16, 3, 3), 0)
        shifted = (stored.astype(np.int16) + 128).astype(np.uint8)
        return net.dequantize(net.constant(shifted), scale, np.full(32, 128, np.uint8), axis=0)

    model = conv_of(lambda net, x: net.pair(x, 0.03, U128), weight)
    assert [f.rule for f in lint_model(model, "tensorrt").errors] == ["E1", "E1"]
    fixed = repaired(model, "tensorrt", "E1")
    assert lint_model(fixed, "tensorrt").findings == ()
    assert np.array_equal(results(model, X), results(fixed, X))
    assert TensorProto.UINT8 not in {t.data_type for t in fixed.graph.initializer}


def test_a_declared_type_of_a_stored_value_is_corrected_with_it() -> None:
    model = conv_of(lambda net, x: net.pair(x, 0.03, U128), good_weight)
    stored = model.graph.node[0].output[0]
    info = helper.make_tensor_value_info(stored, TensorProto.UINT8, ["n", 16, 8, 8])
    model.graph.value_info.append(info)
    fixed = repaired(model, "tensorrt", "E1")
    assert fixed.graph.value_info[0].type.tensor_type.elem_type == TensorProto.INT8
    assert np.array_equal(results(model, X), results(fixed, X))


@pytest.mark.parametrize("zero", [U0, np.uint8(20), np.uint8(200)])
def test_other_uint8_activations_keep_their_range_at_larger_steps(zero: Any) -> None:
    scale = 0.03
    model = conv_of(lambda net, x: net.pair(x, scale, zero), good_weight)
    (found,) = lint_model(model, "tensorrt").errors
    fixed = repaired(model, "tensorrt", "E1")
    low, high = -float(zero) * scale, (255 - float(zero)) * scale
    step = max(-low, high) / 127
    assert f"{step / scale:.2f} times" in found.message
    wide = X.copy()
    wide[0] *= 20  # saturates on both sides
    before, after = activation_of(model, wide), activation_of(fixed, wide)
    assert np.abs(before - after).max() <= (step + scale) / 2 * 1.001
    assert before.min() == pytest.approx(after.min(), abs=step)
    assert before.max() == pytest.approx(after.max(), abs=step)


def activation_of(model: ModelProto, x: Array) -> Array:
    """The dequantized activation that the Conv reads."""
    copy = ModelProto()
    copy.CopyFrom(model)
    conv = next(node for node in copy.graph.node if node.op_type == "Conv")
    del copy.graph.output[:]
    copy.graph.output.append(helper.make_tensor_value_info(conv.input[0], TensorProto.FLOAT, None))
    return results(copy, x)


@pytest.mark.parametrize(("zero", "exact"), [(U128, True), (U0, False)])
def test_stored_values_that_are_moved_before_they_are_dequantized_are_repaired(
    zero: Any, exact: bool
) -> None:
    net = Net()
    q = net.quantize(net.input("x", ["n", 16, 8, 8]), 0.03, zero)
    q = net.node("MaxPool", net.node("Transpose", q, perm=[0, 1, 3, 2]), kernel_shape=[2, 2])
    y = net.node("Conv", net.dequantize(q, 0.03, zero), good_weight(net))
    model = net.model(y)
    (found,) = lint_model(model, "tensorrt").errors
    assert (found.rule, found.node) == ("E1", "quantizelinear1")
    fixed = repaired(model, "tensorrt", "E1")
    if exact:
        assert np.array_equal(results(model, X), results(fixed, X))
    step = 255 * 0.03 / 127
    assert np.abs(activation_of(model, X) - activation_of(fixed, X)).max() <= step


def test_weights_that_are_moved_before_they_are_dequantized_are_repaired() -> None:
    def weight(net: Net) -> str:
        data = np.random.default_rng(0).integers(0, 256, (16, 32, 3, 3)).astype(np.uint8)
        moved = net.node("Transpose", net.constant(data, "w"), perm=[1, 0, 2, 3])
        return net.dequantize(moved, 0.02, U128)

    model = conv_of(good_activation, weight)
    fixed = repaired(model, "tensorrt", "E1")
    assert np.array_equal(results(model, X), results(fixed, X))


def test_no_relu_is_added_behind_an_op_that_gives_nothing_negative() -> None:
    def nodes(op: str | None) -> list[str]:
        net = Net()
        x = net.input("x", ["n", 16, 8, 8])
        x = x if op is None else net.node(op, x)
        y = net.node("Conv", net.pair(x, 0.03, U0), good_weight(net))
        return [n.op_type for n in repaired(net.model(y), "tensorrt", "E1").graph.node]

    assert "Relu" in nodes(None)
    assert nodes("Relu").count("Relu") == 1
    assert "Relu" not in nodes("Sigmoid")


def test_asymmetric_weights_are_stored_anew_within_half_a_step() -> None:
    scale, zero = 0.02, 90

    def weight(net: Net) -> str:
        data = np.random.default_rng(0).integers(0, 256, (32, 16, 3, 3)).astype(np.uint8)
        return net.dequantize(net.constant(data, "w"), scale, np.uint8(zero))

    model = conv_of(good_activation, weight)
    fixed = repaired(model, "tensorrt", "E1")
    before, after = weight_of(model), weight_of(fixed)
    assert np.abs(before - after).max() <= 165 * scale / 127 / 2 * 1.001


def test_asymmetric_weights_with_scales_of_channels_are_stored_anew_channel_by_channel() -> None:
    scale = np.linspace(0.01, 0.05, 32).astype(np.float32)
    zero = np.arange(32, dtype=np.uint8) * 8

    def weight(net: Net) -> str:
        data = np.random.default_rng(0).integers(0, 256, (32, 16, 3, 3)).astype(np.uint8)
        return net.dequantize(net.constant(data, "w"), scale, zero, axis=0)

    model = conv_of(good_activation, weight)
    fixed = repaired(model, "tensorrt", "E1")
    assert lint_model(fixed, "tensorrt").findings == ()
    before, after = weight_of(model), weight_of(fixed)
    half_steps = np.abs(before).max(axis=(1, 2, 3), keepdims=True) / 127 / 2
    assert (np.abs(before - after) <= half_steps * 1.001).all()


def test_scales_of_channels_with_dimensions_of_1_beside_them_become_a_list() -> None:
    def weight(net: Net) -> str:
        stored, scale = stored_weight(random(32, 16, 3, 3), 0)
        column = scale.reshape(32, 1, 1)
        return net.dequantize(net.constant(stored), column, np.zeros((32, 1, 1), np.int8), axis=0)

    model = conv_of(good_activation, weight)
    with pytest.raises(Exception, match="scale"):
        results(model, X)
    fixed = repaired(repaired(model, "onnx-generic", "G4"), "tensorrt")
    assert np.array_equal(results(fixed, X), results(conv_of(good_activation, good_weight), X))
    assert lint_model(repaired(model, "tensorrt", "E6"), "tensorrt").findings == ()


def weight_of(model: ModelProto) -> Array:
    """The dequantized weight that the weighted op reads."""
    copy = ModelProto()
    copy.CopyFrom(model)
    reader = next(node for node in copy.graph.node if node.op_type in ("Conv", "MatMul", "Gemm"))
    del copy.graph.output[:]
    copy.graph.output.append(
        helper.make_tensor_value_info(reader.input[1], TensorProto.FLOAT, None)
    )
    return results(copy, *[np.zeros((1, 16, 8, 8), np.float32) for _ in copy.graph.input])


def test_values_that_the_model_takes_or_gives_as_uint8_are_left_and_named() -> None:
    net = Net()
    x = net.dequantize(net.input("x", ["n", 16, 8, 8], TensorProto.UINT8), 0.05, U128)
    model = net.model(net.node("Conv", x, good_weight(net)))
    (found,) = lint_model(model, "tensorrt").errors
    assert (found.rule, found.fixable) == ("E1", False)
    fixed, applied = fix_model(model, "tensorrt")
    assert applied == ()
    assert fixed == model


# -- E2: zero points -------------------------------------------------------------------------------


def test_a_missing_zero_point_is_uint8_and_becomes_int8_of_that_range() -> None:
    def activation(net: Net, x: str) -> str:
        return net.dequantize(net.quantize(x, 0.03, None), 0.03, None)

    model = conv_of(activation, good_weight)
    fixed = repaired(model, "tensorrt", "E2")
    assert lint_model(fixed, "tensorrt").findings == ()
    step = 255 * 0.03 / 127
    assert np.abs(activation_of(model, X) - activation_of(fixed, X)).max() <= step


def test_a_missing_zero_point_is_written_for_onnx_without_changing_a_bit() -> None:
    def activation(net: Net, x: str) -> str:
        return net.dequantize(net.quantize(x, 0.03, None), 0.03, None)

    model = conv_of(activation, good_weight)
    fixed = repaired(model, "onnx-generic", "G3")
    assert np.array_equal(results(model, X), results(fixed, X))


def test_an_int8_zero_point_is_taken_away_within_a_step() -> None:
    model = conv_of(lambda net, x: net.pair(x, 0.03, np.int8(-20)), good_weight)
    fixed = repaired(model, "tensorrt", "E2")
    step = 147 * 0.03 / 127
    assert np.abs(activation_of(model, X) - activation_of(fixed, X)).max() <= step


# -- E3: scales ------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["tensorrt", "onnx"])
def test_scales_of_zero_over_zeros_become_one(target: str) -> None:
    def weight(net: Net) -> str:
        stored, scale = stored_weight(random(32, 16, 3, 3), 0)
        stored[7], scale[7] = 0, 0
        return net.dequantize(net.constant(stored), scale, np.zeros(32, np.int8), axis=0)

    model = conv_of(good_activation, weight)
    fixed = repaired(model, target, "E3" if target == "tensorrt" else "G2")
    assert np.array_equal(results(model, X), results(fixed, X))


def test_a_scale_of_zero_over_other_data_is_left_and_named() -> None:
    def weight(net: Net) -> str:
        return net.dequantize(net.constant(np.ones((32, 16, 3, 3), np.int8)), 0.0, S0)

    model = conv_of(good_activation, weight)
    assert fix_model(model, "tensorrt")[1] == ()


# -- E4: biases ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 32])
def test_an_int32_bias_becomes_the_float_numbers_that_it_gave(count: int) -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]))
    stored = np.random.default_rng(0).integers(-(2**30), 2**30, 32).astype(np.int32)
    scale = random(count) ** 2 + np.float32(1e-9) if count > 1 else np.float32(1e-9)
    zeros = np.zeros(np.shape(scale), np.int32)
    bias = net.dequantize(net.constant(stored), scale, zeros, axis=0)
    model = net.model(net.node("Conv", x, good_weight(net), bias))
    fixed = repaired(model, "tensorrt", "E4")
    assert len(fixed.graph.node) == len(model.graph.node) - 1
    assert np.array_equal(results(model, X), results(fixed, X))
    assert TensorProto.INT32 not in {t.data_type for t in fixed.graph.initializer}


# -- E6 and R10: axes ------------------------------------------------------------------------------

AXES = [("Conv", 0, {}), ("MatMul", 1, {}), ("Gemm", 1, {}), ("Gemm", 0, {"transB": 1})]


def weighted(op: str, data: Array, scales_of: int, written: int, **more: int) -> ModelProto:
    net = Net()
    x = net.input("x", ["n", 16, 8, 8] if op == "Conv" else ["n", 16])
    w = net.weight(data, scales_of, written=written)
    return net.model(net.node(op, net.pair(x), w, name="op", **more))


@pytest.mark.parametrize(("target", "rule"), [("tensorrt", "E6"), ("onnx", "R10")])
@pytest.mark.parametrize(("op", "right", "more"), AXES)
def test_a_wrong_axis_is_corrected_where_the_scales_are_those_of_the_right_one(
    op: str, right: int, more: dict[str, int], target: str, rule: str
) -> None:
    data = random(16, 16, 3, 3) if op == "Conv" else random(16, 16)
    data = data if right == 0 else np.swapaxes(data, 0, 1).copy()
    meant = weighted(op, data, right, right, **more)
    wrong = weighted(op, data, right, 1 - right, **more)
    if target == "onnx":
        for model in (meant, wrong):
            quantize_result(model)
    fixed = repaired(wrong, target, rule)
    x = X if op == "Conv" else X[0, :, 0, :1].T
    assert np.array_equal(results(fixed, x), results(meant, x))
    assert not np.array_equal(results(fixed, x), results(wrong, x))


def quantize_result(model: ModelProto) -> None:
    """Quantize and dequantize the output, as onnxruntime's integer Conv wants it."""
    y = model.graph.output[0].name
    shared = list(model.graph.node[0].input[1:])
    model.graph.node.append(helper.make_node("QuantizeLinear", [y, *shared], ["yq"], name="q"))
    model.graph.node.append(helper.make_node("DequantizeLinear", ["yq", *shared], ["z"], name="d"))
    model.graph.output[0].name = "z"


def test_scales_that_were_made_for_the_written_axis_are_made_anew() -> None:
    data = random(16, 16).T.copy()
    model = weighted("MatMul", data, 0, 0)
    (found,) = lint_model(model, "tensorrt").errors
    assert "quantize it along axis 1" in found.message
    fixed = repaired(model, "tensorrt", "E6")
    before = results(model, X[0, :, 0, :1].T), results(fixed, X[0, :, 0, :1].T)
    coarse = np.abs(data).max(axis=0).max() / 127
    assert np.abs(before[0] - before[1]).max() <= 16 * 6.35 * coarse / 2


def test_scales_that_fit_only_the_written_axis_are_made_anew() -> None:
    data = random(16, 24)
    model = weighted("MatMul", data, 0, 0)
    fixed = repaired(model, "tensorrt", "E6")
    stored = initializers(fixed)
    assert sorted(tuple(t.dims) for t in stored.values() if t.data_type == TensorProto.FLOAT) == [
        (),
        (),
        (24,),
    ]


def test_float_weights_behind_quantize_and_dequantize_are_corrected_too() -> None:
    def model(axis: int) -> ModelProto:
        net = Net()
        data = random(16, 16, 3, 3)
        _, scale = stored_weight(data, 0)
        w = net.pair(net.constant(data), scale, np.zeros(16, np.int8), axis=axis)
        return net.model(net.node("Conv", net.pair(net.input("x", ["n", 16, 8, 8])), w))

    fixed = repaired(model(1), "tensorrt", "E6")
    assert np.array_equal(results(fixed, X), results(model(0), X))


def test_a_weight_that_others_read_too_is_left_and_named() -> None:
    net = Net()
    w = net.weight(random(16, 16), 1, written=0)
    x = net.pair(net.input("x", ["n", 16]))
    y = net.node("MatMul", x, w)
    z = net.node("Gemm", x, w, transB=1)
    model = net.model(y, z)
    (found,) = lint_model(model, "tensorrt").errors
    assert (found.rule, found.fixable) == ("E6", False)


# -- E8 --------------------------------------------------------------------------------------------


def test_a_table_of_stored_values_is_dequantized_before_rows_are_gathered() -> None:
    net = Net()
    table = np.random.default_rng(0).integers(-128, 128, (100, 16)).astype(np.int8)
    rows = net.node("Gather", net.constant(table), net.input("i", [4], TensorProto.INT64))
    rows = net.dequantize(net.node("Reshape", rows, net.constant(np.array([2, 32]))), 0.1)
    model = net.model(net.node("Relu", rows))
    fixed = repaired(model, "tensorrt", "E8")
    ops = [node.op_type for node in fixed.graph.node]
    assert ops == ["DequantizeLinear", "Gather", "Reshape", "Relu"]
    i = np.array([7, 99, 0, 7])
    assert np.array_equal(results(model, i), results(fixed, i))


def test_a_table_with_scales_of_rows_is_left_and_named() -> None:
    net = Net()
    table = net.constant(np.ones((16, 4), np.int8))
    rows = net.node("Gather", table, net.input("i", [16], TensorProto.INT64))
    y = net.dequantize(rows, np.full(16, 0.1), np.zeros(16, np.int8), axis=0)
    assert fix_model(net.model(y), "tensorrt")[1] == ()


# -- E7, R4, W6, W8 --------------------------------------------------------------------------------


def test_quantize_of_com_microsoft_becomes_that_of_onnx() -> None:
    net = Net()
    x = net.input("x", ["n", 16, 8, 8])
    parameters = net.constant(np.float32(0.03)), net.constant(S0)
    q = net.node("com.microsoft.QuantizeLinear", x, *parameters)
    x = net.node("com.microsoft.DequantizeLinear", q, *parameters)
    y = net.node("Conv", x, good_weight(net))
    model = net.model(y)
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(y, TensorProto.FLOAT, ["n", 32, 6, 6])
    )
    fixed = repaired(model, "tensorrt", "E7")
    assert np.array_equal(results(model, X), results(fixed, X))


def test_a_bias_of_a_foreign_scale_becomes_float_for_onnxruntime() -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, U128)
    bias = net.dequantize(net.constant(np.arange(32, dtype=np.int32)), 0.3, np.int32(0))
    y = net.node("Conv", x, good_weight(net), bias)
    model = net.model(net.pair(y, 0.2, U128))
    fixed = repaired(model, "onnx", "R4")
    assert np.array_equal(results(model, X), results(fixed, X))


def test_small_uint8_constants_become_int8() -> None:
    def weight(net: Net) -> str:
        stored = np.arange(32 * 16 * 9, dtype=np.uint8).reshape(32, 16, 3, 3) % 128
        return net.dequantize(net.constant(stored), 0.01, U0)

    model = conv_of(good_activation, weight)
    fixed = repaired(model, "tensorrt", "W6")
    assert np.array_equal(results(model, X), results(fixed, X))


def test_every_node_gets_a_name_of_its_own() -> None:
    net = good_conv()
    for node in net.nodes[:3]:
        node.name = ""
    net.nodes[-1].name = net.nodes[-2].name = "twice"
    fixed = repaired(net.model("conv_y"), "tensorrt", "W8")
    names = [node.name for node in fixed.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


def test_models_that_onnxruntime_refuses_for_their_names_load_when_repaired() -> None:
    net = good_conv()
    net.nodes[1].name = net.nodes[0].name
    model = net.model("conv_y")
    with pytest.raises(Exception, match="same node name"):
        results(model, X)
    fixed = repaired(model, "onnx", "R13")
    assert results(fixed, X).shape == (2, 32, 6, 6)


# -- many at once, subgraphs, functions, external data ---------------------------------------------


def bad_everywhere() -> Net:
    """A Conv with several mistakes at once."""
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.03, U128)
    bias = net.dequantize(net.constant(np.arange(32, dtype=np.int32)), 0.01, np.int32(0), name="")
    stored, scale = stored_weight(random(32, 16, 3, 3), 0)
    stored[3], scale[3] = 0, 0
    shifted = (stored.astype(np.int16) + 128).astype(np.uint8)
    w = net.dequantize(net.constant(shifted), scale, np.full(32, 128, np.uint8), axis=0)
    net.node("Conv", x, w, bias, name="conv")
    return net


def test_several_mistakes_at_the_same_nodes_are_all_repaired() -> None:
    model = bad_everywhere().model("conv_y")
    fixed = repaired(model, "tensorrt", "E1", "E3", "E4")
    assert lint_model(fixed, "tensorrt").findings == ()
    assert np.array_equal(results(model, X), results(fixed, X))


def test_nodes_in_bodies_of_control_flow_are_found_and_repaired() -> None:
    inner = bad_everywhere()
    body = inner.model("conv_y").graph
    del body.input[:]
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], name="c", value_float=1.0)],
        "other",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
    )
    net = Net()
    net.input("x", ["n", 16, 8, 8])
    net.node("If", net.input("b", [], TensorProto.BOOL), name="if")
    for name, branch in (("then_branch", body), ("else_branch", other)):
        net.nodes[-1].attribute.append(helper.make_attribute(name, branch))
    model = net.model("if_y")
    fixed, applied = fix_model(model, "tensorrt")
    assert {f.rule for f in applied} == {"E1", "E3", "E4", "W8"}
    assert lint_model(fixed, "tensorrt").errors == ()
    feeds = {"x": X, "b": np.array(True)}
    assert np.array_equal(run(model, feeds)[0], run(fixed, feeds)[0])


def test_functions_are_looked_at_where_they_are_called() -> None:
    function = helper.make_function(
        "local",
        "Rounded",
        ["x", "s", "z"],
        ["y"],
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="d"),
        ],
        [helper.make_opsetid("", 21)],
    )
    net = Net()
    parameters = net.constant(np.float32(0.03)), net.constant(U128)
    x = net.node("local.Rounded", net.input("x", ["n", 16, 8, 8]), *parameters)
    model = net.model(net.node("Conv", x, good_weight(net)))
    model.functions.append(function)
    assert [f.rule for f in lint_model(model, "tensorrt").errors] == ["E1"]
    fixed, _ = fix_model(model, "tensorrt")
    assert lint_model(fixed, "tensorrt").errors == ()
    assert np.array_equal(results(model, X), results(fixed, X))


def test_external_data_are_read_beside_the_model(tmp_path: Path) -> None:
    model = bad_everywhere().model("conv_y")
    expected = results(model, X)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    fixed, applied = fix_model(path, "tensorrt")
    assert {f.rule for f in applied} >= {"E1", "E3", "E4"}
    onnx.load_external_data_for_model(fixed, str(tmp_path))
    assert np.array_equal(results(fixed, X), expected)
