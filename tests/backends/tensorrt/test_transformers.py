"""Transformers: projections multiply integers; attention, normalizations and sums stay float."""

from __future__ import annotations

import numpy as np

from tests.backends.tensorrt.placements import SmallNet, check

WIDTH, HEADS, TOKENS = 16, 2, 4


def linear(net: SmallNet, x: str, given: int = WIDTH, width: int = WIDTH) -> str:
    return net.op("Add", net.op("MatMul", x, net.normal(given, width)), net.normal(width))


def heads(net: SmallNet, x: str, perm: list[int]) -> str:
    shape = np.array([1, TOKENS, HEADS, WIDTH // HEADS])
    return net.op("Transpose", net.op("Reshape", x, shape), perm=perm)


def norm(net: SmallNet, x: str) -> str:
    return net.op("LayerNormalization", x, net.normal(WIDTH), net.normal(WIDTH), axis=-1)


def test_a_transformer_block_quantizes_its_projections_and_nothing_else() -> None:
    net = SmallNet()
    x, mask = net.input("x", 1, TOKENS, WIDTH), net.input("mask", 1, 1, 1, TOKENS)
    queries = heads(net, linear(net, x), [0, 2, 1, 3])
    keys = heads(net, linear(net, x), [0, 2, 3, 1])
    values = heads(net, linear(net, x), [0, 2, 1, 3])
    scores = net.op("Add", net.op("MatMul", queries, keys), mask)
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), values)
    joined = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = net.op("Reshape", joined, np.array([1, TOKENS, WIDTH]))
    middle = norm(net, net.op("Add", linear(net, joined), x))
    hidden = net.op("Gelu", linear(net, middle, WIDTH, 2 * WIDTH))
    last = norm(net, net.op("Add", linear(net, hidden, 2 * WIDTH), middle))
    check(
        net.graph(last),
        """
        matmul1 = MatMul(x:a, int8[1])
        add1 = Add(matmul1, float)
        reshape1 = Reshape(add1)
        transpose1 = Transpose(reshape1)
        matmul2 = MatMul(x:a, int8[1])
        add2 = Add(matmul2, float)
        reshape2 = Reshape(add2)
        transpose2 = Transpose(reshape2)
        matmul3 = MatMul(x:a, int8[1])
        add3 = Add(matmul3, float)
        reshape3 = Reshape(add3)
        transpose3 = Transpose(reshape3)
        matmul4 = MatMul(transpose1, transpose2)
        add4 = Add(matmul4, mask)
        softmax1 = Softmax(add4)
        matmul5 = MatMul(softmax1, transpose3)
        transpose4 = Transpose(matmul5)
        reshape4 = Reshape(transpose4)
        matmul6 = MatMul(reshape4:b, int8[1])
        add5 = Add(matmul6, float)
        add6 = Add(add5, x)
        layernormalization1 = LayerNormalization(add6, float, float)
        matmul7 = MatMul(layernormalization1:c, int8[1])
        add7 = Add(matmul7, float)
        gelu1 = Gelu(add7)
        matmul8 = MatMul(gelu1:d, int8[1])
        add8 = Add(matmul8, float)
        add9 = Add(add8, layernormalization1)
        layernormalization2 = LayerNormalization(add9, float, float)
        return layernormalization2
        """,
    )


def test_attention_of_images_stays_float_between_its_convolutions() -> None:
    """Attention over pixels, as detectors have it: Reshape and MatMul of what a Conv gives."""
    net = SmallNet()
    shape = np.array([1, 1, WIDTH, 36])
    queries, keys, values = (net.op("Reshape", net.conv(net.image(n)), shape) for n in "xyz")
    scores = net.op("MatMul", net.op("Transpose", queries, perm=[0, 1, 3, 2]), keys)
    mixed = net.op("MatMul", values, net.op("Softmax", scores, axis=-1))
    back = net.op("Reshape", mixed, np.array([1, WIDTH, 6, 6]))
    check(
        net.graph(net.conv(back)),
        """
        conv1 = Conv(x:a, int8[0])
        reshape1 = Reshape(conv1)
        conv2 = Conv(y:b, int8[0])
        reshape2 = Reshape(conv2)
        conv3 = Conv(z:c, int8[0])
        reshape3 = Reshape(conv3)
        transpose1 = Transpose(reshape1)
        matmul1 = MatMul(transpose1, reshape2)
        softmax1 = Softmax(matmul1)
        matmul2 = MatMul(reshape3, softmax1)
        reshape4 = Reshape(matmul2)
        conv4 = Conv(reshape4:d, int8[0])
        return conv4
        """,
    )


def test_a_normalization_behind_a_convolution_reads_8_bits() -> None:
    """ConvNeXt: a depthwise convolution, its channels moved last, and a normalization."""
    net = SmallNet()
    stem = net.conv(net.image())
    deep = net.conv(stem, kernel=7, group=WIDTH)
    normalized = norm(net, net.op("Transpose", deep, perm=[0, 2, 3, 1]))
    hidden = net.op("Gelu", linear(net, normalized, WIDTH, 2 * WIDTH))
    back = net.op("Transpose", linear(net, hidden, 2 * WIDTH), perm=[0, 3, 1, 2])
    check(
        net.graph(net.conv(net.op("Add", stem, back))),
        """
        conv1 = Conv(x:a, int8[0])
        conv2 = Conv(conv1:b, int8[0])
        transpose1 = Transpose(conv2:c)
        layernormalization1 = LayerNormalization(transpose1:c, float, float)
        matmul1 = MatMul(layernormalization1:d, int8[1])
        add1 = Add(matmul1, float)
        gelu1 = Gelu(add1)
        matmul2 = MatMul(gelu1:e, int8[1])
        add2 = Add(matmul2, float)
        transpose2 = Transpose(add2)
        add3 = Add(conv1, transpose2)
        conv3 = Conv(add3:f, int8[0])
        return conv3
        """,
    )


def test_a_normalization_behind_a_product_stays_float() -> None:
    net = SmallNet()
    hidden = norm(net, linear(net, net.input("x", 1, TOKENS, WIDTH)))
    check(
        net.graph(linear(net, hidden)),
        """
        matmul1 = MatMul(x:a, int8[1])
        add1 = Add(matmul1, float)
        layernormalization1 = LayerNormalization(add1, float, float)
        matmul2 = MatMul(layernormalization1:b, int8[1])
        add2 = Add(matmul2, float)
        return add2
        """,
    )


def test_an_embedding_stays_float() -> None:
    net = SmallNet()
    tokens = net.input("tokens", 1, TOKENS, element="int64")
    check(
        net.graph(linear(net, net.op("Gather", net.normal(8, WIDTH), tokens))),
        """
        gather1 = Gather(float, tokens)
        matmul1 = MatMul(gather1:a, int8[1])
        add1 = Add(matmul1, float)
        return add1
        """,
    )


def test_a_gelu_in_parts_stays_whole() -> None:
    """Div, Erf, Add, Mul, Mul become one Gelu, or stay the float ops that they are."""
    net = SmallNet()
    x = linear(net, net.input("x", 1, TOKENS, WIDTH))
    erf = net.op("Erf", net.op("Div", x, float(np.sqrt(2.0))))
    half = net.op("Mul", net.op("Mul", x, net.op("Add", erf, 1.0)), 0.5)
    check(
        net.graph(linear(net, half)),
        """
        matmul1 = MatMul(x:a, int8[1])
        add1 = Add(matmul1, float)
        mul2 = Gelu(add1)
        matmul2 = MatMul(mul2:b, int8[1])
        add3 = Add(matmul2, float)
        return add3
        """,
    )
