"""NVIDIA's parser and builder: what their log says, and what becomes of good and bad models."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from qcc.errors import ConfigError
from qcc.onnxio import write_onnx
from qcc.runtime import tensorrt_builder
from qcc.runtime.tensorrt_builder import BuilderReport, BuiltLayer, build, installed, read_layer
from tests.backends.tensorrt.placements import SmallNet, quantized


def tensor(name: str, element: str, shape: str = "[1,16,6,6]") -> str:
    return (
        f"{{ Name: {name}, Dimensions: {shape}, Strides: [576,1,96,16], StrideOrder: [3,0,2,1], "
        f"Datatype: {element}, Format: (NHWC) Channel major format }}"
    )


def line(
    name: str, kind: str, inputs: list[str], constants: list[str], outputs: list[str], origins: str
) -> str:
    """A line as the builder's verbose log holds it, with tensors of these types."""
    parts = [
        f"{title}: [ {', '.join(tensor(f't{i}', e) for i, e in enumerate(elements))}], "
        if elements
        else f"{title}: [], "
        for title, elements in (("Inputs", inputs), ("Constants", constants), ("Outputs", outputs))
    ]
    return (
        f"Name: {name}, LayerType: {kind}, {''.join(parts)}TacticName: __myelin_CASK_STUB, "
        f"StreamId: 0, Metadata: {origins}"
    )


CONV = line(
    "conv1_U9_myl0_1",
    "correlation",
    ["Int8"],
    ["Int8", "Float", "Float"],
    ["Float"],
    "[ONNX Layer: conv1]\x1f[ONNX Layer: x_real/dequantize]\x1f[ONNX Layer: w_real/dequantize]",
)


# -- lines -----------------------------------------------------------------------------------------


def test_a_line_of_a_layer_is_read() -> None:
    assert read_layer(CONV) == BuiltLayer(
        "conv1_U9_myl0_1",
        "correlation",
        ("Int8",),
        ("Int8", "Float", "Float"),
        ("Float",),
        ("conv1", "x_real/dequantize", "w_real/dequantize"),
    )


def test_a_layer_without_constants_has_none() -> None:
    found = read_layer(line("mha_U1", "gemm", ["Int8", "Int8"], [], ["Half"], "[ONNX Layer: qk]"))
    assert found is not None
    assert (found.inputs, found.constants, found.outputs) == (("Int8", "Int8"), (), ("Half",))
    assert found.multiplies("Int8")


def test_a_layer_of_several_nodes_names_all_of_them_once() -> None:
    origins = "[ONNX Layer: a\x1eb]\x1f[ONNX Layer: b]\x1f[ONNX Layer: c]"
    found = read_layer(line("l", "gemm", ["Float"], ["Float"], ["Float"], origins))
    assert found is not None
    assert found.origins == ("a", "b", "c")


def test_names_of_nodes_may_hold_brackets() -> None:
    origins = "[ONNX Layer: /blocks[0]/conv/Conv]\x1f[ONNX Layer: a]"
    found = read_layer(line("l", "gemm", ["Float"], ["Float"], ["Float"], origins))
    assert found is not None
    assert found.origins == ("/blocks[0]/conv/Conv", "a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Name: conv1, but of no layer",
        "Engine Layer Information:",
        "  Name: indented, LayerType: gemm, Inputs: []",
    ],
)
def test_other_lines_are_no_layers(text: str) -> None:
    assert read_layer(text) is None


@pytest.mark.parametrize(
    ("kind", "inputs", "constants", "wanted"),
    [
        ("correlation", ["Int8"], ["Int8", "Float"], True),
        ("correlation", ["Int8", "Int8"], ["Int8"], True),
        ("correlation", ["Float"], ["Int8"], False),
        ("correlation", ["Int8"], ["Float"], False),
        ("gemm", ["Half"], ["Half"], False),
        ("gemm", [], ["Int8"], False),
        ("kgen", ["Int8"], ["Int8"], False),
    ],
)
def test_layers_that_multiply_int8(
    kind: str, inputs: list[str], constants: list[str], wanted: bool
) -> None:
    found = read_layer(line("l", kind, inputs, constants, ["Float"], "[ONNX Layer: a]"))
    assert found is not None
    assert found.multiplies("Int8") == wanted


def test_a_report_names_the_nodes_that_no_layer_computes_in_int8() -> None:
    pointwise = line("k", "kgen", ["Float"], ["Float"], ["Int8"], "[ONNX Layer: conv1]")
    float_conv = line("d", "deconv", ["Float"], ["Float"], ["Float"], "[ONNX Layer: conv2]")
    layers = tuple(found for text in (CONV, pointwise, float_conv) if (found := read_layer(text)))
    report = BuilderReport("library 1.0", layers=layers)
    assert report.others(["conv1", "conv2", "conv3"]) == ("conv2", "conv3")
    assert report.types_of("conv2") == "deconv (Float x Float -> Float)"
    assert report.types_of("conv1") == (
        "correlation (Int8 x Int8 -> Float); kgen (Float x Float -> Int8)"
    )
    assert report.types_of("conv3") == "no layer of its own"


# -- building --------------------------------------------------------------------------------------


def exported(rows: int | str = 2) -> onnx.ModelProto:
    """Two convolutions with a skip, exported for TensorRT."""
    net = SmallNet()
    x = net.input("x", rows, 16, 6, 6)
    stem = net.op("Relu", net.conv(x, bias=True))
    joined = net.op("Relu", net.op("Add", net.conv(stem), stem))
    model = write_onnx(quantized(net.graph(net.conv(joined))).graph)
    assert isinstance(model, onnx.ModelProto)
    return model


@pytest.fixture
def _builder() -> None:
    pytest.importorskip("tensorrt_rtx")


@pytest.mark.usefixtures("_builder")
def test_a_good_model_is_built_in_int8() -> None:
    report = build(exported().SerializeToString())
    assert (report.errors, report.warnings) == ((), ())
    assert report.library.startswith("tensorrt")
    assert report.engine
    assert report.others(["conv1", "conv2", "conv3"]) == ()
    assert report.others(["add1"]) == ("add1",)


@pytest.mark.usefixtures("_builder")
@pytest.mark.parametrize("shapes", [None, {"x": (4, 16, 6, 6)}])
def test_a_model_with_an_open_batch_is_built_up_to_the_given_size(shapes: Any) -> None:
    report = build(exported("batch").SerializeToString(), shapes)
    assert (report.errors, report.warnings) == ((), ())
    assert report.engine
    assert report.others(["conv1", "conv2", "conv3"]) == ()


@pytest.mark.usefixtures("_builder")
def test_a_model_whose_data_lie_beside_it_is_built_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(exported(), path, save_as_external_data=True, location="model.onnx.data")
    assert (tmp_path / "model.onnx.data").is_file()
    report = build(path)
    assert (report.errors, report.warnings) == ((), ())
    assert report.others(["conv1", "conv2", "conv3"]) == ()


@pytest.mark.usefixtures("_builder")
def test_a_zero_point_other_than_0_is_an_error() -> None:
    model = exported()
    node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    zero = next(c for c in model.graph.initializer if c.name == node.input[2])
    assert not numpy_helper.to_array(zero).any()
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))
    report = build(model.SerializeToString())
    assert report.engine is None
    assert any("zero point" in text for text in report.errors)


@pytest.mark.usefixtures("_builder")
def test_nodes_with_brackets_in_their_names_are_found_again() -> None:
    model = exported()
    for node in model.graph.node:
        node.name = f"/blocks[{node.name}]/{node.op_type}"
    report = build(model.SerializeToString())
    assert report.errors == ()
    assert report.others([f"/blocks[conv{i}]/Conv" for i in (1, 2, 3)]) == ()


@pytest.mark.usefixtures("_builder")
def test_what_is_no_model_is_an_error() -> None:
    report = build(b"no model")
    assert report.errors
    assert report.engine is None
    assert report.layers == ()


@pytest.mark.usefixtures("_builder")
def test_a_convolution_of_float_weights_is_not_reported_as_int8() -> None:
    net = SmallNet()
    model = write_onnx(net.graph(net.conv(net.image())))
    assert isinstance(model, onnx.ModelProto)
    report = build(model.SerializeToString())
    assert report.errors == ()
    assert report.others(["conv1"]) == ("conv1",)


def test_without_a_package_one_sentence_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_module = importlib.import_module

    def absent(name: str) -> ModuleType:
        if name in tensorrt_builder.PACKAGES:
            raise ImportError(f"No module named '{name}'")
        return import_module(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    assert installed() is None
    with pytest.raises(ConfigError, match=r"pip install 'qcc\[tensorrt\]'"):
        build(b"")


def test_a_package_without_its_libraries_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        raise OSError(f"lib{name}.so.1: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert installed() is None


def test_a_package_that_needs_a_gpu_gives_way_to_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first package has a builder that cannot be made; the second one is not there."""
    needy = ModuleType("tensorrt")

    class Logger:
        pass

    class Builder:
        def __init__(self, log: Any) -> None:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    vars(needy).update(ILogger=Logger, Builder=Builder)

    def only_needy(name: str) -> ModuleType:
        if name == "tensorrt":
            return needy
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", only_needy)
    with pytest.raises(ConfigError, match="the builder of tensorrt needs a GPU, and finds none"):
        build(b"")
