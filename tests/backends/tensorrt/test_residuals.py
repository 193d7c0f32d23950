"""Skip connections: the skip is read in 8 bits, the branch whose kernel adds it in float."""

from __future__ import annotations

import pytest

from tests.backends.tensorrt.placements import SmallNet, check


def test_a_residual_without_downsampling_reads_its_skip_in_8_bits() -> None:
    net = SmallNet()
    stem = net.op("Relu", net.conv(net.image()))
    branch = net.conv(net.op("Relu", net.conv(stem)))
    joined = net.op("Relu", net.op("Add", branch, stem))
    check(
        net.graph(net.conv(joined)),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        conv2 = Conv(relu1:b, int8[0])
        relu2 = Relu(conv2)
        conv3 = Conv(relu2:c, int8[0])
        add1 = Add(conv3, relu1:b)
        relu3 = Relu(add1)
        conv4 = Conv(relu3:d, int8[0])
        return conv4
        """,
    )


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_convolutions_the_longer_branch_is_fused(swapped: bool) -> None:
    """Downsampling: the skip is a convolution, too, and comes first or second."""
    net = SmallNet()
    stem = net.op("Relu", net.conv(net.image()))
    longer = net.conv(net.op("Relu", net.conv(stem, strides=[2, 2])))
    skip = net.conv(stem, kernel=1, strides=[2, 2])
    operands = (skip, longer) if swapped else (longer, skip)
    joined = net.op("Relu", net.op("Add", *operands))
    add = "add1 = Add(conv4:d, conv3)" if swapped else "add1 = Add(conv3, conv4:d)"
    check(
        net.graph(net.conv(joined)),
        f"""
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        conv2 = Conv(relu1:b, int8[0])
        relu2 = Relu(conv2)
        conv3 = Conv(relu2:c, int8[0])
        conv4 = Conv(relu1:b, int8[0])
        {add}
        relu3 = Relu(add1)
        conv5 = Conv(relu3:e, int8[0])
        return conv5
        """,
    )


def test_of_branches_of_one_length_the_later_one_is_fused() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    first, second = net.conv(stem), net.conv(stem)
    check(
        net.graph(net.conv(net.op("Add", second, first))),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        conv3 = Conv(conv1:b, int8[0])
        add1 = Add(conv3, conv2:c)
        conv4 = Conv(add1:d, int8[0])
        return conv4
        """,
    )


def test_the_sum_is_the_skip_of_the_next_block() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    one = net.op("Add", net.conv(net.op("Relu", net.conv(stem))), stem)
    two = net.op("Add", one, net.conv(net.op("Relu", net.conv(one))))
    check(
        net.graph(net.conv(two)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        relu1 = Relu(conv2)
        conv3 = Conv(relu1:c, int8[0])
        add1 = Add(conv3, conv1:b)
        conv4 = Conv(add1:d, int8[0])
        relu2 = Relu(conv4)
        conv5 = Conv(relu2:e, int8[0])
        add2 = Add(add1:d, conv5)
        conv6 = Conv(add2:f, int8[0])
        return conv6
        """,
    )


def test_a_residual_is_found_through_silu() -> None:
    """The bottleneck of YOLO: Conv, Sigmoid and Mul, and a skip behind them."""
    net = SmallNet()

    def silu(x: str) -> str:
        return net.op("Mul", x, net.op("Sigmoid", x))

    stem = silu(net.conv(net.image()))
    branch = silu(net.conv(silu(net.conv(stem))))
    check(
        net.graph(net.conv(net.op("Add", stem, branch))),
        """
        conv1 = Conv(x:a, int8[0])
        sigmoid1 = Sigmoid(conv1)
        mul1 = Mul(conv1, sigmoid1)
        conv2 = Conv(mul1:b, int8[0])
        sigmoid2 = Sigmoid(conv2)
        mul2 = Mul(conv2, sigmoid2)
        conv3 = Conv(mul2:c, int8[0])
        sigmoid3 = Sigmoid(conv3)
        mul3 = Mul(conv3, sigmoid3)
        add1 = Add(mul1:b, mul3)
        conv4 = Conv(add1:d, int8[0])
        return conv4
        """,
    )


def test_what_the_caller_gives_is_no_skip() -> None:
    net = SmallNet()
    x = net.image()
    y = net.image("y")
    check(
        net.graph(net.conv(net.op("Add", net.conv(x), y))),
        """
        conv1 = Conv(x:a, int8[0])
        add1 = Add(conv1, y)
        conv2 = Conv(add1:b, int8[0])
        return conv2
        """,
    )


def test_the_sum_of_a_convolution_and_its_own_operand_from_the_caller_is_no_residual() -> None:
    net = SmallNet()
    x = net.image()
    check(
        net.graph(net.conv(net.op("Add", x, net.conv(x)))),
        """
        conv1 = Conv(x:a, int8[0])
        add1 = Add(x, conv1)
        conv2 = Conv(add1:b, int8[0])
        return conv2
        """,
    )


def test_a_transposed_convolution_adds_a_skip() -> None:
    net = SmallNet()
    x = net.image()
    skip = net.op("Relu", net.conv(x))
    small = net.op("Relu", net.conv(x, strides=[2, 2]))
    larger = net.op("ConvTranspose", small, net.normal(16, 16, 2, 2), strides=[2, 2])
    check(
        net.graph(net.conv(net.op("Add", larger, skip))),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        conv2 = Conv(x:a, int8[0])
        relu2 = Relu(conv2)
        convtranspose1 = ConvTranspose(relu2:b, int8[1])
        add1 = Add(convtranspose1, relu1:c)
        conv3 = Conv(add1:d, int8[0])
        return conv3
        """,
    )


def test_a_pyramid_adds_what_was_resized() -> None:
    """The Resize holds no kernel that could add, so the lateral convolution is fused."""
    net = SmallNet()
    x = net.image()
    lateral = net.conv(x, kernel=1)
    top = net.conv(x, strides=[2, 2])
    resized = net.op("Resize", top, None, net.scales(1, 1, 2, 2), mode="nearest")
    check(
        net.graph(net.conv(net.op("Add", resized, lateral))),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(x:a, int8[0])
        resize1 = Resize(conv2:b, _, float)
        add1 = Add(resize1:b, conv1)
        conv3 = Conv(add1:c, int8[0])
        return conv3
        """,
    )


def pyramid(mode: str) -> SmallNet:
    """A pyramid without lateral convolutions: what is resized was computed from the other image."""
    net = SmallNet()
    image = net.op("Relu", net.conv(net.image()))
    pooled = net.op("MaxPool", image, kernel_shape=[2, 2], strides=[2, 2])
    top = net.op("Relu", net.conv(pooled))
    resized = net.op("Resize", top, None, net.scales(1, 1, 2, 2), mode=mode)
    net.conv(net.op("Add", image, resized))
    net.conv(top)
    return net


def test_a_sum_of_two_images_that_layers_read_anyway_reads_both_in_8_bits() -> None:
    check(
        pyramid("nearest").graph("conv3", "conv4"),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        maxpool1 = MaxPool(relu1:b)
        conv2 = Conv(maxpool1:b, int8[0])
        relu2 = Relu(conv2)
        resize1 = Resize(relu2:c, _, float)
        add1 = Add(relu1:b, resize1:c)
        conv3 = Conv(add1:d, int8[0])
        conv4 = Conv(relu2:c, int8[0])
        return conv3, conv4
        """,
    )


def test_a_sum_with_an_image_that_was_computed_anew_stays_float() -> None:
    check(
        pyramid("linear").graph("conv3", "conv4"),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        maxpool1 = MaxPool(relu1:b)
        conv2 = Conv(maxpool1:b, int8[0])
        relu2 = Relu(conv2)
        resize1 = Resize(relu2, _, float)
        add1 = Add(relu1, resize1)
        conv3 = Conv(add1:c, int8[0])
        conv4 = Conv(relu2:d, int8[0])
        return conv3, conv4
        """,
    )


def test_a_sum_of_two_images_that_only_it_reads_stays_in_the_kernel_in_front() -> None:
    """Two functions of one convolution: all of it is one kernel."""
    net = SmallNet()
    stem = net.conv(net.image())
    joined = net.op("Add", net.op("Relu", stem), net.op("Sigmoid", stem))
    check(
        net.graph(net.conv(joined)),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        sigmoid1 = Sigmoid(conv1)
        add1 = Add(relu1, sigmoid1)
        conv2 = Conv(add1:b, int8[0])
        return conv2
        """,
    )


def test_a_branch_without_a_convolution_is_no_residual() -> None:
    """ConvNeXt: the branch ends in a matrix product, and the skip's convolution begins both."""
    net = SmallNet()
    stem = net.conv(net.image())
    last = net.op("Transpose", stem, perm=[0, 2, 3, 1])
    hidden = net.op("MatMul", last, net.normal(16, 32))
    branch = net.op("MatMul", net.op("Gelu", hidden), net.normal(32, 16))
    back = net.op("Transpose", branch, perm=[0, 3, 1, 2])
    check(
        net.graph(net.conv(net.op("Add", stem, back))),
        """
        conv1 = Conv(x:a, int8[0])
        transpose1 = Transpose(conv1:b)
        matmul1 = MatMul(transpose1:b, int8[1])
        gelu1 = Gelu(matmul1)
        matmul2 = MatMul(gelu1:c, int8[1])
        transpose2 = Transpose(matmul2)
        add1 = Add(conv1, transpose2)
        conv2 = Conv(add1:d, int8[0])
        return conv2
        """,
    )


def test_a_sum_that_is_broadcast_is_no_residual() -> None:
    net = SmallNet()
    stem = net.conv(net.image())
    small = net.conv(net.op("GlobalAveragePool", stem), kernel=1)
    check(
        net.graph(net.conv(net.op("Add", net.conv(stem), small))),
        """
        conv1 = Conv(x:a, int8[0])
        globalaveragepool1 = GlobalAveragePool(conv1:b)
        conv2 = Conv(globalaveragepool1:c, int8[0])
        conv3 = Conv(conv1:b, int8[0])
        add1 = Add(conv3, conv2)
        conv4 = Conv(add1:d, int8[0])
        return conv4
        """,
    )


def test_a_sum_whose_fused_layer_stays_float_stays_float() -> None:
    """The convolution of the branch has too few channels, so there is no kernel that could add."""
    net = SmallNet()
    stem = net.conv(net.image(), channels=8)
    branch = net.conv(net.op("Relu", net.conv(stem, channels=8, given=8)), channels=8, given=8)
    check(
        net.graph(net.conv(net.op("Add", stem, branch), given=8)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1, float)
        relu1 = Relu(conv2)
        conv3 = Conv(relu1, float)
        add1 = Add(conv1, conv3)
        conv4 = Conv(add1:b, int8[0])
        return conv4
        """,
    )


@pytest.mark.parametrize("skips", [True, False])
def test_a_normalization_reads_the_sum_as_the_next_skip_does(skips: bool) -> None:
    """The second form of ResNets; without a skip behind it all is one kernel's work."""
    net = SmallNet()
    stem = net.conv(net.image())
    first = net.op("Add", stem, net.conv(net.op("Relu", net.conv(stem))))
    relu = net.op("Relu", net.op("BatchNormalization", first, *net.statistics()))
    second = net.conv(relu)
    joined = net.op("Add", first, second) if skips else second
    sum_ = "add1:d" if skips else "add1"
    inner = "e" if skips else "d"
    last = """
        add2 = Add(add1:d, conv4)
        conv5 = Conv(add2:f, int8[0])
        """
    check(
        net.graph(net.conv(joined)),
        f"""
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        relu1 = Relu(conv2)
        conv3 = Conv(relu1:c, int8[0])
        add1 = Add(conv1:b, conv3)
        batchnormalization1_mul_1 = Mul({sum_}, float)
        batchnormalization1 = Add(batchnormalization1_mul_1, float)
        relu2 = Relu(batchnormalization1)
        conv4 = Conv(relu2:{inner}, int8[0])
        {last.strip() if skips else "conv5 = Conv(conv4:e, int8[0])"}
        return conv5
        """,
    )


def test_the_last_sum_of_a_model_reads_its_skip_in_8_bits() -> None:
    """Its result leaves the model as float; its kernel is the convolution's all the same."""
    net = SmallNet()
    stem = net.conv(net.image())
    check(
        net.graph(net.op("Add", net.conv(net.op("Relu", net.conv(stem))), stem)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        relu1 = Relu(conv2)
        conv3 = Conv(relu1:c, int8[0])
        add1 = Add(conv3, conv1:b)
        return add1
        """,
    )


def test_images_of_any_size_have_skips_and_gates() -> None:
    """Sizes behind a convolution are then not known, not even as equal to one another."""
    net = SmallNet()
    stem = net.op("Relu", net.conv(net.input("x", "n", 16, "h", "w"), strides=[2, 2]))
    joined = net.op("Add", net.conv(net.op("Relu", net.conv(stem))), stem)
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", joined), kernel=1))
    check(
        net.graph(net.conv(net.op("Mul", gate, joined))),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        conv2 = Conv(relu1:b, int8[0])
        relu2 = Relu(conv2)
        conv3 = Conv(relu2:c, int8[0])
        add1 = Add(conv3, relu1:b)
        globalaveragepool1 = GlobalAveragePool(add1:d)
        conv4 = Conv(globalaveragepool1:e, int8[0])
        sigmoid1 = Sigmoid(conv4)
        mul1 = Mul(sigmoid1, add1:d)
        conv5 = Conv(mul1:f, int8[0])
        return conv5
        """,
        {"n": 1, "h": 6, "w": 6},
    )
