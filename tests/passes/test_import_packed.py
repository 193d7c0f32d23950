from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qcc
from qcc.passes.import_packed import ImportPacked, unpack_bits
from tests.passes.float_models import Array, Net, apply, feeds_for, ops_of, run


def packed(net: Net, columns: int, blocks: int, block: int, bits: int) -> Array:
    shape = (columns, blocks, block * bits // 8)
    return np.asarray(net.random.integers(0, 256, shape).astype(np.uint8))


def product(net: Net, rows: int, bits: int, zero_points: Any, bias: bool, block: int = 16) -> str:
    columns, blocks = 6, -(-rows // block)
    scales = net.random.uniform(0.01, 0.1, columns * blocks).astype(np.float32)
    weight = packed(net, columns, blocks, block, bits)
    if zero_points == "packed":
        size = columns * -(-blocks * bits // 8)
        zeros: Any = net.random.integers(0, 256, size).astype(np.uint8)
    elif zero_points == "float":
        zeros = net.random.uniform(0, 2**bits, columns * blocks).astype(np.float32)
    else:
        zeros = None
    given: list[Any] = [zeros, None, net.normal(columns)] if bias else [zeros]
    return net.op(
        "com.microsoft.MatMulNBits",
        *(net.input("x", 3, rows), weight, scales, *given),
        K=rows,
        N=columns,
        bits=bits,
        block_size=block,
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "bits", "zero_points"),
    [
        (32, 4, None),
        (40, 4, "packed"),
        (32, 4, "float"),
        (48, 8, None),
        (48, 8, "packed"),
    ],
)
def test_packed_weights_become_float_weights(
    rows: int, bits: int, zero_points: str | None, bias: bool
) -> None:
    net = Net()
    graph = net.graph(product(net, rows, bits, zero_points, bias))
    copy = graph.clone()
    assert apply(copy, ImportPacked()) == []
    kept = {} if zero_points == "float" else {"DequantizeLinear": 1}
    assert ops_of(copy) == {"MatMul": 1, **kept, **({"Add": 1} if bias else {})}
    feeds = feeds_for(graph)
    np.testing.assert_allclose(run(copy, feeds)[0], run(graph, feeds)[0], rtol=1e-4, atol=1e-3)


def test_lowest_bits_come_first() -> None:
    data = np.array([[0x21, 0x43]], np.uint8)
    assert unpack_bits(data, 4).tolist() == [[1, 2, 3, 4]]
    assert unpack_bits(np.array([[0b11100100]], np.uint8), 2).tolist() == [[0, 1, 2, 3]]


def test_sorted_groups_are_refused() -> None:
    net = Net()
    weight = packed(net, 6, 2, 16, 4)
    scales = np.ones(12, np.float32)
    order = np.arange(32, dtype=np.int32) // 16
    y = net.op(
        "com.microsoft.MatMulNBits",
        *(net.input("x", 3, 32), weight, scales, None, order),
        K=32,
        N=6,
        bits=4,
        block_size=16,
    )
    graph = net.graph(y)
    ((_, sentence),) = apply(graph, ImportPacked())
    assert "sorted by groups" in sentence
    assert ops_of(graph) == {"com.microsoft.MatMulNBits": 1}


def test_a_model_of_packed_weights_is_native_float_code() -> None:
    net = Net()
    model = net.model(product(net, 32, 4, None, bias=True))
    executable = qcc.compile(model.SerializeToString())
    assert isinstance(executable, qcc.Executable)
    assert all("(native float32)" in row.reason for row in executable.report.nodes)
    feeds = {"x": net.normal(3, 32)}
    wanted = run(net.graph(net.nodes[-1].output[0]), feeds)[0]
    found = next(iter(executable.run(feeds).values()))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
