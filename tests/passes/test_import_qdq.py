from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.ir.core import Graph, Stage
from qcc.ir.types import Quant
from qcc.onnxio import read_onnx
from qcc.passes.import_qdq import ImportQdq
from tests.passes.float_models import Net, apply, feeds_for, ops_of, relative_error, run

U8, S8 = np.uint8, np.int8


def quantized(net: Net, x: str, scale: Any, zero: Any, **attributes: int) -> str:
    return net.op("QuantizeLinear", x, np.asarray(scale, np.float32), zero, **attributes)


def real(net: Net, x: Any, scale: Any, zero: Any = None, **attributes: int) -> str:
    operands = [] if zero is None else [zero]
    return net.op("DequantizeLinear", x, np.asarray(scale, np.float32), *operands, **attributes)


def both(net: Net, x: str, scale: float = 0.05, zero: Any = None) -> str:
    zero = U8(128) if zero is None else zero
    return real(net, quantized(net, x, scale, zero), scale, zero)


def imported(graph: Graph) -> Graph:
    """The graph after import, which onnxruntime found to compute the same bytes."""
    copy = graph.clone()
    apply(copy, ImportQdq())
    feeds = feeds_for(graph)
    assert relative_error(run(graph, feeds), run(copy, feeds)) == 0.0
    assert copy.stage is Stage.NUMBERED
    assert [v.name for v in copy.outputs] == [v.name for v in graph.outputs]
    return copy


def quant_of(graph: Graph, name: str) -> Quant:
    quant = graph.value(name).tensor.quant
    assert quant is not None
    return quant


def conv_net(net: Net, x: str) -> str:
    weight = net.random.integers(-127, 128, (4, 3, 3, 3)).astype(S8)
    scales = np.array([0.01, 0.02, 0.005, 0.04], np.float32)
    w = real(net, weight, scales, np.zeros(4, S8), axis=0)
    bias = net.random.integers(-1000, 1000, 4).astype(np.int32)
    b = real(net, bias, scales * np.float32(0.05), axis=0)
    return net.op("Conv", both(net, x), w, b, kernel_shape=[3, 3])


def test_convolution_with_weights_and_bias_by_channel() -> None:
    net = Net()
    graph = imported(net.graph(both(net, conv_net(net, net.input("x", 1, 3, 6, 6)), 0.1, S8(3))))
    assert ops_of(graph) == {"Conv": 1, "q.dequantize": 4, "q.quantize": 2}
    conv = next(node for node in graph.nodes if node.op == "Conv")
    weight, bias = (conv.operand(i).producer for i in (1, 2))
    assert weight is not None
    assert bias is not None
    found = weight.operand(0).tensor.quant
    assert found is not None
    assert (found.storage, found.axis, len(found.scale)) == ("int8", 0, 4)
    found = bias.operand(0).tensor.quant
    assert found is not None
    assert (found.storage, found.axis, found.zero_point) == ("int32", 0, (0, 0, 0, 0))
    assert len(graph.constants) == 2


def test_scales_stay_exact() -> None:
    net = Net()
    scale = np.nextafter(np.float32(0.1), np.float32(1.0))
    graph = net.graph(both(net, net.input("x", 2, 3), scale, S8(-5)))
    apply(graph, ImportQdq())
    quant = graph.nodes[0].output.tensor.quant
    assert quant == Quant("int8", (float(scale),), (-5,))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_storages(dtype: str) -> None:
    net = Net()
    zero = np.array(7, dtype)
    graph = imported(net.graph(both(net, net.input("x", 2, 3), 0.01, zero)))
    assert graph.nodes[0].output.tensor.storage == dtype


def test_without_zero_point_onnx_means_uint8() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    q = net.op("QuantizeLinear", x, 0.1)
    graph = imported(net.graph(real(net, q, 0.1)))
    assert graph.nodes[0].output.tensor.quant == Quant("uint8", (float(np.float32(0.1)),), (0,))


def test_float_weights_behind_quantize_are_quantized_now() -> None:
    net = Net()
    weight = net.normal(6, 5)
    w = quantized(net, weight, np.full(5, 0.02), np.zeros(5, S8), axis=1)  # type: ignore[arg-type]
    w = real(net, w, np.full(5, 0.02), np.zeros(5, S8), axis=1)
    graph = imported(net.graph(net.op("MatMul", both(net, net.input("x", 4, 6)), w)))
    assert ops_of(graph) == {"MatMul": 1, "q.dequantize": 2, "q.quantize": 1}


def test_one_constant_with_two_meanings() -> None:
    net = Net()
    weight = net.operand(np.arange(6, dtype=S8))
    total = net.op("Add", real(net, weight, 0.5, S8(0)), real(net, weight, 0.25, S8(1)))
    graph = imported(net.graph(net.op("Add", net.input("x", 6), total)))
    assert ops_of(graph) == {"Add": 2, "q.dequantize": 2}
    assert len({value.tensor.quant for value in graph.constants.values()}) == 2


def test_integer_inputs_and_outputs_keep_their_dtype() -> None:
    net = Net()
    x = net.input("x", "N", 3, element="uint8")
    y = quantized(net, net.op("Relu", real(net, x, 0.02, U8(128))), 0.01, U8(0))
    graph = imported(net.graph(y, element="uint8"))
    assert quant_of(graph, "x") == Quant.make("uint8", 0.02, 128)
    assert quant_of(graph, y) == Quant.make("uint8", 0.01, 0)
    assert ops_of(graph) == {"Relu": 1, "q.dequantize": 1, "q.quantize": 1}


@pytest.mark.parametrize(
    ("op", "operands", "attributes"),
    [
        ("Reshape", [np.array([2, -1])], {}),
        ("Transpose", [], {"perm": [0, 2, 3, 1]}),
        ("Slice", [np.array([1]), np.array([3]), np.array([2])], {}),
        ("MaxPool", [], {"kernel_shape": [2, 2], "pads": [1, 1, 0, 0]}),
        ("Gather", [np.array([2, 0])], {"axis": 1}),
    ],
)
def test_movement_of_integers_moves_to_the_float_side(
    op: str, operands: list[Any], attributes: dict[str, Any]
) -> None:
    net = Net()
    q = quantized(net, net.input("x", 2, 3, 4, 4), 0.05, U8(100))
    moved = net.op(op, q, *operands, **attributes)
    graph = imported(net.graph(real(net, moved, 0.05, U8(100))))
    assert ops_of(graph) == {op: 1, "q.dequantize": 2, "q.quantize": 2}
    assert next(n for n in graph.nodes if n.op == op).output.tensor.is_float


def test_movement_from_an_input_to_an_output() -> None:
    net = Net()
    x = net.input("x", 2, 3, 4, 4, element="uint8")
    nchw = net.op("Transpose", x, perm=[0, 3, 1, 2])
    y = quantized(net, net.op("Relu", real(net, nchw, 0.02, U8(128))), 0.01, U8(0))
    graph = imported(net.graph(net.op("Flatten", y, axis=1), element="uint8"))
    assert quant_of(graph, "x") == Quant.make("uint8", 0.02, 128)
    assert graph.outputs[0].tensor.quant == Quant.make("uint8", 0.01, 0)


def test_concat_of_integers_with_equal_numbers() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    parts = [quantized(net, net.op(op, x), 0.05, U8(9)) for op in ("Relu", "Neg")]
    joined = net.op("Concat", *parts, axis=1)
    graph = imported(net.graph(real(net, joined, 0.05, U8(9))))
    assert ops_of(graph)["q.quantize"] == 3


# -- refusals ---------------------------------------------------------------------------------


def refused(graph: Graph, words: str) -> Graph:
    copy = graph.clone()
    refusals = apply(copy, ImportQdq())
    assert any(words in sentence for _, sentence in refusals), refusals
    feeds = feeds_for(graph)
    assert relative_error(run(graph, feeds), run(copy, feeds)) == 0.0
    return copy


def test_a_computed_scale_stays_float() -> None:
    net = Net()
    x = net.input("x", 2, 3)
    scale = net.op("Add", net.op("ReduceMax", net.op("Abs", x), keepdims=0), 1.0)
    q = net.op("QuantizeLinear", x, scale, S8(0))
    graph = refused(net.graph(net.op("DequantizeLinear", q, scale, S8(0))), "computed by the model")
    assert ops_of(graph)["QuantizeLinear"] == 1


def test_blocked_weights_stay_float() -> None:
    net = Net()
    weight = net.random.integers(-8, 8, (4, 6)).astype(S8)
    scale = np.abs(net.normal(2, 6)) + np.float32(0.1)
    w = net.op("DequantizeLinear", weight, scale, np.zeros((2, 6), S8), axis=0, block_size=2)
    graph = net.graph(net.op("MatMul", net.input("x", 3, 4), w))
    assert ops_of(refused(graph, "by blocks"))["DequantizeLinear"] == 1


def test_arithmetic_on_integers_stays_float() -> None:
    net = Net()
    q = quantized(net, net.input("x", 2, 3), 0.1, U8(3))
    graph = net.graph(real(net, q, 0.1, U8(3)), net.op("Cast", q, to=onnx.TensorProto.FLOAT))
    result = refused(graph, "reads its integers")
    assert ops_of(result) == {"Cast": 1, "DequantizeLinear": 1, "QuantizeLinear": 1}


def test_two_meanings_of_one_activation_stay_float() -> None:
    net = Net()
    q = quantized(net, net.input("x", 2, 3), 0.1, U8(3))
    graph = net.graph(real(net, q, 0.2, U8(3)))
    copy = graph.clone()
    apply(copy, ImportQdq())
    assert ops_of(copy) == ops_of(graph)


# -- the QOperator form -----------------------------------------------------------------------


def f32(value: float) -> np.ndarray[Any, Any]:
    return np.asarray(value, np.float32)


def close_bytes(graph: Graph) -> Graph:
    """After import: stored results within one step, since integer kernels round otherwise."""
    copy = graph.clone()
    apply(copy, ImportQdq())
    feeds = feeds_for(graph)
    for a, b in zip(run(graph, feeds), run(copy, feeds), strict=True):
        assert a.shape == b.shape
        assert np.abs(a.astype(np.float64) - b.astype(np.float64)).max() <= 1
    return copy


def test_qlinear_conv() -> None:
    net = Net()
    x = net.input("x", 1, 3, 5, 5, element="uint8")
    weight = net.random.integers(-127, 128, (4, 3, 3, 3)).astype(S8)
    scales = np.array([0.01, 0.02, 0.005, 0.04], np.float32)
    bias = net.random.integers(-100, 100, 4).astype(np.int32)
    y = net.op(
        "QLinearConv",
        *(x, f32(0.02), U8(1), weight, scales, np.zeros(4, S8), f32(0.05), U8(128), bias),
        pads=[1, 1, 1, 1],
    )
    graph = close_bytes(net.graph(y, element="uint8"))
    assert ops_of(graph) == {"Conv": 1, "q.dequantize": 3, "q.quantize": 1}
    assert graph.nodes[3].attributes["pads"] == [1, 1, 1, 1]


def test_qlinear_matmul() -> None:
    net = Net()
    x = net.input("x", 3, 4, element="uint8")
    weight = net.random.integers(-127, 128, (4, 5)).astype(S8)
    y = net.op("QLinearMatMul", *(x, f32(0.02), U8(1), weight, f32(0.1), S8(0), f32(0.05), U8(99)))
    graph = close_bytes(net.graph(y, element="uint8"))
    assert ops_of(graph) == {"MatMul": 1, "q.dequantize": 2, "q.quantize": 1}


@pytest.mark.parametrize("trans", [0, 1])
def test_qgemm(trans: int) -> None:
    net = Net()
    x = net.input("x", 3, 4, element="uint8")
    weight = net.random.integers(-127, 128, (5, 4) if trans else (4, 5)).astype(S8)
    bias = net.random.integers(-100, 100, 5).astype(np.int32)
    scales = np.linspace(0.01, 0.05, 5, dtype=np.float32)
    y = net.op(
        "com.microsoft.QGemm",
        *(x, f32(0.02), U8(1), weight, scales, np.zeros(5, S8), bias, f32(0.05), U8(99)),
        transB=trans,
    )
    graph = close_bytes(net.graph(y, element="uint8"))
    assert ops_of(graph) == {"Gemm": 1, "q.dequantize": 3, "q.quantize": 1}


def test_other_qoperators() -> None:
    net = Net()
    x = net.input("x", 1, 3, 4, 4, element="uint8")
    one, two, four = (f32(0.02), U8(100)), (f32(0.05), U8(120)), (f32(1 / 256), U8(0))
    total = net.op("com.microsoft.QLinearAdd", x, *one, x, *one, *two)
    total = net.op("com.microsoft.QLinearMul", total, *two, x, *one, *two)
    curve = net.op("com.microsoft.QLinearSigmoid", total, *two, *four)
    joined = net.op("com.microsoft.QLinearConcat", *two, total, *two, curve, *four, axis=1)
    mean = net.op("com.microsoft.QLinearGlobalAveragePool", joined, *two, *two, channels_last=0)
    graph = net.graph(mean, element="uint8")
    result = graph.clone()
    apply(result, ImportQdq())
    counts = ops_of(result)
    assert {op for op in counts if not op.startswith("q.")} == {
        "Add",
        "Concat",
        "GlobalAveragePool",
        "Mul",
        "Sigmoid",
    }
    feeds = feeds_for(graph)
    found = [r.astype(np.int32) for g in (graph, result) for r in run(g, feeds)]
    assert np.abs(found[0] - found[1]).max() <= 2


@settings(max_examples=25, deadline=None)
@given(
    storage=st.sampled_from(["int8", "uint8"]),
    channels=st.integers(1, 4),
    axis=st.integers(-3, 2),
    seed=st.integers(0, 99),
)
def test_any_axis(storage: str, channels: int, axis: int, seed: int) -> None:
    net = Net(seed)
    shape = [2, 3, 4]
    shape[axis] = channels
    scale = (np.abs(net.normal(channels)) + np.float32(0.01)).astype(np.float32)
    zero = net.random.integers(0, 100, channels).astype(storage)
    x = net.input("x", *shape)
    graph = net.graph(real(net, quantized(net, x, scale, zero, axis=axis), scale, zero, axis=axis))
    result = imported(graph)
    assert ops_of(result) == {"q.dequantize": 1, "q.quantize": 1}


def test_a_model_without_quantization_only_changes_its_stage() -> None:
    net = Net()
    graph = imported(read_onnx(net.model(net.op("Relu", net.input("x", 2)))))
    assert ops_of(graph) == {"Relu": 1}
