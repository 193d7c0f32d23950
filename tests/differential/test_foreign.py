"""Models quantized by other tools: compiled without sample inputs, held against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qcc
from qcc.backends.registry import backend_config
from qcc.foreign import UNUSED_SAMPLES, take_over
from qcc.ir.core import Graph
from qcc.onnxio import read_onnx
from qcc.pipeline import QuantizedModel, import_quantized
from tests.differential.foreign_models import (
    SHAPE,
    dynamic_model,
    feeds,
    network,
    run_literally,
    static_model,
)
from tests.passes.float_models import Net, ops_of
from tests.passes.test_absorb_channel_scales import weights
from tests.passes.test_import_qdq import both

STATIC = [
    ("QDQ", "QUInt8", "QInt8", True),
    ("QDQ", "QInt8", "QInt8", False),
    ("QDQ", "QUInt8", "QUInt8", False),
    ("QOperator", "QUInt8", "QUInt8", False),
    ("QOperator", "QInt8", "QInt8", True),
]


def options(form: str, activation: str, weight: str, per_channel: bool) -> dict[str, Any]:
    from onnxruntime.quantization import QuantFormat, QuantType

    return {
        "quant_format": QuantFormat[form],
        "activation_type": QuantType[activation],
        "weight_type": QuantType[weight],
        "per_channel": per_channel,
    }


def close(path: Path, compiled: qcc.Executable, part: float = 0.02) -> None:
    """Native results differ from onnxruntime's by little: integers may round otherwise."""
    for feed in feeds(4, seed=9):
        wanted = run_literally(path, feed)
        found = next(iter(compiled.run(feed).values()))
        assert np.abs(found - wanted).max() <= part * np.abs(wanted).max()


def compiled(path: Path) -> qcc.Executable:
    result = qcc.compile(path)
    assert isinstance(result, qcc.Executable)
    return result


def in_onnxruntime(executable: qcc.Executable) -> list[str]:
    """The nodes that have no native code."""
    rows = executable.report.nodes
    return [row.op for row in rows if not row.is_int8 and "(native float32)" not in row.reason]


@pytest.mark.parametrize(("form", "activation", "weight", "per_channel"), STATIC)
def test_what_was_quantized_statically_is_native_and_the_same(
    form: str, activation: str, weight: str, per_channel: bool, tmp_path: Path
) -> None:
    path = static_model(tmp_path, **options(form, activation, weight, per_channel))
    executable = compiled(path)
    assert executable.report.float_nodes == 0
    close(path, executable)


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
def test_every_opset_of_the_quantizer(opset: int, tmp_path: Path) -> None:
    path = static_model(tmp_path, opset=opset, **options("QDQ", "QUInt8", "QInt8", True))
    executable = compiled(path)
    assert executable.report.float_nodes == 0
    close(path, executable)


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23, 25])
def test_boundaries_of_every_opset(opset: int, tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", *SHAPE)
    x = net.op("QuantizeLinear", x, np.float32(0.03), np.uint8(120))
    x = net.op("DequantizeLinear", x, np.float32(0.03), np.uint8(120))
    stored = net.random.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    by_channel = opset >= 13
    scale = np.linspace(0.01, 0.02, 4, dtype=np.float32) if by_channel else np.float32(0.01)
    zero = np.zeros(4, np.int8) if by_channel else np.int8(0)
    w = net.op("DequantizeLinear", stored, scale, zero, **({"axis": 0} if by_channel else {}))
    y = net.op("Relu", net.op("Conv", x, w))
    y = net.op("QuantizeLinear", y, np.float32(0.05), np.uint8(0))
    model = net.model(net.op("DequantizeLinear", y, np.float32(0.05), np.uint8(0)))
    del model.opset_import[1:]
    model.opset_import[0].version = opset
    onnx.save(model, tmp_path / "model.onnx")
    executable = compiled(tmp_path / "model.onnx")
    assert executable.report.float_nodes == 0
    close(tmp_path / "model.onnx", executable)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("weights_as_floats", [False, True])
def test_weights_as_integers_or_as_floats_behind_q_and_dq(
    symmetric: bool, weights_as_floats: bool, tmp_path: Path
) -> None:
    extra = {
        "ActivationSymmetric": symmetric,
        "AddQDQPairToWeight": weights_as_floats,
        "QuantizeBias": not weights_as_floats,
    }
    chosen = options("QDQ", "QInt8", "QInt8", True)
    path = static_model(tmp_path, **chosen, extra_options=extra)
    executable = compiled(path)
    assert in_onnxruntime(executable) == []
    assert executable.report.float_nodes <= 1  # a last layer with a float bias gives floats
    close(path, executable)


@pytest.mark.parametrize("weight", ["QUInt8", "QInt8"])
def test_16_bit_activations_run_and_say_why_they_are_float(weight: str, tmp_path: Path) -> None:
    path = static_model(tmp_path, **options("QDQ", "QUInt16", weight, False))
    executable = compiled(path)
    assert any("not quantized in 8 bits" in why for why, _ in executable.report.float_reasons())
    close(path, executable, 1e-3)


def test_dynamic_quantization_is_native_float_code_with_8_bit_weights(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    path = dynamic_model(tmp_path, weight_type=QuantType.QUInt8)
    executable = compiled(path)
    assert in_onnxruntime(executable) == []
    assert any("while it runs" in note for note in executable.report.notes)
    close(path, executable, 0.03)


def test_with_sample_inputs_dynamic_quantization_becomes_static(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    path = dynamic_model(tmp_path, weight_type=QuantType.QInt8, reduce_range=True)
    executable = qcc.compile(path, feeds(16))
    assert isinstance(executable, qcc.Executable)
    assert executable.report.float_nodes <= 2
    close(path, executable, 0.06)


def test_its_weights_keep_their_grid(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    path = dynamic_model(tmp_path, weight_type=QuantType.QInt8, reduce_range=True)
    graph = read_onnx(path)
    quantized = take_over(graph, backend_config("x86"), feeds(16))
    given = {
        float(np.asarray(value.constant).reshape(()))
        for value in graph.constants.values()
        if value.name.endswith("_scale") and np.asarray(value.constant).size == 1
    }
    found = [set(quant.scale) for quant in weight_quants(quantized)]
    kept = [scales for scales in found if any(np.isclose(list(scales), s).all() for s in given)]
    assert len(kept) == len(found) == 5


def weight_quants(quantized: QuantizedModel) -> list[Any]:
    values = quantized.graph.constants.values()
    quants = [value.tensor.quant for value in values if value.tensor.quant is not None]
    return [quant for quant in quants if quant.storage == "int8"]


def test_sample_inputs_for_a_quantized_model_are_not_used_and_that_is_said(tmp_path: Path) -> None:
    path = static_model(tmp_path, **options("QDQ", "QUInt8", "QInt8", True))
    executable = qcc.compile(path, feeds(2))
    assert UNUSED_SAMPLES in executable.report.notes


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8"])
def test_weights_in_blocks_become_float_kernels(dtype: str, tmp_path: Path) -> None:
    net = Net()
    low, high = {"int4": (-8, 7), "uint4": (0, 15), "int8": (-128, 127)}[dtype]
    stored = net.random.integers(low, high + 1, (32, 8)).astype(onnx_dtype(dtype))
    scale = np.abs(net.normal(2, 8)) + np.float32(0.1)
    w = net.op("DequantizeLinear", stored, scale, axis=0, block_size=16)
    path = tmp_path / "blocks.onnx"
    onnx.save(net.model(net.op("MatMul", net.input("x", 3, 32), w)), path)
    executable = compiled(path)
    assert [row.op for row in executable.report.nodes if row.kernel] == ["MatMul"]
    feed = {"x": net.normal(3, 32)}
    wanted, found = run_literally(path, feed), next(iter(executable.run(feed).values()))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def onnx_dtype(name: str) -> Any:
    import ml_dtypes

    return getattr(ml_dtypes, name, None) or np.dtype(name)


def test_an_op_of_onnxruntimes_own_runs_there_between_native_layers(tmp_path: Path) -> None:
    net = Net()
    x = both(net, net.input("x", *SHAPE))
    y = both(net, net.op("Conv", x, weights(net, 4, 3, 1, 1)))
    y = both(net, net.op("com.microsoft.QuickGelu", y, alpha=1.0))
    path = tmp_path / "model.onnx"
    y = net.op("Conv", y, weights(net, 4, 4, 1, 1))
    onnx.save(net.model(both(net, y, 0.05, np.uint8(100))), path)
    executable = compiled(path)
    assert in_onnxruntime(executable) == ["com.microsoft.QuickGelu"]
    close(path, executable)


def test_nncf(tmp_path: Path) -> None:
    nncf = pytest.importorskip("nncf")
    path = tmp_path / "nncf.onnx"
    onnx.save(nncf.quantize(network(), nncf.Dataset(feeds(16)), subset_size=16), path)
    executable = compiled(path)
    assert in_onnxruntime(executable) == []
    assert executable.report.float_nodes <= 2
    close(path, executable, 0.05)


# -- for a target that takes other numbers ---------------------------------------------------------


def exported(path: Path, samples: Any = None) -> qcc.ExportedModel:
    result = qcc.compile(path, samples, target="tensorrt")
    assert isinstance(result, qcc.ExportedModel)
    return result


@pytest.mark.parametrize(("form", "activation", "weight", "per_channel"), STATIC)
def test_what_has_zero_points_is_quantized_again_by_its_own_ranges(
    form: str, activation: str, weight: str, per_channel: bool, tmp_path: Path
) -> None:
    path = static_model(tmp_path, **options(form, activation, weight, per_channel))
    model = exported(path)
    (note,) = [note for note in model.report.notes if "quantized again by the ranges" in note]
    assert "symmetric int8" in note
    assert "times as wide" in note
    model.save(tmp_path / "again.onnx")
    for feed in feeds(4, seed=9):
        wanted, found = (run_literally(p, feed) for p in (path, tmp_path / "again.onnx"))
        assert np.abs(found - wanted).max() <= 0.12 * np.abs(wanted).max()


def numbers(graph: Graph) -> tuple[list[tuple[Any, Any]], list[Any]]:
    """Scale and zero point of each activation, and the stored weights."""
    quants = [node.output.tensor.quant for node in graph.nodes if node.op == "q.quantize"]
    activations = [(quant.scale, quant.zero_point) for quant in quants if quant is not None]
    readers = [node.operand(1).producer for node in graph.nodes if node.op in LAYERS]
    return activations, [np.asarray(maker.operand(0).constant) for maker in readers if maker]


LAYERS = ("Conv", "Gemm", "MatMul")


@pytest.mark.parametrize("activation", ["QInt8", "QUInt8"])
def test_numbers_that_are_symmetric_stay_as_they_are(activation: str, tmp_path: Path) -> None:
    chosen = options("QDQ", activation, "QInt8", True)
    path = static_model(tmp_path, **chosen, extra_options={"ActivationSymmetric": True})
    model = exported(path)
    assert not any("quantized again" in note for note in model.report.notes)
    assert "int32" not in {value.tensor.storage for value in model.graph.constants.values()}
    rows = {row.op: row.dtype for row in model.report.nodes}
    assert {rows[op] for op in (*LAYERS, "Add", "Concat", "MaxPool")} == {"int8"}
    found, weights = numbers(model.graph)
    given, stored = numbers(import_quantized(read_onnx(path)).graph)
    assert {zero for _, zero in given} == ({(0,)} if activation == "QInt8" else {(128,)})
    assert found == [(scale, (0,)) for scale, _ in given]
    assert len(weights) == len(stored) == 5
    for ours, theirs in zip(weights, stored, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sample_inputs_give_new_ranges(tmp_path: Path) -> None:
    path = static_model(tmp_path, **options("QDQ", "QUInt8", "QInt8", True))
    model = exported(path, feeds(16))
    assert not any("quantized again" in note for note in model.report.notes)
    model.save(tmp_path / "again.onnx")
    for feed in feeds(4, seed=9):
        wanted, found = (run_literally(p, feed) for p in (path, tmp_path / "again.onnx"))
        assert np.abs(found - wanted).max() <= 0.12 * np.abs(wanted).max()


def test_weights_alone_become_floats_without_sample_inputs(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType

    path = dynamic_model(tmp_path, weight_type=QuantType.QUInt8)
    model = exported(path)
    assert any("they become float32" in note for note in model.report.notes)
    assert not any(op.startswith("q.") for op in ops_of(model.graph))


def test_numbers_that_are_computed_are_refused_in_one_sentence(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("QuantizeLinear", ["x", "m", "z"], ["q"], name="by_maximum"),
        helper.make_node("DequantizeLinear", ["q", "m", "z"], ["y"]),
    ]
    zero = onnx.numpy_helper.from_array(np.int8(0), "z")
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [zero])
    path = tmp_path / "computed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    with pytest.raises(qcc.errors.ModelError, match=r"'by_maximum' .* has no form"):
        exported(path)
