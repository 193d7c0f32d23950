"""What TensorRT computes in float or rounds twice: each rule with bad models and good ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from qcc.lint import Finding, lint_model
from tests.lint.models import Net, good_conv, random


def warnings(model: ModelProto) -> list[str]:
    """The ids of the warnings; the model must have no error."""
    report = lint_model(model, "tensorrt")
    assert report.errors == ()
    return [finding.rule for finding in report.warnings]


def single(model: ModelProto) -> Finding:
    """The only finding of a model."""
    (finding,) = lint_model(model, "tensorrt").findings
    return finding


def conv(net: Net, x: str, name: str, channels: int = 16, size: int = 3) -> str:
    """A quantized Conv of a quantized activation."""
    pads = [size // 2] * 4
    w = net.weight(random(channels, 16, size, size), 0)
    return net.node("Conv", x, w, net.constant(random(channels)), name=name, pads=pads)


def test_a_good_conv_is_silent() -> None:
    assert warnings(good_conv().model("conv_y")) == []


# -- W1 --------------------------------------------------------------------------------------------


def test_a_float_weight_under_a_quantized_activation_is_w1() -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16]))
    found = single(net.model(net.node("MatMul", x, net.constant(random(16, 32)), name="product")))
    assert (found.rule, found.node) == ("W1", "product")
    assert "quantize the weight too" in found.message


def test_an_int8_weight_alone_is_w1_and_said_to_be_legal() -> None:
    net = Net()
    w = net.weight(random(16, 32), 1)
    found = single(net.model(net.node("MatMul", net.input("x", ["n", 16]), w)))
    assert found.rule == "W1"
    assert "legal" in found.message


@pytest.mark.parametrize("element", ["FLOAT8E4M3FN", "INT4"])
def test_weights_of_fp8_and_int4_alone_are_silent(element: str) -> None:
    code = TensorProto.DataType.Value(element)
    net = Net()
    stored = net.constant(np.ones((16, 32)), "w", code)
    w = net.dequantize(stored, np.full(32, 0.1), np.zeros(32), element=code, axis=1)
    assert warnings(net.model(net.node("MatMul", net.input("x", ["n", 16]), w))) == []


def test_one_of_two_activations_quantized_is_w1_and_float_ops_are_silent() -> None:
    def model(first: bool, second: bool) -> ModelProto:
        net = Net()
        a, b = net.input("a", ["n", 4, 16]), net.input("b", ["n", 16, 8])
        a, b = net.pair(a) if first else a, net.pair(b) if second else b
        return net.model(net.node("MatMul", a, b))

    assert warnings(model(True, False)) == ["W1"]
    assert warnings(model(False, True)) == ["W1"]
    assert warnings(model(True, True)) == []
    assert warnings(model(False, False)) == []


def test_quantization_is_seen_through_ops_that_move_values() -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8]))
    x = net.node("Transpose", x, perm=[0, 2, 1])
    w = net.node("Transpose", net.weight(random(32, 16), 0), perm=[1, 0])
    assert warnings(net.model(net.node("MatMul", x, w))) == []


# -- W2 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "HardSwish", "LeakyRelu"])
def test_quantization_between_conv_and_activation_is_w2(activation: str) -> None:
    net = good_conv()
    y = net.node(activation, net.pair("conv_y"), name="after")
    found = single(net.model(y))
    assert found.rule == "W2"
    assert "'after'" in found.message
    net = good_conv()
    assert warnings(net.model(net.pair(net.node(activation, "conv_y")))) == []


def test_quantization_in_front_of_batch_normalization_is_w2() -> None:
    net = good_conv()
    parameters = [net.constant(np.ones(32, np.float32)) for _ in range(4)]
    y = net.node("BatchNormalization", net.pair("conv_y"), *parameters)
    assert warnings(net.model(y)) == ["W2"]


def test_quantization_behind_the_bias_of_a_product_is_still_in_front_of_its_activation() -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16]))
    y = net.node("MatMul", x, net.weight(random(16, 32), 1))
    y = net.node("Add", y, net.constant(random(32)))
    assert warnings(net.model(net.node("Relu", net.pair(y)))) == ["W2"]


# -- W3 --------------------------------------------------------------------------------------------


def residual(skip: bool, branch: bool, downsample: bool = False) -> ModelProto:
    """A block with a skip connection, of which either operand may be quantized at the Add."""
    net = Net()
    x = net.node("Relu", conv(net, net.pair(net.input("x", ["n", 16, 8, 8])), "stem"))
    q = net.pair(x)
    y = net.node("Relu", conv(net, q, "conv1"))
    y = conv(net, net.pair(y), "conv2")
    left = conv(net, q, "conv0", size=1) if downsample else x
    if skip:
        left = net.pair(left) if downsample else q
    y = net.node("Add", net.pair(y) if branch else y, left, name="add")
    return net.model(net.pair(net.node("Relu", y)))


@pytest.mark.parametrize("downsample", [False, True])
def test_a_skip_connection_wants_its_skip_quantized_only(downsample: bool) -> None:
    assert warnings(residual(True, False, downsample)) == []
    assert "'add'" not in single(residual(False, False, downsample)).message
    assert single(residual(False, False, downsample)).node == "add"
    assert "quantize the skip operand" in single(residual(False, False, downsample)).message
    assert "leave 'conv2_y'" in single(residual(False, False, downsample)).message
    both = single(residual(True, True, downsample))
    assert (both.rule, both.node) == ("W3", "add")
    assert "without Q/DQ" in both.message


def test_the_branch_in_place_of_the_skip_is_w3() -> None:
    found = single(residual(False, True))
    assert found.rule == "W3"
    assert "instead" in found.message


def test_either_operand_may_be_the_skip_where_both_come_out_of_convolutions() -> None:
    assert warnings(residual(False, True, downsample=True)) == []


def test_adds_of_constants_inputs_and_float_layers_are_no_skip_connections() -> None:
    net = good_conv()
    assert warnings(net.model(net.node("Add", "conv_y", net.constant(random(32, 1, 1))))) == []
    net = good_conv()
    assert warnings(net.model(net.node("Add", "conv_y", net.input("s", ["n", 32, 6, 6])))) == []
    net = Net()
    x = net.node("Relu", net.input("x", ["n", 16, 8, 8]))
    y = net.node("Conv", x, net.constant(random(16, 16, 1, 1)))
    assert warnings(net.model(net.node("Add", x, y))) == []


def test_an_add_whose_convolution_feeds_both_operands_is_no_skip_connection() -> None:
    net = good_conv()
    y = net.node("Softmax", "conv_y")
    assert warnings(net.model(net.node("Add", "conv_y", y))) == []


# -- W4 --------------------------------------------------------------------------------------------


def concat(*scales: float, result: float) -> ModelProto:
    net = Net()
    x = [net.pair(net.input(f"x{i}", ["n", 16, 8, 8]), s) for i, s in enumerate(scales)]
    return net.model(net.pair(net.node("Concat", *x, name="join", axis=1), result))


def test_a_concatenation_of_several_scales_is_w4() -> None:
    assert warnings(concat(0.05, 0.05, result=0.05)) == []
    found = single(concat(0.05, 0.1, result=0.1))
    assert (found.rule, found.node) == ("W4", "join")
    assert "2 scales (0.05, 0.1)" in found.message
    assert warnings(concat(0.05, 0.05, result=0.1)) == ["W4"]


def test_a_concatenation_of_floats_may_have_any_scale_behind_it() -> None:
    net = Net()
    x = [net.pair(net.input("x0", ["n", 16, 8, 8]), 0.05), net.input("x1", ["n", 16, 8, 8])]
    assert warnings(net.model(net.pair(net.node("Concat", *x, axis=1), 0.1))) == []


# -- W5 --------------------------------------------------------------------------------------------


def attention(quantized: str) -> ModelProto:
    """Attention with scale and mask; ``quantized`` names operands: q, k, p (probabilities), v."""
    net = Net()
    q, k, v = (net.input(name, ["n", 4, 32, 16]) for name in "qkv")
    q = net.pair(q) if "q" in quantized else q
    k = net.pair(k) if "k" in quantized else k
    k = net.node("Transpose", k, perm=[0, 1, 3, 2])
    scores = net.node("MatMul", q, k, name="scores")
    scores = net.node("Div", scores, net.constant(np.float32(4)))
    scores = net.node("Add", scores, net.input("mask", ["n", 1, 1, 32]))
    p = net.node("Softmax", scores, name="softmax")
    p = net.pair(p, 1 / 127) if "p" in quantized else p
    return net.model(net.node("MatMul", p, net.pair(v) if "v" in quantized else v, name="context"))


@pytest.mark.parametrize("quantized", ["q", "qk", "v", "pv", "qkv", "p"])
def test_attention_that_is_quantized_in_part_is_w5(quantized: str) -> None:
    found = single(attention(quantized))
    assert (found.rule, found.node) == ("W5", "scores")
    assert f"{len(quantized)} of the 4 operands" in found.message


@pytest.mark.parametrize("quantized", ["", "qkpv"])
def test_attention_that_is_quantized_whole_or_not_at_all_is_silent(quantized: str) -> None:
    assert warnings(attention(quantized)) == []


# -- W6 --------------------------------------------------------------------------------------------


def test_uint8_constants_that_int8_holds_are_w6_and_repaired() -> None:
    net = Net()
    x = net.pair(net.input("x", ["n", 16, 8, 8]))
    stored = net.constant(np.arange(32 * 16 * 9, dtype=np.uint8).reshape(32, 16, 3, 3) % 128)
    w = net.dequantize(stored, 0.01, np.uint8(0))
    found = single(net.model(net.node("Conv", x, w)))
    assert (found.rule, found.fixable) == ("W6", True)


# -- W7 --------------------------------------------------------------------------------------------


def sized(
    outputs: int, inputs: int, size: tuple[int, int], group: int = 1, first: bool = True
) -> ModelProto:
    """A Conv of some sizes, at the input or behind another op; quantized."""
    net = Net()
    x = net.input("x", ["n", inputs * group, 9, 9])
    x = x if first else net.node("Relu", x)
    w = net.weight(random(outputs, inputs, *size), 0)
    return net.model(net.node("Conv", net.pair(x), w, name="conv", group=group))


@pytest.mark.parametrize(
    ("sizes", "small"),
    [
        ((16, 16, (3, 3)), False),
        ((32, 3, (3, 3)), False),
        ((8, 3, (3, 3)), False),
        ((10, 3, (3, 3)), True),
        ((32, 3, (3, 1)), True),
        ((8, 8, (3, 3), 1, False), True),
        ((16, 8, (3, 3), 1, False), False),
        ((32, 1, (3, 3), 32), False),
        ((12, 1, (3, 3), 12), True),
        ((32, 1, (1, 1), 32), True),
        ((32, 16, (1, 1), 2), False),
    ],
)
def test_convolutions_with_few_channels_are_w7(sizes: tuple[Any, ...], small: bool) -> None:
    assert warnings(sized(*sizes)) == (["W7"] if small else [])


def test_small_convolutions_that_stay_float_are_silent() -> None:
    net = Net()
    w = net.constant(random(10, 3, 3, 3))
    assert warnings(net.model(net.node("Conv", net.input("x", ["n", 3, 8, 8]), w))) == []


@pytest.mark.parametrize(
    ("rows", "columns", "small"), [(1, 32, True), (8, 1, True), (8, 32, False)]
)
def test_products_of_matrix_and_vector_are_w7(rows: int, columns: int, small: bool) -> None:
    net = Net()
    x = net.pair(net.input("x", [rows, 16]))
    model = net.model(net.node("MatMul", x, net.weight(random(16, columns), 1)))
    assert warnings(model) == (["W7"] if small else [])


# -- W8 --------------------------------------------------------------------------------------------


def test_nodes_without_a_name_are_w8_once() -> None:
    net = good_conv()
    net.nodes[0].name = net.nodes[1].name = ""
    found = single(net.model("conv_y"))
    assert (found.rule, found.fixable) == ("W8", True)
    assert found.node == "QuantizeLinear (output 'quantizelinear1_y')"
    assert "1 other node" in found.message


def test_nodes_of_one_name_are_w8_for_each_name() -> None:
    net = good_conv()
    net.nodes[1].name = net.nodes[0].name
    found = single(net.model("conv_y"))
    assert found.rule == "W8"
    assert "2 nodes are called 'quantizelinear1'" in found.message
