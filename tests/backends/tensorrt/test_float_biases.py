"""Biases of TensorRT exports: float32, one number an output, and each layer's own."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.tensorrt.config import CONFIG
from qcc.ir.core import Array, Graph, Node
from qcc.pipeline import convert, prepare
from qcc.ref.evaluate import evaluate
from tests.backends.tensorrt.placements import SmallNet, quantized
from tests.passes.float_models import feeds_for


def bias_of(graph: Graph, name: str, index: int = 2) -> Array:
    """The float32 constant that a node adds."""
    node = next(node for node in graph.nodes if node.name == name)
    value = node.operand(index)
    assert value.constant is not None, "it is no constant"
    assert value.tensor.storage == "float32"
    return np.asarray(value.constant)


def corrected(graph: Graph, samples: int = 8) -> Graph:
    """``graph`` quantized for TensorRT, its biases corrected on random samples."""
    prepared = prepare(graph, backend=CONFIG)
    prepared.calibrate([feeds_for(graph, None, seed) for seed in range(samples)])
    return convert(prepared, least_local_db=-np.inf, equalization=False).graph


def dequantizes_int32(node: Node) -> bool:
    return node.op == "q.dequantize" and node.operand(0).tensor.storage == "int32"


def test_no_bias_is_stored_as_integers() -> None:
    net = SmallNet()
    graph = corrected(net.graph(net.conv(net.op("Relu", net.conv(net.image(), bias=True)))))
    assert not any(map(dequantizes_int32, graph.nodes))
    assert bias_of(graph, "conv1").shape == bias_of(graph, "conv2").shape == (16,)


@pytest.mark.parametrize("shape", [(), (1,), (24,), (1, 24), (1, 1)])
def test_a_gemm_has_one_number_an_output_however_its_bias_is_written(
    shape: tuple[int, ...],
) -> None:
    net = SmallNet()
    bias = net.normal(*shape)
    graph = net.graph(net.op("Gemm", net.input("x", 8, 16), net.normal(24, 16), bias, transB=1))
    found = bias_of(quantized(graph).graph, "gemm1")
    np.testing.assert_array_equal(found, np.broadcast_to(bias.reshape(-1), (24,)))


@pytest.mark.parametrize("shape", [(24,), (1, 24), (1, 1, 24), (1,)])
def test_a_bias_behind_a_product_has_one_number_an_output(shape: tuple[int, ...]) -> None:
    net = SmallNet()
    bias = net.normal(*shape)
    product = net.op("MatMul", net.input("x", 2, 8, 16), net.normal(16, 24))
    graph = quantized(net.graph(net.op("Add", product, bias))).graph
    found = bias_of(graph, "add1", 1)
    np.testing.assert_array_equal(found, np.broadcast_to(bias.reshape(-1), (24,)))
    assert graph.outputs[0].tensor.shape == (2, 8, 24)


def test_two_layers_that_share_a_bias_get_a_copy_each() -> None:
    net = SmallNet()
    x, shared = net.image(), net.operand(net.normal(16))
    for _ in range(2):
        net.op("Conv", x, net.normal(16, 16, 3, 3), shared, pads=[1, 1, 1, 1])
    graph = net.graph("conv1", "conv2", net.op("Max", net.input("y", 1, 16), shared))
    wanted = np.asarray(graph.constants[shared].constant).copy()
    plain = quantized(graph).graph
    for name in ("conv1", "conv2"):
        np.testing.assert_array_equal(bias_of(plain, name), wanted)
    moved = corrected(graph)
    first, second = bias_of(moved, "conv1"), bias_of(moved, "conv2")
    assert np.abs(first - wanted).max() > 0
    assert np.abs(second - wanted).max() > 0
    assert np.abs(first - second).max() > 0
    np.testing.assert_array_equal(moved.constants[shared].constant, wanted)


def test_correction_takes_the_mean_error_off_each_channel() -> None:
    net = SmallNet()
    x = net.image()
    hidden = net.op("Relu", net.conv(x, bias=True))
    graph = net.graph(net.conv(hidden, bias=True))
    samples = [feeds_for(graph, None, seed) for seed in range(8)]

    def mean_error(found: Graph) -> float:
        errors = [
            evaluate(found, feeds)["conv2"] - evaluate(graph, feeds)["conv2"] for feeds in samples
        ]
        return float(np.abs(np.mean(errors, axis=(0, 1, 3, 4), dtype=np.float64)).max())

    assert mean_error(corrected(graph)) < mean_error(quantized(graph).graph) / 3
