"""Models that TensorRT refuses or computes wrongly, one by one, named by the right rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from qcc.lint import lint_model
from tests.lint.models import INT8, UINT8, Net, good_conv, random, stored_weight

ERRORS = ("E1", "E2", "E3", "E4", "E5", "E6", "E7", "E8")


def errors(model: ModelProto) -> list[str]:
    """The ids of the errors, in order."""
    return [finding.rule for finding in lint_model(model, "tensorrt").errors]


def single(model: ModelProto) -> Any:
    """The only error of a model."""
    (finding,) = lint_model(model, "tensorrt").errors
    return finding


def conv_with(activation: Callable[[Net, str], str]) -> ModelProto:
    """A good Conv whose activation is quantized by a function of the net and the input."""
    net = Net()
    x = activation(net, net.input("x", ["n", 16, 8, 8]))
    return net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0), name="conv"))


def conv_of(weight: Callable[[Net], str], opset: int = 21) -> ModelProto:
    """A Conv over a good activation, with a weight made by a function of the net."""
    net = Net(opset)
    x = net.pair(net.input("x", ["n", 16, 8, 8]))
    return net.model(net.node("Conv", x, weight(net), name="conv"))


@pytest.mark.parametrize("opset", [13, 17, 19, 20, 21, 22, 23, 24, 25])
def test_a_good_conv_has_no_error_at_any_opset(opset: int) -> None:
    assert errors(good_conv(opset).model("conv_y")) == []


def test_a_good_conv_per_tensor_has_no_error_at_opset_10() -> None:
    assert errors(conv_of(lambda net: net.weight(random(32, 16, 3, 3), None), 10)) == []


@pytest.mark.parametrize("element", ["INT16", "UINT16", "UINT4", "FLOAT8E5M2"])
def test_stored_types_that_tensorrt_lacks_are_e1(element: str) -> None:
    code = TensorProto.DataType.Value(element)
    found = single(conv_with(lambda net, x: net.pair(x, 0.05, 0, element=code)))
    assert found.rule == "E1"
    assert "use int8" in found.message


def test_int4_activations_are_e1_and_int4_weights_are_not() -> None:
    code = TensorProto.INT4
    assert errors(conv_with(lambda net, x: net.pair(x, 0.05, 0, element=code))) == ["E1"]

    def weight(net: Net) -> str:
        data = net.constant(np.ones((32, 16, 3, 3)), "w4", code)
        return net.dequantize(data, 0.1, 0, element=code)

    assert errors(conv_of(weight)) == []


def test_fp8_is_silent() -> None:
    code = TensorProto.FLOAT8E4M3FN

    def weight(net: Net) -> str:
        data = net.constant(random(32, 16, 3, 3), "w8", code)
        return net.dequantize(data, np.full(32, 0.1), np.zeros(32), element=code, axis=0)

    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, 0, element=code)
    assert errors(net.model(net.node("Conv", x, weight(net)))) == []


@pytest.mark.parametrize("zero", [0, 128, 3])
def test_uint8_is_e1_and_named_once_for_a_pair(zero: int) -> None:
    found = single(conv_with(lambda net, x: net.pair(x, 0.05, np.uint8(zero))))
    assert (found.rule, found.fixable) == ("E1", True)
    assert "uint8" in found.message
    assert found.node.startswith("quantizelinear")


def test_uint8_weights_are_e1() -> None:
    def weight(net: Net) -> str:
        data = net.constant(np.arange(32 * 16 * 9, dtype=np.uint8).reshape(32, 16, 3, 3))
        return net.dequantize(data, 0.05, np.uint8(128))

    assert errors(conv_of(weight)) == ["E1"]


def test_output_dtype_uint8_is_e1_and_int8_is_silent() -> None:
    def activation(code: int) -> Callable[[Net, str], str]:
        return lambda net, x: net.dequantize(
            net.quantize(x, 0.05, None, output_dtype=code), 0.05, None
        )

    assert errors(conv_with(activation(UINT8))) == ["E1"]
    assert errors(conv_with(activation(INT8))) == []


def test_no_zero_point_is_e2() -> None:
    found = single(
        conv_with(lambda net, x: net.dequantize(net.quantize(x, 0.05, None), 0.05, None))
    )
    assert found.rule == "E2"
    assert "uint8 to ONNX and int8 to TensorRT" in found.message


def test_a_weight_whose_int8_type_is_clear_needs_no_zero_point() -> None:
    def weight(net: Net) -> str:
        stored, scale = stored_weight(random(32, 16, 3, 3), 0)
        return net.dequantize(net.constant(stored), scale, None, axis=0)

    assert errors(conv_of(weight)) == []


def test_a_zero_point_that_is_not_zero_is_e2() -> None:
    found = single(conv_with(lambda net, x: net.pair(x, 0.05, np.int8(-3))))
    assert (found.rule, found.node) == ("E2", "quantizelinear1")
    assert "-3" in found.message


def test_a_zero_point_that_is_computed_is_e2() -> None:
    net = Net()
    zero = net.input("z", [], INT8)
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, zero)
    model = net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0)))
    assert errors(model) == ["E2"]


@pytest.mark.parametrize("scale", [0.0, -0.5, np.nan, np.inf])
def test_scales_that_are_not_positive_and_finite_are_e3(scale: float) -> None:
    found = single(conv_with(lambda net, x: net.pair(x, scale)))
    assert (found.rule, found.fixable) == ("E3", False)
    assert f"{scale:g}" in found.message


def test_a_zero_among_the_scales_of_a_weight_is_e3() -> None:
    def weight(net: Net) -> str:
        data = random(32, 16, 3, 3)
        data[5] = 0
        stored, scale = stored_weight(np.where(data == 0, 1, data).astype(np.float32), 0)
        stored[5], scale[5] = 0, 0
        return net.dequantize(net.constant(stored), scale, np.zeros(32, np.int8), axis=0)

    found = single(conv_of(weight))
    assert (found.rule, found.fixable) == ("E3", True)
    assert "1 of its 32 scales" in found.message


def test_a_scale_that_is_an_input_is_e3() -> None:
    net = Net()
    scale = net.input("s", [])
    x = net.pair(net.input("x", ["n", 16, 8, 8]), scale)
    assert errors(net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0)))) == ["E3"]


def test_a_scale_that_is_computed_from_constants_is_e3() -> None:
    net = Net()
    halves = net.constant(np.float32(0.5)), net.constant(np.float32(0.1))
    x = net.pair(net.input("x", ["n", 16, 8, 8]), net.node("Mul", *halves))
    assert errors(net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0)))) == ["E3"]


def test_blocks_of_fp4_with_scales_in_fp8_are_silent() -> None:
    net = Net(23)
    code = TensorProto.FLOAT4E2M1
    scales = net.constant(np.ones((4, 32)), "scales", TensorProto.FLOAT8E4M3FN)
    scales = net.dequantize(scales, 0.5, None)
    w = net.dequantize(
        net.constant(np.ones((64, 32)), "w", code), scales, None, axis=0, block_size=16
    )
    assert errors(net.model(net.node("MatMul", net.input("x", ["n", 64]), w))) == []


@pytest.mark.parametrize("shape", [(), (1,)])
def test_scales_in_constant_nodes_and_behind_casts_are_constants(shape: tuple[int, ...]) -> None:
    net = Net()
    code = TensorProto.FLOAT
    given = np.full(shape, 0.05)
    net.node("Constant", name="k", value=_tensor(given))
    scale = net.node("Cast", "k_y", to=code)
    x = net.pair(net.input("x", ["n", 16, 8, 8]), scale, np.zeros(shape, np.int8))
    assert errors(net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0)))) == []


def _tensor(array: Any) -> TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.asarray(array))


def test_a_dequantized_int32_bias_is_e4() -> None:
    net = good_conv()
    bias = net.dequantize(net.constant(np.arange(32, dtype=np.int32)), 0.001, np.int32(0))
    net.nodes[-2].input[2] = bias
    net.nodes.insert(0, net.nodes.pop())
    found = single(net.model("conv_y"))
    assert (found.rule, found.fixable) == ("E4", True)
    assert "float32" in found.message


def test_scales_of_channels_on_an_activation_are_e5() -> None:
    found = single(
        conv_with(lambda net, x: net.pair(x, np.full(16, 0.05), np.zeros(16, np.int8), axis=1))
    )
    assert found.rule == "E5"
    assert "one scale" in found.message


def weighted(op: str, written: int | None, **attributes: int) -> ModelProto:
    """A weighted op whose weight has the right scales, and an axis that may be wrong."""
    net = Net()
    if op in ("Conv", "ConvTranspose"):
        x, data = net.input("x", ["n", 16, 8, 8]), random(16, 16, 3, 3)
        axis = 0 if op == "Conv" else 1
    else:
        x, data = net.input("x", ["n", 16]), random(16, 16)
        axis = 0 if attributes.get("transB") else 1
    w = net.weight(data, axis, written=written)
    return net.model(net.node(op, net.pair(x), w, name="op", **attributes))


AXES = [
    ("Conv", 0, {}),
    ("ConvTranspose", 1, {}),
    ("MatMul", 1, {}),
    ("Gemm", 1, {}),
    ("Gemm", 0, {"transB": 1}),
]


@pytest.mark.parametrize(("op", "right", "attributes"), AXES)
def test_the_axis_of_a_weight_is_that_of_the_output_channels(
    op: str, right: int, attributes: dict[str, int]
) -> None:
    assert errors(weighted(op, right, **attributes)) == []
    found = single(weighted(op, 1 - right, **attributes))
    assert (found.rule, found.fixable) == ("E6", True)
    assert f"write axis={right}" in found.message


def test_negative_axes_count_from_the_end() -> None:
    assert errors(weighted("MatMul", -1)) == []
    assert errors(weighted("MatMul", -2)) == ["E6"]


def test_an_axis_is_followed_through_a_transposition() -> None:
    def model(axis: int) -> ModelProto:
        net = Net()
        w = net.node("Transpose", net.weight(random(24, 24), 0, written=axis), perm=[1, 0])
        return net.model(net.node("MatMul", net.pair(net.input("x", ["n", 24])), w))

    assert errors(model(0)) == []
    assert errors(model(1)) == ["E6"]


def test_a_number_of_scales_that_fits_no_axis_is_e6_and_not_repaired() -> None:
    def weight(net: Net) -> str:
        stored, _ = stored_weight(random(32, 16, 3, 3), 0)
        return net.dequantize(net.constant(stored), np.full(7, 0.1), np.zeros(7, np.int8), axis=0)

    found = single(conv_of(weight))
    assert (found.rule, found.fixable) == ("E6", False)
    assert "7 scales" in found.message


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_of_an_int4_matrix_are_silent(axis: int) -> None:
    assert errors(blocked(np.ones((64, 64)), axis, 32)) == []


def test_blocks_whose_scales_do_not_fit_are_e6() -> None:
    found = single(blocked(np.ones((64, 64)), 0, 32, (3, 64)))
    assert found.rule == "E6"
    assert "[2, 64], not [3, 64]" in found.message


def test_blocks_on_more_than_a_matrix_are_e6() -> None:
    assert errors(blocked(np.ones((2, 64, 64)), 1, 32)) == ["E6"]


def blocked(data: Any, axis: int, size: int, shape: tuple[int, ...] | None = None) -> ModelProto:
    """A MatMul by an int4 weight of blocks."""
    code = TensorProto.INT4
    net = Net()
    expected = list(data.shape)
    expected[axis] = -(-expected[axis] // size)
    scales = np.full(shape or expected, 0.1)
    stored = net.constant(data, "w4", code)
    zeros = np.zeros(scales.shape)
    w = net.dequantize(stored, scales, zeros, element=code, axis=axis, block_size=size)
    return net.model(net.node("MatMul", net.input("x", ["n", data.shape[-2]]), w))


def test_integer_ops_are_e7() -> None:
    net = Net()
    x = net.input("x", ["n", 16])
    stored, scale = stored_weight(random(16, 8), None)
    q = net.quantize(x, 0.05, np.uint8(0))
    net.node("MatMulInteger", q, net.constant(stored), name="product")
    found = [
        f.node for f in lint_model(net.model("product_y"), "tensorrt").errors if f.rule == "E7"
    ]
    assert found == ["product"]
    net = Net()
    q = net.quantize(net.input("x", ["n", 16]))
    parameters = [net.constant(np.float32(0.1)), net.constant(np.int8(0))]
    w = [net.constant(stored), net.constant(scale), net.constant(np.int8(0))]
    net.node("QLinearMatMul", q, *parameters, *w, *parameters, name="product")
    assert errors(net.model("product_y")) == ["E7"]


def test_dynamic_quantization_is_e7_only() -> None:
    net = Net()
    net.nodes.append(_dynamic(net.input("x", ["n", 16])))
    x = net.dequantize("q", "s", "z")
    found = lint_model(net.model(x), "tensorrt").errors
    assert {f.rule for f in found} >= {"E7"}
    assert "E3" not in {f.rule for f in found}


def _dynamic(x: str) -> Any:
    from onnx import helper

    return helper.make_node("DynamicQuantizeLinear", [x], ["q", "s", "z"], name="dynamic")


def test_microsofts_quantize_is_e7_and_repaired() -> None:
    net = Net()
    x = net.input("x", ["n", 16, 8, 8])
    scale, zero = net.constant(np.float32(0.05)), net.constant(np.int8(0))
    q = net.node("com.microsoft.QuantizeLinear", x, scale, zero)
    x = net.node("com.microsoft.DequantizeLinear", q, scale, zero)
    model = net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0)))
    found = lint_model(model, "tensorrt").errors
    assert [(f.rule, f.fixable) for f in found] == [("E7", True), ("E7", True)]


def test_a_quantized_constant_that_is_gathered_is_e8() -> None:
    net = Net()
    table = net.constant(np.ones((100, 16), np.int8))
    rows = net.node("Gather", table, net.input("i", [4], TensorProto.INT64), name="rows")
    found = single(net.model(net.dequantize(rows)))
    assert (found.rule, found.node) == ("E8", "rows")
    net = Net()
    table = net.dequantize(net.constant(np.ones((100, 16), np.int8)))
    assert (
        errors(net.model(net.node("Gather", table, net.input("i", [4], TensorProto.INT64)))) == []
    )


def test_zero_points_may_come_through_identities() -> None:
    net = Net()
    zero = net.node("Identity", net.constant(np.int8(0)))
    x = net.pair(net.input("x", ["n", 16, 8, 8]), 0.05, zero)
    assert errors(net.model(net.node("Conv", x, net.weight(random(32, 16, 3, 3), 0)))) == []


# -- what TensorRT takes ---------------------------------------------------------------------------


def silent(model: ModelProto) -> bool:
    return lint_model(model, "tensorrt").findings == ()


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("element", [TensorProto.INT4, INT8])
def test_blocks_with_and_without_zero_points_are_silent(zeros: bool, element: int) -> None:
    net = Net()
    zero = np.zeros((2, 64)) if zeros else None
    stored = net.constant(np.ones((64, 64)), "w", element)
    scales = np.full((2, 64), 0.1)
    w = net.dequantize(stored, scales, zero, element=element, axis=0, block_size=32)
    assert silent(net.model(net.node("MatMul", net.input("x", ["n", 64]), w)))


def test_a_model_may_take_and_give_int8() -> None:
    net = Net()
    y = net.node("Relu", net.dequantize(net.input("x", ["n", 8], INT8)))
    assert silent(net.model(net.quantize(y)))


def test_float16_networks_are_silent_with_scales_of_either_type() -> None:
    net = Net()
    code = TensorProto.FLOAT16
    x = net.input("x", ["n", 16, 8, 8], code)
    half = net.constant(np.float16(0.05))
    a = net.dequantize(net.quantize(x, half), half)
    single_precision = net.quantize(net.node("Cast", x, to=TensorProto.FLOAT))
    b = net.node("Cast", net.dequantize(single_precision), to=code)
    stored, scale = stored_weight(random(32, 16, 3, 3), 0)
    zeros = np.zeros(32, np.int8)
    w = net.dequantize(net.constant(stored), net.constant(scale.astype(np.float16)), zeros, axis=0)
    v = net.node("Cast", net.dequantize(net.constant(stored), scale, zeros, axis=0), to=code)
    assert silent(net.model(net.node("Conv", a, w), net.node("Conv", b, v)))


def test_recurrences_with_dequantized_weights_are_silent() -> None:
    net = Net()
    w = net.dequantize(net.constant(np.ones((1, 32, 4), np.int8)))
    r = net.constant(random(1, 32, 8))
    y = net.node("LSTM", net.input("x", [5, 1, 4]), w, r, hidden_size=8)
    assert silent(net.model(y))


def test_dequantization_may_hide_the_weight_of_an_embedding() -> None:
    net = Net()
    table = net.dequantize(
        net.constant(np.ones((100, 16), np.int8)), np.full(100, 0.1), np.zeros(100, np.int8), axis=0
    )
    assert silent(net.model(net.node("Gather", table, net.input("i", [4], TensorProto.INT64))))


@pytest.mark.parametrize("op", ["ConvInteger", "com.microsoft.QLinearAdd", "com.microsoft.QGemm"])
def test_every_integer_op_is_e7(op: str) -> None:
    net = Net()
    x = net.input("x", ["n", 16, 8, 8], INT8)
    net.node(op, x, net.constant(np.ones((4, 16, 3, 3), np.int8)), name="integer")
    assert [(f.rule, f.node) for f in lint_model(net.model("integer_y"), "tensorrt").errors] == [
        ("E7", "integer")
    ]
