"""Exports are checked before they are given; options change what is written, not what it means."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

import qcc
from qcc.compiler import compile_file
from qcc.errors import ConfigError, ModelError
from qcc.exports import ExportedModel, ExportOptions
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph
from qcc.ir.types import float32
from qcc.lint import lint_model
from qcc.runtime import tensorrt_builder
from qcc.runtime.tensorrt_builder import BuilderReport

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"


def feeds(count: int = 3) -> list[dict[str, Array]]:
    with np.load(DIGITS / "calib.npz") as data:
        images = data["x"]
    return [{"x": images[8 * i : 8 * i + 8]} for i in range(count)]


def exported(**options: object) -> ExportedModel:
    made = qcc.compile(DIGITS / "digits.onnx", feeds(), target="tensorrt", **options)  # type: ignore[arg-type]
    assert isinstance(made, ExportedModel)
    return made


def run(path: Path) -> Array:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds(1)[0])[0])


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "digits.trt.onnx"
    exported().save(path)
    return path


def test_an_export_keeps_the_rules_and_says_what_was_checked(plain: Path) -> None:
    assert lint_model(plain, "tensorrt").findings == ()
    notes = " ".join(exported().report.notes)
    assert "op by op in onnxruntime" in notes
    assert "step(s)" in notes


def test_inputs_and_outputs_stay_float_and_biases_too(plain: Path) -> None:
    model = onnx.load(plain)
    names = {output.name for output in model.graph.output}
    last = next(node for node in model.graph.node if set(node.output) & names)
    assert last.op_type == "Gemm"
    biases = [node.input[2] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    floats = {
        item.name for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT
    }
    assert len(biases) == 4
    assert set(biases) <= floats


def test_nothing_clamps_in_front_of_a_quantize(plain: Path) -> None:
    assert not {"Clip", "Max", "Min"} & set(ops(onnx.load(plain)))


def test_a_script_lies_beside_it(plain: Path) -> None:
    script = plain.with_name("digits.trt.sh")
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert "trtexec --onnx=digits.trt.onnx --stronglyTyped --saveEngine=digits.plan" in text
    assert "--optShapes=x:8x1x8x8" in text
    assert "--minShapes=x:1x1x8x8" in text
    assert "polygraphy run digits.trt.onnx" in text


def test_float16_leaves_interface_and_results(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    exported(float_type="float16").save(path)
    model = onnx.load(path)
    interface = [*model.graph.input, *model.graph.output]
    assert {item.type.tensor_type.elem_type for item in interface} == {onnx.TensorProto.FLOAT}
    kinds = {item.data_type for item in model.graph.initializer}
    assert onnx.TensorProto.FLOAT not in kinds
    assert onnx.TensorProto.FLOAT16 in kinds
    assert lint_model(path, "tensorrt").findings == ()
    expected, got = run(plain), run(path)
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_float_weights_mean_the_same_bytes(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "floats.onnx"
    exported(float_weights=True).save(path)
    model = onnx.load(path)
    integers = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8]
    assert all(len(item.dims) <= 1 for item in integers)  # zero points
    assert ops(model).count("QuantizeLinear") == ops(onnx.load(plain)).count("QuantizeLinear") + 4
    np.testing.assert_array_equal(run(path), run(plain))


def test_float8_stands_where_int8_does(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "float8.onnx"
    made = exported(precision="float8")
    made.save(path)
    model = onnx.load(path)
    assert ops(model).count("QuantizeLinear") == ops(onnx.load(plain)).count("QuantizeLinear")
    kinds = {item.data_type for item in model.graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in kinds
    assert onnx.TensorProto.INT8 not in kinds
    assert made.report.quantized_type == "float8"
    assert made.report.output_sqnr_db["logits"] > 15.0
    assert lint_model(path, "tensorrt").errors == ()


def test_int4_weights_need_no_samples(tmp_path: Path) -> None:
    made = qcc.compile(DIGITS / "digits.onnx", target="tensorrt", precision="int4-weights")
    assert isinstance(made, ExportedModel)
    made.save(tmp_path / "int4.onnx")
    model = onnx.load(tmp_path / "int4.onnx")
    (dequantize,) = (node for node in model.graph.node if node.op_type == "DequantizeLinear")
    assert {a.name: a.i for a in dequantize.attribute} == {"axis": 1, "block_size": 32}
    assert lint_model(tmp_path / "int4.onnx", "tensorrt").errors == ()


def test_a_calibration_cache_holds_scales_as_hex(tmp_path: Path) -> None:
    cache = tmp_path / "digits.cache"
    compile_file(
        DIGITS / "digits.onnx",
        tmp_path / "digits.onnx",
        calibration=feeds(),
        target="tensorrt",
        calibration_cache=cache,
    )
    header, *lines = cache.read_text().splitlines()
    assert header == "TRT-8501-EntropyCalibration2"
    scales = {}
    for line in lines:
        name, _, digits = line.partition(": ")
        scales[name] = np.frombuffer(bytes.fromhex(digits), ">f4")[0]
    names = {name for node in onnx.load(DIGITS / "digits.onnx").graph.node for name in node.output}
    assert set(scales) <= names
    assert len(scales) >= 4
    assert all(0 < scale < 10 for scale in scales.values())


WRONG = [
    ({"float_type": "float64"}, "there is no float type 'float64': use float32 or float16"),
    ({"target": "onnx", "float_type": "float16"}, "int32 bias"),
    ({"target": "x86-avx2", "float_type": "float16"}, "options of exported models"),
    ({"target": "onnx", "precision": "float8"}, "float8 is for --target tensorrt, not for onnx"),
    ({"target": "tensorrt", "precision": "int5"}, "there is no precision 'int5'"),
    ({"target": "tensorrt", "precision": "float8", "observer": "mse"}, "leave out observer"),
    ({"target": "tensorrt", "float_type": "float16", "opset": 17}, "needs opset 19"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG)
def test_what_cannot_be_is_said_in_a_sentence(options: dict[str, object], sentence: str) -> None:
    target = options.pop("target", "tensorrt")
    with pytest.raises(ConfigError, match=sentence):
        qcc.compile(DIGITS / "digits.onnx", feeds(), target=str(target), **options)  # type: ignore[arg-type]


def overflowing() -> Graph:
    """A product that passes 65504, made small again."""
    b = GraphBuilder()
    x = b.input("x", float32(2, 16))
    w = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    y = b.op.MatMul(x, b.constant(w * 3e4, "w"))
    return b.output(b.op.Mul(b.op.Softplus(y), b.constant(np.float32(1e-5), "c")))


def test_numbers_that_pass_float16_are_refused() -> None:
    batches = [{"x": np.full((2, 16), 3.0, np.float32) + i} for i in range(4)]
    qcc.compile(overflowing(), batches, target="tensorrt")
    with pytest.raises(ModelError, match="export the model with float32"):
        qcc.compile(overflowing(), batches, target="tensorrt", float_type="float16")


def test_without_nvidias_parser_a_note_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_builder, "PACKAGES", ())
    made = exported()
    assert isinstance(made.built, str)
    assert any("pip install 'qcc[tensorrt]'" in note for note in made.report.notes)
    with pytest.raises(ConfigError, match=r"an engine cannot be built.*pip install"):
        made.engine()


def test_a_builder_that_needs_a_gpu_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed and cannot build here is another reason than what is not installed."""
    monkeypatch.setattr(tensorrt_builder, "PACKAGES", ("library_of_a_gpu",))
    library = SimpleNamespace(ILogger=type("ILogger", (), {}), Builder=lambda: None)
    monkeypatch.setitem(sys.modules, "library_of_a_gpu", library)  # its Builder takes no log
    with pytest.raises(ConfigError, match=r"an engine cannot be built.*needs a GPU") as caught:
        exported().engine()
    assert "pip install" not in str(caught.value)


def test_an_engine_is_written_where_the_builder_is(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    made = exported()
    assert isinstance(made.built, BuilderReport)
    assert made.engine() == made.built.engine
    assert len(made.engine()) > 10_000
    assert "4 of 4 quantized layers on Int8 values" in " ".join(made.report.notes)


def test_options_compare_by_value() -> None:
    assert ExportOptions(21) == ExportOptions()
    assert ExportOptions(float_weights=True) != ExportOptions()
