"""Integers that are moved, padded or compared, and constants that are transposed now."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcc.ir.types import Quant
from qcc.passes.import_qdq import ImportQdq
from tests.passes.float_models import Net, apply, ops_of
from tests.passes.test_import_qdq import S8, U8, both, imported, quantized, real, refused

SCALES = np.array([0.02, 0.01, 0.03, 0.005], np.float32)


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("ReduceMax", [np.array([1])], {"keepdims": 0}),
        ("ReduceMin", [], {}),
        ("GatherElements", [np.zeros((2, 3, 4, 4), np.int64)], {"axis": 2}),
        ("Resize", [None, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest"}),
        ("Pad", [np.array([0, 0, 1, 1, 0, 0, 0, 2]), U8(7)], {}),
        ("Pad", [np.array([0, 0, 1, 1, 0, 0, 0, 2])], {}),
        ("Pad", [np.array([0, 0, 1, 1, 0, 0, 0, 2])], {"mode": "edge"}),
        ("Tile", [np.array([1, 2, 1, 1])], {}),
    ],
)
def test_an_op_that_moves_integers_moves_real_values(
    op: str, operands: list[Any], attributes: dict[str, Any]
) -> None:
    net = Net()
    q = quantized(net, net.input("x", 2, 3, 4, 4), 0.05, U8(100))
    moved = net.op(op, q, *operands, **attributes)
    graph = imported(net.graph(real(net, moved, 0.05, U8(100))))
    assert ops_of(graph) == {op: 1, "q.dequantize": 2, "q.quantize": 2}


def test_two_operands_are_compared_as_real_values() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    parts = [quantized(net, net.op(op, x), 0.05, S8(9)) for op in ("Relu", "Neg")]
    graph = imported(net.graph(real(net, net.op("Max", *parts), 0.05, S8(9))))
    assert ops_of(graph) == {"Max": 1, "Neg": 1, "Relu": 1, "q.dequantize": 3, "q.quantize": 3}


def test_an_arg_max_of_integers_reads_real_values() -> None:
    net = Net()
    q = quantized(net, net.input("x", 2, 3, 4), 0.05, U8(100))
    graph = imported(net.graph(net.op("ArgMax", q, axis=1), element="int64"))
    assert ops_of(graph) == {"ArgMax": 1, "q.dequantize": 1, "q.quantize": 1}


def test_rows_of_a_quantized_table_are_looked_up() -> None:
    net = Net()
    table = net.random.integers(-128, 128, (6, 4)).astype(S8)
    rows = net.op("Gather", table, net.input("i", 3, element="int64"))
    graph = imported(net.graph(real(net, rows, 0.05, S8(1))))
    assert ops_of(graph) == {"Gather": 1, "q.dequantize": 2, "q.quantize": 1}
    assert [v.tensor.quant for v in graph.constants.values()] == [Quant.make("int8", 0.05, 1)]


def test_weights_behind_a_transposition_are_transposed_now() -> None:
    net = Net()
    stored = net.random.integers(-127, 128, (4, 6)).astype(S8)
    w = net.op("Transpose", real(net, stored, SCALES, np.zeros(4, S8), axis=0), perm=[1, 0])
    graph = imported(net.graph(net.op("MatMul", both(net, net.input("x", 5, 6)), w)))
    assert ops_of(graph) == {"MatMul": 1, "q.dequantize": 2, "q.quantize": 1}
    (weight,) = graph.constants.values()
    assert weight.tensor.shape == (6, 4)
    assert weight.tensor.quant == Quant.make("int8", SCALES, 0, axis=1)


@pytest.mark.parametrize(("shape", "axis"), [((4, 6), 0), ((1, 4, 6), 1), ((4, 2, 3), 0)])
def test_weights_behind_a_reshape_keep_the_axis_of_their_channels(
    shape: tuple[int, ...], axis: int
) -> None:
    net = Net()
    stored = net.random.integers(-127, 128, (4, 6, 1, 1)).astype(S8)
    w = net.op("Reshape", real(net, stored, SCALES, np.zeros(4, S8), axis=0), np.array(shape))
    graph = imported(net.graph(net.op("Add", w, net.input("x", *shape))))
    assert ops_of(graph) == {"Add": 1, "q.dequantize": 1}
    (weight,) = graph.constants.values()
    assert weight.tensor.quant == Quant.make("int8", SCALES, 0, axis=axis)


def test_a_reshape_that_splits_the_channels_stays() -> None:
    net = Net()
    stored = net.random.integers(-127, 128, (4, 6)).astype(S8)
    w = net.op("Reshape", real(net, stored, SCALES, np.zeros(4, S8), axis=0), np.array([2, 2, 6]))
    graph = imported(net.graph(net.op("Add", w, net.input("x", 2, 2, 6))))
    assert ops_of(graph) == {"Add": 1, "Reshape": 1, "q.dequantize": 1}


def test_a_pad_by_a_computed_number_stays_an_op_on_integers() -> None:
    net = Net()
    q = quantized(net, net.input("x", 2, 3), 0.05, U8(100))
    fill = net.op("Squeeze", net.input("fill", 1, element="uint8"))
    padded = net.op("Pad", q, np.array([0, 1, 0, 1]), fill)
    result = refused(net.graph(real(net, padded, 0.05, U8(100))), "reads its integers")
    assert ops_of(result)["Pad"] == 1


def test_scales_of_the_rank_of_the_weights_speak_of_their_long_axis() -> None:
    net = Net()
    stored = net.operand(net.random.integers(-127, 128, (4, 3, 1, 1)).astype(S8))
    scales = SCALES.reshape(4, 1, 1, 1)
    w = net.op("DequantizeLinear", stored, scales, np.zeros((4, 1, 1, 1), S8), axis=1)
    graph = net.graph(net.op("Conv", net.input("x", 1, 3, 4, 4), w))
    assert apply(graph, ImportQdq()) == []
    (weight,) = graph.constants.values()
    assert weight.tensor.quant == Quant.make("int8", SCALES, 0, axis=0)


@pytest.mark.parametrize("axis", [1, -3])
def test_as_many_scales_as_no_axis_has_entries_are_refused(axis: int) -> None:
    net = Net()
    stored = net.operand(net.random.integers(-127, 128, (4, 3)).astype(S8))
    w = net.op("DequantizeLinear", stored, SCALES, np.zeros(4, S8), axis=axis)
    graph = net.graph(net.op("Add", net.input("x", 4, 3), w))
    refusals = apply(graph, ImportQdq())
    assert any("4 scales" in sentence or "its axis" in sentence for _, sentence in refusals)
    assert ops_of(graph)["DequantizeLinear"] == 1
