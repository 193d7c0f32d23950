"""Layers with weights: what they read, what stands between them, and which are too small."""

from __future__ import annotations

import pytest

from tests.backends.tensorrt.placements import SmallNet, check, placement


def test_a_bias_behind_a_product_stays_float() -> None:
    net = SmallNet()
    first = net.op("MatMul", net.input("x", 2, 8, 16), net.normal(16, 32))
    hidden = net.op("Relu", net.op("Add", first, net.normal(32)))
    check(
        net.graph(net.op("Add", net.normal(16), net.op("MatMul", hidden, net.normal(32, 16)))),
        """
        matmul1 = MatMul(x:a, int8[1])
        add1 = Add(matmul1, float)
        relu1 = Relu(add1)
        matmul2 = MatMul(relu1:b, int8[1])
        add2 = Add(float, matmul2)
        return add2
        """,
    )


def test_a_bias_behind_the_product_of_two_matrices_becomes_its_own() -> None:
    net = SmallNet()
    first = net.op("MatMul", net.input("x", 8, 16), net.normal(16, 32))
    check(
        net.graph(net.op("Add", first, net.normal(32))),
        """
        add1 = Gemm(x:a, int8[1], float)
        return add1
        """,
    )


def test_a_bias_behind_a_convolution_becomes_its_own_and_stays_float() -> None:
    net = SmallNet()
    biased = net.op("Add", net.conv(net.image()), net.normal(1, 16, 1, 1))
    check(
        net.graph(net.conv(net.op("Relu", biased), bias=True)),
        """
        conv1 = Conv(x:a, int8[0], float)
        relu1 = Relu(conv1)
        conv2 = Conv(relu1:b, int8[0], float)
        return conv2
        """,
    )


def test_normalization_sigmoid_and_mul_belong_to_the_convolution() -> None:
    net = SmallNet()
    parameters = [net.normal(16), net.normal(16), net.normal(16), abs(net.normal(16)) + 0.5]
    scaled = net.op("BatchNormalization", net.conv(net.image()), *parameters)
    silu = net.op("Mul", scaled, net.op("Sigmoid", scaled))
    check(
        net.graph(net.conv(silu)),
        """
        conv1 = Conv(x:a, int8[0], float)
        sigmoid1 = Sigmoid(conv1)
        mul1 = Mul(conv1, sigmoid1)
        conv2 = Conv(mul1:b, int8[0])
        return conv2
        """,
    )


@pytest.mark.parametrize(
    "activation", ["Relu", "LeakyRelu", "Elu", "HardSwish", "Tanh", "Sigmoid", "Mish"]
)
def test_activations_are_computed_in_float_in_front_of_the_quantization(activation: str) -> None:
    net = SmallNet()
    hidden = net.op(activation, net.conv(net.image()))
    name = activation.lower()
    check(
        net.graph(net.conv(hidden)),
        f"""
        conv1 = Conv(x:a, int8[0])
        {name}1 = {activation}(conv1)
        conv2 = Conv({name}1:b, int8[0])
        return conv2
        """,
    )


def test_two_layers_that_read_one_value_share_its_dequantize() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    check(
        net.graph(net.conv(stem), net.conv(stem)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        conv3 = Conv(conv1:b, int8[0])
        return conv2, conv3
        """,
    )


def test_float_readers_and_the_caller_get_the_float_value() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    check(
        net.graph(stem, net.conv(stem), net.op("Softmax", stem, axis=1)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        softmax1 = Softmax(conv1)
        return conv1, conv2, softmax1
        """,
    )


def test_a_clip_that_the_caller_reads_stays_where_storage_would_imply_it() -> None:
    """The quantization clamps more than this Clip does, but the caller reads in front of it."""
    net = SmallNet()
    clipped = net.op("Clip", net.conv(net.image()), -1e4, 1e4)
    check(
        net.graph(clipped, net.conv(clipped)),
        """
        conv1 = Conv(x:a, int8[0])
        clip1 = Clip(conv1, float, float)
        conv2 = Conv(clip1:b, int8[0])
        return clip1, conv2
        """,
    )


def test_weights_of_transposed_convolutions_have_a_scale_for_each_output_of_a_group() -> None:
    net = SmallNet()
    up = net.op("ConvTranspose", net.image(), net.normal(16, 8, 2, 2), group=2, strides=[2, 2])
    check(
        net.graph(net.conv(net.op("Relu", up))),
        """
        convtranspose1 = ConvTranspose(x:a, int8[1])
        relu1 = Relu(convtranspose1)
        conv1 = Conv(relu1:b, int8[0])
        return conv1
        """,
    )


def test_gemm_weights_have_a_scale_for_each_output() -> None:
    net = SmallNet()
    x = net.input("x", 8, 16)
    plain = net.op("Gemm", x, net.normal(16, 32), net.normal(32))
    check(
        net.graph(net.op("Gemm", net.op("Relu", plain), net.normal(24, 32), transB=1)),
        """
        gemm1 = Gemm(x:a, int8[1], float)
        relu1 = Relu(gemm1)
        gemm2 = Gemm(relu1:b, int8[0])
        return gemm2
        """,
    )


# -- products with a vector ------------------------------------------------------------------------


def test_a_product_for_one_row_stays_float() -> None:
    net = SmallNet()
    hidden = net.op("Gemm", net.input("x", 1, 16), net.normal(16, 32), net.normal(32))
    check(
        net.graph(net.op("MatMul", net.op("Relu", hidden), net.normal(32, 16))),
        """
        gemm1 = Gemm(x, float, float)
        relu1 = Relu(gemm1)
        matmul1 = MatMul(relu1, float)
        return matmul1
        """,
    )


def test_a_product_with_one_column_stays_float() -> None:
    net = SmallNet()
    hidden = net.op("MatMul", net.input("x", 8, 16), net.normal(16, 32))
    check(
        net.graph(net.op("MatMul", hidden, net.normal(32, 1))),
        """
        matmul1 = MatMul(x:a, int8[1])
        matmul2 = MatMul(matmul1, float)
        return matmul2
        """,
    )


def test_a_vector_alone_stays_float() -> None:
    net = SmallNet()
    check(
        net.graph(net.op("MatMul", net.input("x", 16), net.normal(16, 32))),
        """
        matmul1 = MatMul(x, float)
        return matmul1
        """,
    )


def test_a_batch_without_a_size_is_no_vector() -> None:
    net = SmallNet()
    hidden = net.op("Gemm", net.input("x", "batch", 16), net.normal(16, 32), net.normal(32))
    check(
        net.graph(hidden),
        """
        gemm1 = Gemm(x:a, int8[1], float)
        return gemm1
        """,
        {"batch": 3},
    )


def test_a_product_over_a_sequence_is_no_vector() -> None:
    net = SmallNet()
    check(
        net.graph(net.op("MatMul", net.input("x", 1, 8, 16), net.normal(16, 32))),
        """
        matmul1 = MatMul(x:a, int8[1])
        return matmul1
        """,
    )


# -- channels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "channels", "kernel", "group", "wanted"),
    [
        (16, 16, 3, 1, True),
        (8, 16, 3, 1, True),
        (12, 16, 3, 1, True),
        (16, 12, 1, 1, True),
        (17, 12, 3, 1, False),
        (8, 8, 3, 1, False),
        (16, 16, 3, 16, True),
        (16, 16, 1, 16, False),
        (12, 12, 3, 12, False),
        (32, 32, 3, 4, True),
        (32, 32, 1, 4, False),
        (32, 32, 1, 2, True),
    ],
)
def test_narrow_convolutions_stay_float(
    given: int, channels: int, kernel: int, group: int, wanted: bool
) -> None:
    net = SmallNet()
    stem = net.conv(net.image(), channels=given)
    last = net.conv(stem, channels, given, kernel, group=group)
    text = placement(net.graph(last))
    assert ("conv2 = Conv(conv1:b, int8[0])" in text) == wanted
    assert ("conv2 = Conv(conv1, float)" in text) != wanted


def test_narrow_convolutions_with_windows_that_are_not_square_stay_float() -> None:
    net = SmallNet()
    stem = net.conv(net.image(), channels=8)
    wide = net.op("Conv", stem, net.normal(16, 8, 1, 3), pads=[0, 1, 0, 1])
    check(
        net.graph(wide),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1, float)
        return conv2
        """,
    )


@pytest.mark.parametrize(("channels", "wanted"), [(16, True), (8, True), (12, False), (6, False)])
def test_the_first_layer_may_be_narrow(channels: int, wanted: bool) -> None:
    net = SmallNet()
    last = net.conv(net.image(channels=3), channels, 3)
    operands = "x:a, int8[0]" if wanted else "x, float"
    assert placement(net.graph(last)) == f"conv1 = Conv({operands})\nreturn conv1"


def test_the_first_layer_is_found_behind_a_transposition() -> None:
    """A model that takes images with their channels last."""
    net = SmallNet()
    x = net.op("Transpose", net.input("x", 1, 6, 6, 3), perm=[0, 3, 1, 2])
    check(
        net.graph(net.conv(x, 8, 3)),
        """
        transpose1 = Transpose(x)
        conv1 = Conv(transpose1:a, int8[0])
        return conv1
        """,
    )
