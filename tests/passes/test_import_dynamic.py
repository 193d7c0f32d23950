"""Dynamic quantization, read as float models with 8-bit weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from qcc.ir.core import Graph
from qcc.onnxio import read_onnx
from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.import_dynamic import ImportDynamic, is_dynamic
from qcc.passes.import_qdq import ImportQdq
from tests.passes.float_models import Net, apply, feeds_for, ops_of, run

U8, S8 = np.uint8, np.int8


def imported(graph: Graph, tolerance: float = 0.02) -> Graph:
    """The float graph; its results differ by what quantizing activations had cost."""
    copy = graph.clone()
    assert is_dynamic(copy)
    assert apply(copy, FoldConstants(), ImportDynamic(), EliminateDead()) == []
    assert not is_dynamic(copy)
    feeds = feeds_for(graph)
    for wanted, found in zip(run(graph, feeds), run(copy, feeds), strict=True):
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
    return copy


def scaled(net: Net, integers: str, *scales: Any) -> str:
    """Integers as floats, times the product of the scales: what onnxruntime's quantizer writes."""
    real = net.op("Cast", integers, to=TensorProto.FLOAT)
    return net.op("Mul", real, net.op("Mul", *scales))


def dynamic(net: Net, x: str) -> list[str]:
    return net.ops("DynamicQuantizeLinear", x, results=3)


def weight_quant(graph: Graph) -> tuple[str, int | None, int]:
    """Storage, axis and number of scales of the only quantized constant after import-qdq."""
    copy = graph.clone()
    apply(copy, ImportQdq())
    (quant,) = [v.tensor.quant for v in copy.constants.values() if v.tensor.quant is not None]
    return quant.storage, quant.axis, len(quant.scale)


@pytest.mark.parametrize("storage", ["uint8", "int8"])
@pytest.mark.parametrize("columns", [1, 5])
def test_a_product_reads_unquantized_activations(storage: str, columns: int) -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 2, 3, 4))
    weight = net.random.integers(-60, 61, (4, 5)).astype(storage)
    scales = np.linspace(0.01, 0.05, columns, dtype=np.float32)
    zeros = np.zeros(columns, storage)
    y = scaled(net, net.op("MatMulInteger", q, weight, z, zeros), s, scales)
    graph = imported(net.graph(net.op("Add", y, net.normal(5))))
    assert ops_of(graph) == {"Add": 1, "DequantizeLinear": 1, "MatMul": 1}
    axis = None if columns == 1 else 1
    assert weight_quant(graph) == (storage, axis, columns)
    assert any("8-bit weights" in note for note in graph.info.notes)


@pytest.mark.parametrize("channels", [1, 6])
def test_a_convolution_takes_the_bias_behind_it(channels: int) -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 1, 4, 5, 5))
    weight = net.random.integers(0, 256, (6, 2, 3, 3)).astype(U8)
    scales = np.linspace(0.01, 0.05, channels, dtype=np.float32).reshape(-1, 1, 1)
    attributes: dict[str, Any] = {"group": 2, "pads": [1, 1, 1, 1]}
    y = net.op("ConvInteger", q, weight, z, U8(128), **attributes)
    y = net.op("Add", scaled(net, y, s, scales), net.normal(1, 6, 1, 1))
    graph = imported(net.graph(net.op("Relu", y)))
    assert ops_of(graph) == {"Conv": 1, "DequantizeLinear": 1, "Relu": 1}
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert conv.attributes == attributes
    assert conv.operand(2).tensor.shape == (6,)
    assert weight_quant(graph) == ("uint8", None if channels == 1 else 0, channels)


def test_one_quantization_serves_several_products() -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 3, 4))
    outs = []
    for _ in range(2):
        weight = net.random.integers(-60, 61, (4, 4)).astype(S8)
        integers = net.op("MatMulInteger", q, weight, z, S8(0))
        outs.append(scaled(net, integers, s, np.float32(0.02)))
    graph = imported(net.graph(*outs))
    assert ops_of(graph) == {"DequantizeLinear": 2, "MatMul": 2}


def test_two_activations_are_multiplied_as_they_are() -> None:
    net = Net()
    a, s, za = dynamic(net, net.input("a", 3, 4))
    b, t, zb = dynamic(net, net.input("b", 4, 5))
    y = scaled(net, net.op("MatMulInteger", a, b, za, zb), s, t)
    assert ops_of(imported(net.graph(y))) == {"MatMul": 1}


def test_integers_may_be_moved_before_they_are_multiplied() -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 4, 3))
    weight = net.random.integers(-60, 61, (4, 5)).astype(S8)
    turned = net.op("Transpose", q, perm=[1, 0])
    y = scaled(net, net.op("MatMulInteger", turned, weight, z, S8(0)), s, np.float32(0.02))
    graph = imported(net.graph(y))
    assert ops_of(graph) == {"DequantizeLinear": 1, "MatMul": 1, "Transpose": 1}


def test_a_factor_that_is_no_scale_of_channels_stays_a_product() -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 3, 4))
    weight = net.random.integers(-60, 61, (4, 5)).astype(S8)
    rows = np.array([[0.1], [0.2], [0.3]], np.float32)
    y = scaled(net, net.op("MatMulInteger", q, weight, z, S8(0)), s, rows)
    assert ops_of(imported(net.graph(y))) == {"DequantizeLinear": 1, "MatMul": 1, "Mul": 1}


def test_activations_that_are_only_rounded_are_not_rounded() -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 3, 4))
    graph = imported(net.graph(net.op("Relu", net.op("DequantizeLinear", q, s, z))))
    assert ops_of(graph) == {"Relu": 1}


@pytest.mark.parametrize("columns", [1, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_microsofts_product_of_integers_to_float(columns: int, bias: bool) -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 3, 4))
    weight = net.random.integers(-60, 61, (4, 5)).astype(S8)
    scales = np.full(columns, 0.03, np.float32) if columns > 1 else np.asarray(0.03, np.float32)
    zeros = np.zeros(columns, S8) if columns > 1 else S8(0)
    given = [net.normal(5)] if bias else []
    y = net.op("com.microsoft.MatMulIntegerToFloat", q, weight, s, scales, z, zeros, *given)
    graph = imported(net.graph(y))
    assert ops_of(graph) == {"DequantizeLinear": 1, "MatMul": 1, **({"Add": 1} if bias else {})}


def test_a_static_product_of_integers_to_float_keeps_its_boundaries() -> None:
    net = Net()
    x = net.input("x", 3, 4, element="uint8")
    weight = net.random.integers(-60, 61, (4, 5)).astype(S8)
    numbers = (np.float32(0.1), np.float32(0.03), U8(3), S8(0))
    y = net.op("com.microsoft.MatMulIntegerToFloat", x, weight, *numbers)
    graph = imported(net.graph(y), 1e-6)
    assert ops_of(graph) == {"DequantizeLinear": 2, "MatMul": 1}
    assert graph.info.notes == []


def test_microsofts_product_that_quantizes_itself() -> None:
    net = Net()
    weight = net.random.integers(-60, 61, (4, 5)).astype(S8)
    operands = (net.input("x", 3, 4), weight, np.float32(0.03), S8(0), net.normal(5))
    graph = imported(net.graph(net.op("com.microsoft.DynamicQuantizeMatMul", *operands)))
    assert ops_of(graph) == {"Add": 1, "DequantizeLinear": 1, "MatMul": 1}


def test_what_reads_the_integers_themselves_is_refused() -> None:
    net = Net()
    q, s, z = dynamic(net, net.input("x", 3, 4))
    weight = net.random.integers(-60, 61, (4, 5)).astype(S8)
    integers = net.op("MatMulInteger", q, weight, z, S8(0))
    real = net.op("Cast", net.op("Abs", integers), to=TensorProto.FLOAT)
    graph = net.graph(net.op("Mul", real, s))
    refusals = apply(graph, ImportDynamic())
    assert [sentence for _, sentence in refusals] == [
        "'n4' stays MatMulInteger: its integers are read by other ops than Cast"
    ]
    assert ops_of(graph)["MatMulInteger"] == 1


# -- models of onnxruntime's quantizer -------------------------------------------------------------


def float_model(net: Net, *outputs: str) -> onnx.ModelProto:
    model = net.model(*outputs)
    model.opset_import[0].version = 17
    return model


def quantized_by_tool(model: onnx.ModelProto, folder: Path, **options: Any) -> Graph:
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(model, folder / "float.onnx")
    # 7 bits: onnxruntime saturates sums of products of 8-bit weights on CPUs without VNNI.
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", reduce_range=True, **options)
    return read_onnx(folder / "dynamic.onnx")


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantize_dynamic_of_layers(tmp_path: Path, per_channel: bool) -> None:
    net = Net()
    x = net.op("Conv", net.input("x", 1, 3, 6, 6), net.normal(4, 3, 3, 3), net.normal(4))
    x = net.op("Reshape", net.op("Relu", x), np.array([1, 64]))
    x = net.op("MatMul", x, net.normal(64, 8))
    graph = imported(
        quantized_by_tool(
            float_model(net, net.op("Add", x, net.normal(8))),
            tmp_path,
            per_channel=per_channel,
            op_types_to_quantize=["Conv", "MatMul"],
            weight_type=_unsigned(),
        )
    )
    assert ops_of(graph) == {
        "Add": 1,
        "Conv": 1,
        "DequantizeLinear": 2,
        "MatMul": 1,
        "Relu": 1,
        "Reshape": 1,
    }


def _unsigned() -> Any:
    from onnxruntime.quantization import QuantType

    return QuantType.QUInt8


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_quantize_dynamic_of_an_lstm(tmp_path: Path, direction: str) -> None:
    net, hidden = Net(), 4
    count = 2 if direction == "bidirectional" else 1
    y, h, _ = net.ops(
        "LSTM",
        net.input("x", 5, 1, 3),
        net.normal(count, 4 * hidden, 3),
        net.normal(count, 4 * hidden, hidden),
        net.normal(count, 8 * hidden),
        results=3,
        hidden_size=hidden,
        direction=direction,
    )
    graph = imported(quantized_by_tool(float_model(net, y, h), tmp_path), 0.05)
    assert ops_of(graph) == {"LSTM": 1}


def test_quantize_dynamic_after_onnxruntimes_own_optimization(tmp_path: Path) -> None:
    import onnxruntime

    net = Net()
    y = net.op("MatMul", net.input("x", 3, 4), net.normal(4, 8))
    y = net.op("MatMul", net.op("Relu", y), net.normal(8, 5))
    quantized_by_tool(float_model(net, y), tmp_path)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.graph_optimization_level = level
    onnxruntime.InferenceSession(
        tmp_path / "dynamic.onnx", options, providers=["CPUExecutionProvider"]
    )
    graph = read_onnx(tmp_path / "optimized.onnx")
    assert any(node.domain == "com.microsoft" for node in graph.nodes)
    assert ops_of(imported(graph)) == {"DequantizeLinear": 2, "MatMul": 2, "Relu": 1}
