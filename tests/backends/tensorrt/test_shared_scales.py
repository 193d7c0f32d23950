"""What moves values: pools, Concat, Resize and movement have one scale on both sides."""

from __future__ import annotations

import numpy as np

from tests.backends.tensorrt.placements import SmallNet, check


def test_a_max_pool_has_one_scale_on_both_sides() -> None:
    net = SmallNet()
    hidden = net.op("Relu", net.conv(net.image()))
    pooled = net.op("MaxPool", hidden, kernel_shape=[2, 2], strides=[2, 2])
    check(
        net.graph(net.conv(pooled)),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        maxpool1 = MaxPool(relu1:b)
        conv2 = Conv(maxpool1:b, int8[0])
        return conv2
        """,
    )


def test_an_average_pool_reads_8_bits_and_its_result_has_a_scale_of_its_own() -> None:
    net = SmallNet()
    hidden = net.op("Relu", net.conv(net.image()))
    pooled = net.op("AveragePool", hidden, kernel_shape=[2, 2], strides=[2, 2])
    check(
        net.graph(net.conv(pooled)),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        averagepool1 = AveragePool(relu1:b)
        conv2 = Conv(averagepool1:c, int8[0])
        return conv2
        """,
    )


def test_a_classifier_reads_8_bits_behind_its_global_pool() -> None:
    net = SmallNet()
    x = net.input("x", 2, 16, 6, 6)
    pooled = net.op("GlobalAveragePool", net.op("Relu", net.conv(x)))
    flat = net.op("Flatten", pooled)
    check(
        net.graph(net.op("Gemm", flat, net.normal(16, 10), net.normal(10))),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        globalaveragepool1 = GlobalAveragePool(relu1:b)
        flatten1 = Flatten(globalaveragepool1:c)
        gemm1 = Gemm(flatten1:c, int8[1], float)
        return gemm1
        """,
    )


def test_pools_whose_result_only_the_caller_reads_stay_float() -> None:
    net = SmallNet()
    hidden = net.conv(net.image())
    outputs = [
        net.op("MaxPool", hidden, kernel_shape=[2, 2]),
        net.op("AveragePool", hidden, kernel_shape=[2, 2]),
        net.op("GlobalAveragePool", hidden),
    ]
    check(
        net.graph(*outputs),
        """
        conv1 = Conv(x:a, int8[0])
        maxpool1 = MaxPool(conv1)
        averagepool1 = AveragePool(conv1)
        globalaveragepool1 = GlobalAveragePool(conv1)
        return maxpool1, averagepool1, globalaveragepool1
        """,
    )


def test_a_pool_that_no_quantized_layer_feeds_or_reads_stays_float() -> None:
    net = SmallNet()
    pooled = net.op("MaxPool", net.op("Exp", net.image()), kernel_shape=[2, 2])
    averaged = net.op("AveragePool", pooled, kernel_shape=[2, 2])
    check(
        net.graph(net.op("Exp", averaged)),
        """
        exp1 = Exp(x)
        maxpool1 = MaxPool(exp1)
        averagepool1 = AveragePool(maxpool1)
        exp2 = Exp(averagepool1)
        return exp2
        """,
    )


def test_a_max_pool_of_what_a_layer_reads_anyway_is_quantized() -> None:
    """Inception: the branch of the pool begins at the same value as those of convolutions."""
    net = SmallNet()
    x = net.image()
    pooled = net.op("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    check(
        net.graph(net.op("Concat", net.conv(x), net.conv(pooled, kernel=1), axis=1)),
        """
        maxpool1 = MaxPool(x:a)
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(maxpool1:a, int8[0])
        concat1 = Concat(conv1, conv2)
        return concat1
        """,
    )


# -- Concat ----------------------------------------------------------------------------------------


def test_a_concat_and_its_operands_have_one_scale() -> None:
    net = SmallNet()
    x = net.image()
    left, right = net.op("Relu", net.conv(x)), net.op("Sigmoid", net.conv(x))
    check(
        net.graph(net.conv(net.op("Concat", left, right, axis=1), given=32)),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        conv2 = Conv(x:a, int8[0])
        sigmoid1 = Sigmoid(conv2)
        concat1 = Concat(relu1:b, sigmoid1:b)
        conv3 = Conv(concat1:b, int8[0])
        return conv3
        """,
    )


def test_a_concat_that_only_float_nodes_read_stays_float() -> None:
    net = SmallNet()
    x = net.image()
    joined = net.op("Concat", net.conv(x), net.conv(x), axis=1)
    check(
        net.graph(joined, net.op("Softmax", joined, axis=1)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(x:a, int8[0])
        concat1 = Concat(conv1, conv2)
        softmax1 = Softmax(concat1)
        return concat1, softmax1
        """,
    )


def test_concats_that_share_an_operand_have_one_scale() -> None:
    """Dense blocks: what the first Concat joins, the second one joins with more."""
    net = SmallNet()
    first = net.conv(net.image())
    second = net.conv(first)
    third = net.conv(net.op("Concat", first, second, axis=1), given=32)
    joined = net.op("Concat", second, third, axis=1)
    check(
        net.graph(net.conv(joined, given=32)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        concat1 = Concat(conv1:b, conv2:b)
        conv3 = Conv(concat1:b, int8[0])
        concat2 = Concat(conv2:b, conv3:b)
        conv4 = Conv(concat2:b, int8[0])
        return conv4
        """,
    )


def test_concats_of_concats_have_one_scale() -> None:
    net = SmallNet()
    x = net.image()
    inner = net.op("Concat", net.conv(x), net.conv(x), axis=1)
    pooled = net.op("MaxPool", inner, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    outer = net.op("Concat", pooled, net.conv(x), axis=1)
    check(
        net.graph(net.conv(outer, given=48)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(x:a, int8[0])
        concat1 = Concat(conv1:b, conv2:b)
        maxpool1 = MaxPool(concat1:b)
        conv3 = Conv(x:a, int8[0])
        concat2 = Concat(maxpool1:b, conv3:b)
        conv4 = Conv(concat2:b, int8[0])
        return conv4
        """,
    )


def test_a_normalization_behind_a_concat_reads_8_bits() -> None:
    """DenseNet: nothing in front of the Concat could compute it, and its image is large."""
    net = SmallNet()
    stem = net.conv(net.image())
    joined = net.op("Concat", stem, net.conv(stem), axis=1)
    scaled = net.op("BatchNormalization", joined, *net.statistics(32))
    check(
        net.graph(net.conv(net.op("Relu", scaled), given=32)),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        concat1 = Concat(conv1:b, conv2:b)
        batchnormalization1_mul_1 = Mul(concat1:b, float)
        batchnormalization1 = Add(batchnormalization1_mul_1, float)
        relu1 = Relu(batchnormalization1)
        conv3 = Conv(relu1:c, int8[0])
        return conv3
        """,
    )


def test_boxes_that_are_joined_are_decoded_in_float() -> None:
    """Variances and anchors are no channels of an image."""
    net = SmallNet()
    x = net.image()
    boxes = [net.op("Reshape", net.conv(x), np.array([1, 144, 4])) for _ in range(2)]
    joined = net.op("Concat", *boxes, axis=1)
    variances = net.op("Mul", joined, net.normal(4))
    check(
        net.graph(net.op("Add", variances, net.normal(1, 288, 4))),
        """
        conv1 = Conv(x:a, int8[0])
        reshape1 = Reshape(conv1)
        conv2 = Conv(x:a, int8[0])
        reshape2 = Reshape(conv2)
        concat1 = Concat(reshape1, reshape2)
        mul1 = Mul(concat1, float)
        add1 = Add(mul1, float)
        return add1
        """,
    )


def test_an_operand_of_a_concat_that_the_caller_gives_takes_the_scale_too() -> None:
    net = SmallNet()
    x = net.image()
    check(
        net.graph(net.conv(net.op("Concat", x, net.conv(x), axis=1), given=32)),
        """
        conv1 = Conv(x:a, int8[0])
        concat1 = Concat(x:a, conv1:a)
        conv2 = Conv(concat1:a, int8[0])
        return conv2
        """,
    )


def test_a_channel_shuffle_has_one_scale() -> None:
    """ShuffleNet: Concat, Reshape, Transpose, Reshape, and half of the channels."""
    net = SmallNet()
    x = net.image()
    joined = net.op("Concat", net.conv(x), net.conv(x), axis=1)
    blocks = net.op("Reshape", joined, np.array([1, 2, 16, 6, 6]))
    shuffled = net.op("Transpose", blocks, perm=[0, 2, 1, 3, 4])
    half = net.op("Gather", shuffled, np.array([0, 1]), axis=2)
    back = net.op("Reshape", half, np.array([1, 32, 6, 6]))
    first, second = net.ops("Split", back, np.array([16, 16]), results=2, axis=1)
    check(
        net.graph(net.conv(first), second),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(x:a, int8[0])
        concat1 = Concat(conv1:b, conv2:b)
        reshape1 = Reshape(concat1:b)
        transpose1 = Transpose(reshape1:b)
        gather1 = Gather(transpose1:b)
        reshape2 = Reshape(gather1:b)
        split1, split1b = Split(reshape2:b)
        conv3 = Conv(split1:b, int8[0])
        return conv3, split1b
        """,
    )


# -- other movement --------------------------------------------------------------------------------


def test_a_nearest_resize_has_one_scale_on_both_sides() -> None:
    net = SmallNet()
    larger = net.op("Resize", net.conv(net.image()), None, net.scales(1, 1, 2, 2), mode="nearest")
    check(
        net.graph(net.conv(larger)),
        """
        conv1 = Conv(x:a, int8[0])
        resize1 = Resize(conv1:b, _, float)
        conv2 = Conv(resize1:b, int8[0])
        return conv2
        """,
    )


def test_a_linear_resize_computes_in_float() -> None:
    net = SmallNet()
    larger = net.op("Resize", net.conv(net.image()), None, net.scales(1, 1, 2, 2), mode="linear")
    check(
        net.graph(net.conv(larger)),
        """
        conv1 = Conv(x:a, int8[0])
        resize1 = Resize(conv1, _, float)
        conv2 = Conv(resize1:b, int8[0])
        return conv2
        """,
    )


def test_movement_that_the_caller_reads_stays_float() -> None:
    net = SmallNet()
    moved = net.op("Transpose", net.conv(net.image()), perm=[0, 2, 3, 1])
    check(
        net.graph(net.op("Reshape", moved, np.array([36, 16]))),
        """
        conv1 = Conv(x:a, int8[0])
        transpose1 = Transpose(conv1)
        reshape1 = Reshape(transpose1)
        return reshape1
        """,
    )


def test_movement_in_front_of_the_first_layer_stays_float() -> None:
    """The image is quantized once, where it is read, and not before it is transposed."""
    net = SmallNet()
    moved = net.op("Transpose", net.input("x", 1, 6, 6, 16), perm=[0, 3, 1, 2])
    check(
        net.graph(net.conv(moved)),
        """
        transpose1 = Transpose(x)
        conv1 = Conv(transpose1:a, int8[0])
        return conv1
        """,
    )


# -- gates -----------------------------------------------------------------------------------------


def test_squeeze_and_excitation_reads_the_gated_image_in_8_bits_and_the_gate_in_float() -> None:
    net = SmallNet()
    image = net.op("Relu", net.conv(net.image()))
    squeezed = net.op("Relu", net.conv(net.op("GlobalAveragePool", image), kernel=1))
    gate = net.op("Sigmoid", net.conv(squeezed, kernel=1))
    check(
        net.graph(net.conv(net.op("Mul", image, gate))),
        """
        conv1 = Conv(x:a, int8[0])
        relu1 = Relu(conv1)
        globalaveragepool1 = GlobalAveragePool(relu1:b)
        conv2 = Conv(globalaveragepool1:c, int8[0])
        relu2 = Relu(conv2)
        conv3 = Conv(relu2:d, int8[0])
        sigmoid1 = Sigmoid(conv3)
        mul1 = Mul(relu1:b, sigmoid1)
        conv4 = Conv(mul1:e, int8[0])
        return conv4
        """,
    )


def test_a_product_of_two_images_stays_float() -> None:
    net = SmallNet()
    x = net.image()
    check(
        net.graph(net.conv(net.op("Mul", net.conv(x), net.conv(x)))),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(x:a, int8[0])
        mul1 = Mul(conv1, conv2)
        conv3 = Conv(mul1:b, int8[0])
        return conv3
        """,
    )
