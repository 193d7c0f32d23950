"""Models as nodes and values that know each other, also where little is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcc.errors import ConfigError, ModelError
from qcc.lint import lint_model
from qcc.lint.index import ModelIndex
from qcc.lint.quantizers import Product
from tests.lint.models import Net, good_conv, random


def value(index: ModelIndex, name: str) -> Any:
    return next(tensor for tensor in index.tensors if tensor.name == name)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([1, 2], np.int8))}, np.array([1, 2], np.int8)),
        ({"value_float": 0.5}, np.float32(0.5)),
        ({"value_floats": [0.5, 1.0]}, np.array([0.5, 1.0], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, np.array([3, 4])),
    ],
)
def test_constants_are_read_in_every_form(attributes: dict[str, Any], expected: Any) -> None:
    net = Net()
    y = net.node("Identity", net.node("Constant", **attributes))
    index = ModelIndex(net.model(y))
    found = index.constant(value(index, y))
    assert found is not None
    assert (found.dtype, found.shape) == (np.asarray(expected).dtype, np.shape(expected))
    assert np.array_equal(found, expected)


def test_what_is_computed_from_constants_is_constant_and_has_no_data() -> None:
    net = Net()
    y = net.node("Add", net.constant(np.float32(1)), net.constant(np.float32(2)))
    z = net.node("Add", y, net.input("x", []))
    index = ModelIndex(net.model(z))
    assert index.is_constant(value(index, y))
    assert index.constant(value(index, y)) is None
    assert not index.is_constant(value(index, z))


def test_names_in_a_body_mean_the_nearest_value() -> None:
    inner = helper.make_graph(
        [
            helper.make_node("Neg", ["x"], ["y"], name="uses-outer"),
            helper.make_node("Abs", ["y"], ["z"], name="uses-own"),
        ],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
    )
    net = Net()
    x = net.node("Relu", net.input("i", [2]), name="x")
    net.nodes[-1].output[0] = "x"
    y = net.node("If", net.input("b", [], TensorProto.BOOL), then_branch=inner, else_branch=inner)
    del x
    index = ModelIndex(net.model(y))
    uses = {o.label: o for o in index.operations}
    outer = uses["uses-outer"].input(0)
    assert outer is not None
    assert outer.producer is uses["x"]
    own = uses["uses-own"].input(0)
    assert own is not None
    assert own.producer is not None
    assert own.producer.op == "Neg"
    assert len(outer.users) == 2


def test_the_axis_of_a_weight_is_followed_through_several_transpositions() -> None:
    net = Net()
    w = net.weight(random(8, 16, 3, 5), 0)
    w = net.node("Transpose", w, perm=[1, 2, 3, 0])
    w = net.node("Transpose", w, perm=[3, 0, 1, 2])
    net.node("Conv", net.pair(net.input("x", ["n", 16, 8, 8])), w, name="conv")
    index = ModelIndex(net.model("conv_y"))
    (conv,) = index.of("Conv")
    assert Product(index, conv).weight_axis(4) == 0
    assert Product(index, conv).weight_shape == (8, 16, 3, 5)


def test_rules_work_where_shapes_cannot_be_inferred() -> None:
    net = Net()
    x = net.pair(net.node("unknown.Op", net.input("x", ["n", 16, 8, 8])), 0.05, np.uint8(3))
    w = net.node("Transpose", net.weight(random(16, 32), 1, written=0), perm=[0, 1])
    net.node("MatMul", x, w, name="product")
    model = net.model("product_y")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    del model.graph.value_info[:]
    assert {f.rule for f in lint_model(model, "tensorrt").errors} == {"E1", "E6"}


def test_damaged_data_are_one_sentence(tmp_path: Path) -> None:
    model = good_conv().model("conv_y")
    model.graph.initializer[0].raw_data = b"\0"
    with pytest.raises(ModelError, match="holds 1 bytes"):
        lint_model(model, "tensorrt")
    model = good_conv().model("conv_y")
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    with pytest.raises(ModelError, match=r"m\.data"):
        lint_model(path, "tensorrt")


def test_values_that_are_given_twice_or_too_late_are_one_sentence() -> None:
    net = good_conv()
    net.nodes[1].output[0] = net.nodes[0].output[0]
    with pytest.raises(ModelError, match="given twice, the second time by the node 'dequant"):
        lint_model(net.model("conv_y"), "tensorrt")
    net = good_conv()
    model = net.model("conv_y")
    first = onnx.NodeProto()
    first.CopyFrom(model.graph.node[0])
    del model.graph.node[0]
    model.graph.node.append(first)
    with pytest.raises(ModelError, match="sort the nodes"):
        lint_model(model, "tensorrt")


def test_a_value_that_is_moved_from_itself_is_no_endless_search() -> None:
    net = Net()
    y = net.node("Relu", net.dequantize("moved"))
    net.nodes.insert(0, helper.make_node("Transpose", ["moved"], ["moved"], name="circle"))
    model = helper.make_model(helper.make_graph(net.nodes, "net", [], []))
    model.graph.output.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, None))
    model.graph.initializer.extend(net.initializers.values())
    with pytest.raises(ModelError, match="before"):
        lint_model(model, "tensorrt")


def test_an_unknown_target_is_one_sentence_that_names_the_known() -> None:
    with pytest.raises(ConfigError, match="tensorrt, onnx, onnx-openvino, onnx-generic"):
        lint_model(good_conv().model("conv_y"), "z80")


def test_a_report_is_data_and_text() -> None:
    net = good_conv()
    net.nodes[0].name = ""
    report = lint_model(net.model("conv_y"), "tensorrt")
    assert str(report).startswith("W8 warning: QuantizeLinear (output 'quantizelinear1_y'): ")
    assert str(report).endswith("[--fix repairs it]")
    said = report.to_dict()
    assert (said["errors"], said["warnings"], said["notes"]) == (0, 1, 0)
    assert said["findings"][0]["severity"] == "warning"
