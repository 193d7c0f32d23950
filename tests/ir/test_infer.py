"""Inference of one node and of whole graphs, against shapes worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.errors import ModelError
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph, Stage, Value
from qcc.ir.infer import infer_node, infer_shapes, merge_types
from qcc.ir.types import UNKNOWN, Dim, OpaqueType, Quant, TensorType, float32


def forget(graph: Graph) -> None:
    for node in graph.walk():
        for value in node.outputs:
            value.type = UNKNOWN


def shapes(*values: Value) -> list[Any]:
    return [value.tensor.shape for value in values]


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(5, 40),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    pad=st.integers(0, 2),
    channels=st.integers(1, 9),
)
def test_conv_shape(size: int, kernel: int, stride: int, pad: int, channels: int) -> None:
    b = GraphBuilder()
    x = b.input("x", float32("N", 3, size, None))
    weight = np.zeros((channels, 3, kernel, kernel), np.float32)
    y = b.op.Conv(x, weight, strides=[stride] * 2, pads=[pad] * 4)
    height = (size + 2 * pad - kernel) // stride + 1
    shape = y.tensor.shape
    assert shape is not None
    assert shape[:3] == ("N", channels, height)
    assert not isinstance(shape[3], int)
    assert y.tensor.element == "float32"


def test_small_constant_operands_are_used() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(2, 3, 4))
    assert shapes(
        b.op.Reshape(x, [2, -1]),
        b.op.Unsqueeze(x, [0, 4]),
        b.op.ReduceMean(x, [1], keepdims=0),
        b.op.Slice(x, [0], [2], [2]),
        b.op.Tile(x, [1, 2, 3]),
    ) == [(2, 12), (1, 2, 3, 4, 1), (2, 4), (2, 3, 2), (2, 6, 12)]


def test_several_results() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(2, 6))
    first, second = b.op.Split(x, [2, 4], axis=1, _outputs=2)
    values, indices = b.op.TopK(x, [3], _outputs=["values", "indices"])
    assert shapes(first, second, values, indices) == [(2, 2), (2, 4), (2, 3), (2, 3)]
    assert (values.name, indices.tensor.element) == ("values", "int64")


def test_big_constants_are_not_serialized(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx.shape_inference

    sizes: list[int] = []
    original = onnx.shape_inference.infer_shapes

    def spy(model: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(model.ByteSize())
        return original(model, *args, **kwargs)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", spy)
    b = GraphBuilder()
    y = b.op.MatMul(b.input("x", float32("N", 1024)), np.zeros((1024, 512), np.float32))
    table = b.op.Constant(value=np.zeros((300, 300), np.float32))
    infer_shapes(b.output(y, table))
    assert shapes(y, table) == [("N", 512), (300, 300)]
    assert sizes
    assert max(sizes) < 1000


def test_a_node_that_does_not_fit_is_a_model_error() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(2, 3))
    with pytest.raises(ModelError, match=r"infer types.*'bad'"):
        b.op.MatMul(x, np.zeros((4, 5), np.float32), _name="bad")
    with pytest.raises(ModelError, match="infer types"):
        b.op.Add(x, np.zeros(3, np.int64))


def test_unknown_ops_give_unknown_types() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(2, 3))
    assert b.op("my.domain.Thing", x, level=3).type == UNKNOWN
    assert b.op.NoSuchOp(x).type == UNKNOWN


@pytest.mark.parametrize("batch", [1, "N"])
def test_shape_arithmetic_is_followed(batch: Dim) -> None:
    """Shape -> Gather -> Div -> Concat -> Reshape, with an op that onnx does not follow itself."""
    b = GraphBuilder()
    x = b.input("x", float32(batch, 4, 6))
    dims = b.op.Shape(x)
    lead, channels = b.op.Gather(dims, [0]), b.op.Gather(dims, [1])
    half = b.op.Div(channels, np.asarray([2], np.int64))
    y = b.op.Reshape(x, b.op.Concat(lead, half, np.asarray([-1], np.int64), axis=0))
    z = b.op.Expand(b.op.ConstantOfShape(b.op.Concat(half, half, axis=0)), [2, 2])
    graph = b.output(y, z)
    forget(graph)
    assert infer_shapes(graph) > 0
    if batch == 1:
        assert shapes(y, z) == [(1, 2, 12), (2, 2)]
        assert all(value.tensor.is_static for value in graph.values())
    assert y.tensor.rank == 3
    assert infer_shapes(graph) == 0


def test_known_dimensions_stay_and_open_ones_are_filled() -> None:
    b = GraphBuilder()
    x = b.input("x", float32("N", 8))
    y = b.op.Relu(x)
    graph = b.output(y)
    y.type = TensorType(("batch", None), "undefined")
    infer_shapes(graph)
    assert y.type == float32("batch", 8)
    y.type = float32(5, None)
    infer_shapes(graph)
    assert y.type == float32(5, 8)


def test_merge_types_keeps_what_is_known() -> None:
    opaque = OpaqueType(b"x")
    quant = Quant.make("uint8", 0.5, 3)
    assert merge_types(UNKNOWN, opaque) == opaque
    assert merge_types(opaque, float32(1)) == opaque
    assert merge_types(float32(1, 2), float32(3)) == float32(1, 2)
    assert merge_types(TensorType(("a", 2), quant, "nhwc"), TensorType((1, 2), "uint8")) == (
        TensorType((1, 2), quant, "nhwc")
    )


def test_shapes_pass_through_quantize_and_dequantize() -> None:
    b = GraphBuilder(stage=Stage.NUMBERED)
    x = b.input("x", float32(2, 3))
    quant = Quant.make("int8", 0.25, 1)
    q = b.op.q.quantize(x, _types=[TensorType(None, quant)])
    y = b.op.Relu(b.op.q.dequantize(q, _types=[TensorType(None, "float32")]))
    graph = b.output(y)
    infer_shapes(graph)
    assert q.type == TensorType((2, 3), quant)
    assert y.type == float32(2, 3)


def test_bodies_are_inferred_with_their_captures() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(2, 3))
    condition = b.input("condition", TensorType((), "bool"))
    bodies: dict[str, Any] = {}
    for name in ("then_branch", "else_branch"):
        body = GraphBuilder(name, parent=b.graph)
        big = body.constant(np.zeros((3, 2000), np.float32))
        bodies[name] = body.output(body.op.MatMul(x, big))
    y = b.op.If(condition, **bodies)
    graph = b.output(b.op.Relu(y))
    forget(graph)
    infer_shapes(graph)
    assert y.type == float32(2, 2000)
    assert bodies["then_branch"].outputs[0].type == float32(2, 2000)


def test_loop_types() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(4))
    body = GraphBuilder("body", parent=b.graph)
    body.input("i", TensorType((), "int64"))
    going = body.input("going", TensorType((), "bool"))
    carried = body.input("carried", float32(4))
    y = body.op.Add(carried, x)
    last, scanned = b.op.Loop(
        np.asarray(3), np.asarray(True), x, body=body.output(going, y, y), _outputs=2
    )
    graph = b.output(last, scanned)
    forget(graph)
    infer_shapes(graph)
    assert y.type == float32(4)
    assert scanned.tensor.rank == 2


def test_values_may_have_equal_or_odd_names() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(2, 3))
    y = b.op.Transpose(x)
    y.name = "x"
    z = b.op.Relu(y)
    z.name = ""
    assert infer_node(z.producer)[0] == float32(3, 2) if z.producer else False


def test_contradicting_declarations_do_not_stop_inference() -> None:
    """A model may declare a wrong rank and still run; the other values are inferred."""
    b = GraphBuilder()
    x = b.input("x", float32(2, 3))
    wrong = b.op.Relu(x)
    right = b.op.Transpose(x)
    graph = b.output(wrong, right)
    wrong.type, right.type = float32(7), UNKNOWN
    infer_shapes(graph)
    assert right.type == float32(3, 2)
    assert wrong.type == float32(7)


@pytest.mark.shared
def test_static_models_get_static_types(zoo: Path) -> None:
    """Every type of a convolutional network comes back from the inputs' alone."""
    from qcc.onnxio import read_onnx

    names = ("mobilenet_v2_10_224_imagenet", "yunet_n_dynamic", "resnet20_cifar10")
    found = [path for name in names for path in (zoo / "models").rglob(f"{name}.onnx")]
    assert found
    for path in found:
        graph = read_onnx(path)
        for value in graph.inputs:
            value.type = value.tensor.with_shape(
                tuple(d if isinstance(d, int) else 1 for d in value.tensor.shape or ())
            )
        expected = {v: v.tensor.shape for v in graph.values() if v.tensor.is_static}
        forget(graph)
        infer_shapes(graph)
        assert all(value.tensor.is_static for value in graph.values()), path.name
        assert all(v.tensor.shape == shape for v, shape in expected.items()), path.name
