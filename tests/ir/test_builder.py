"""The builder: operands, names, several results, bodies."""

from __future__ import annotations

import numpy as np

from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Stage, constant_array
from qcc.ir.types import Quant, TensorType, float32
from qcc.ir.verify import verify


def test_builds_a_valid_graph() -> None:
    b = GraphBuilder("net")
    x = b.input("x", float32(1, 3, 8, 8))
    h = b.op.Conv(x, np.ones((4, 3, 3, 3), np.float32), None, pads=[1] * 4, _name="conv")
    y = b.op.Relu(h)
    graph = b.output(y)
    verify(graph)
    assert graph.name == "net"
    assert y.type == float32(1, 4, 8, 8)
    conv = h.producer
    assert conv is not None
    assert (conv.name, conv.attributes) == ("conv", {"pads": [1, 1, 1, 1]})
    assert conv.input(2) is None


def test_numbers_and_lists_become_constants() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(6))
    y = b.op.Reshape(b.op.Mul(x, 0.5), [2, 3])
    mul, reshape = b.output(y).nodes
    half, shape = constant_array(mul.operand(1)), constant_array(reshape.operand(1))
    assert half is not None
    assert shape is not None
    assert (str(half.dtype), half.shape, float(half)) == ("float32", (), 0.5)
    assert (str(shape.dtype), shape.tolist()) == ("int64", [2, 3])


def test_names_are_unique() -> None:
    b = GraphBuilder()
    x = b.input("relu", float32(1))
    for _ in range(3):
        x = b.op.Relu(x, _name="relu")
    graph = b.output(x)
    verify(graph)
    assert len({node.name for node in graph.nodes} | {v.name for v in graph.values()}) == 7


def test_integer_ops_and_quantized_constants() -> None:
    b = GraphBuilder(stage=Stage.NUMBERED)
    x = b.input("x", float32(1, 2))
    quant = Quant.make("int8", 0.5, 0)
    w = b.constant(np.ones((2, 2), np.int8), "w", TensorType((2, 2), quant))
    q = b.op.q.quantize(x, _types=[TensorType((1, 2), quant)])
    real = [
        b.op.q.dequantize(v, _types=[v.tensor.with_element("float32")], _name=f"dq_{v.name}")
        for v in (q, w)
    ]
    verify(b.output(b.op.MatMul(*real)))


def test_named_results_of_other_domains() -> None:
    b = GraphBuilder()
    a, c = b.op("my.domain.Op", b.input("x", float32(1)), _outputs=["a", "c"])
    graph = b.output(a, c)
    assert [v.name for v in graph.outputs] == ["a", "c"]
    assert graph.nodes[0].domain == "my.domain"


def test_bodies_capture_outer_values() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(3))
    then, other = (GraphBuilder(name, parent=b.graph) for name in ("then", "else"))
    y = b.op.If(
        b.input("c", TensorType((), "bool")),
        then_branch=then.output(then.op.Relu(x)),
        else_branch=other.output(other.op.Neg(x)),
    )
    verify(b.output(y))
    assert y.type == float32(3)
