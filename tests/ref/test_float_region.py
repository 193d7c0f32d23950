"""Float regions and whole float graphs run by onnxruntime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qcc.errors import ConfigError, DataError, ModelError
from qcc.ir.core import Graph
from qcc.ir.types import UNKNOWN, Quant, TensorType, float32
from qcc.onnxio import read_onnx
from qcc.ref import float_region
from qcc.ref.float_region import FloatRegion, FloatRunner, region_inputs, region_model
from tests.onnxio.models import info, model

make = helper.make_node
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def chain() -> Graph:
    """x -> Mul by c -> h -> Relu -> r -> Add h -> y."""
    nodes = [
        make("Mul", ["x", "c"], ["h"]),
        make("Relu", ["h"], ["r"]),
        make("Add", ["r", "h"], ["y"]),
    ]
    return read_onnx(model(nodes, {"x": X}, ["y"], 21, {"c": np.float32(3) * np.ones_like(X)}))


def conditional() -> Graph:
    """An If whose bodies capture an input, a constant and a node's output."""
    branches = [
        helper.make_graph([make(op, ["h", "c"], [op])], op, [], [info(op, X)])
        for op in ("Add", "Sub")
    ]
    nodes = [
        make("Mul", ["x", "x"], ["h"]),
        make("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    return read_onnx(model(nodes, {"x": X, "flag": np.asarray(True)}, ["y"], 21, {"c": X}))


def test_a_region_holds_its_constants_and_computes_its_outputs() -> None:
    graph = chain()
    nodes = graph.nodes[:2]
    assert region_inputs(nodes) == [graph.inputs[0]]
    serialized = region_model(nodes, graph.inputs, [nodes[1].output, nodes[0].output])
    onnx.checker.check_model(serialized, full_check=True)
    relu, product = FloatRegion(serialized).run([X])
    np.testing.assert_array_equal(product, X * 3)
    np.testing.assert_array_equal(relu, np.maximum(X * 3, 0))


def test_inputs_and_outputs_keep_their_order() -> None:
    graph = chain()
    add = graph.nodes[2]
    r, h = add.operand(0), add.operand(1)
    for inputs in ([r, h], [h, r]):
        region = FloatRegion(region_model([add], inputs, [add.output]))
        arrays = {r: X, h: 10 * X}
        np.testing.assert_array_equal(region.run([arrays[v] for v in inputs])[0], 11 * X)


def test_the_model_is_the_same_every_time() -> None:
    first, second = chain(), chain()
    assert region_model(first.nodes, first.inputs, first.outputs) == region_model(
        second.nodes, second.inputs, second.outputs
    )


def test_captured_values_of_bodies_are_inputs_or_constants() -> None:
    graph = conditional()
    branch = graph.nodes[1]
    needed = region_inputs([branch])
    assert [value.name for value in needed] == ["flag", "h"]
    region = FloatRegion(region_model([branch], needed, [branch.output]))
    np.testing.assert_array_equal(region.run([np.asarray(True), X * X])[0], X * X + X)
    np.testing.assert_array_equal(region.run([np.asarray(False), X * X])[0], X * X - X)
    with pytest.raises(ValueError, match="also reads h"):
        region_model([branch], needed[:1], [branch.output])


def test_a_constant_may_be_an_input_or_an_output() -> None:
    graph = chain()
    constant = graph.constants["c"]
    product = graph.nodes[0]
    fed = FloatRegion(region_model([product], [graph.inputs[0], constant], [product.output]))
    np.testing.assert_array_equal(fed.run([X, X])[0], X * X)
    given = FloatRegion(region_model([product], graph.inputs, [constant, product.output]))
    np.testing.assert_array_equal(given.run([X])[0], np.full_like(X, 3))


def test_a_region_without_inputs_runs() -> None:
    graph = Graph("g")
    node = graph.create_node(
        "Add",
        [graph.add_constant("a", X), graph.add_constant("b", X)],
        [float32(2, 3)],
    )
    np.testing.assert_array_equal(
        FloatRegion(region_model([node], [], [node.output])).run([])[0], X + X
    )


def test_quantized_values_cross_the_border_as_integers() -> None:
    quant = Quant.make("int8", 0.5, 1)
    graph = Graph("g")
    x = graph.add_input("x", TensorType((3,), quant))
    real = graph.create_node("q.dequantize", [x], [float32(3)])
    doubled = graph.create_node("Add", [real.output, real.output], [float32(3)])
    stored = graph.create_node("q.quantize", [doubled.output], [TensorType((3,), quant)])
    region = FloatRegion(region_model(graph.nodes, [x], [stored.output]))
    (found,) = region.run([np.asarray([1, 3, 100], np.int8)])
    np.testing.assert_array_equal(found, np.asarray([1, 5, 127], np.int8))


def test_functions_of_the_model_are_known_in_a_region() -> None:
    function = helper.make_function(
        "mine",
        "twice",
        ["a"],
        ["r"],
        [make("Add", ["a", "a"], ["r"])],
        [helper.make_opsetid("", 21)],
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    node = make("twice", ["x"], ["y"], domain="mine")
    proto = model([node], {"x": X}, ["y"], 21, functions=[function], opset_imports=imports)
    graph = read_onnx(proto)
    region = FloatRegion(region_model(graph.nodes, graph.inputs, graph.outputs))
    np.testing.assert_array_equal(region.run([X])[0], X + X)


def test_regions_that_cannot_be_made_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain()
    with monkeypatch.context() as patch:
        patch.setattr(float_region, "REGION_LIMIT", X.nbytes - 1)
        with pytest.raises(ModelError, match="one ONNX model ends at 2 GB"):
            region_model(graph.nodes, graph.inputs, graph.outputs)
    graph.inputs[0].type = UNKNOWN
    with pytest.raises(ModelError, match="type of 'x' is not known"):
        region_model(graph.nodes, graph.inputs, graph.outputs)


def test_what_onnxruntime_refuses_is_one_sentence() -> None:
    graph = Graph("g")
    x = graph.add_input("x", float32(2, 3))
    node = graph.create_node("alien.Thing", [x], [float32(2, 3)], name="n")
    with pytest.raises(
        ModelError, match=r"cannot load the float part of the model: .*Thing"
    ) as info_:
        FloatRegion(region_model([node], [x], [node.output])).run([X])
    assert "\n" not in str(info_.value)
    plain = chain()
    region = FloatRegion(region_model(plain.nodes, plain.inputs, plain.outputs))
    with pytest.raises(DataError, match="onnxruntime refuses the data"):
        region.run([X[0]])


def test_running_needs_no_onnx(tmp_path: Path) -> None:
    graph = chain()
    path = tmp_path / "region"
    path.write_bytes(region_model(graph.nodes, graph.inputs, graph.outputs))
    program = (
        "import sys, pathlib, numpy; from qcc.ref.float_region import FloatRegion; "
        "model = pathlib.Path(sys.argv[1]).read_bytes(); "
        "FloatRegion(model).run([numpy.zeros((2, 3), 'float32')]); "
        "sys.exit('onnx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0


# -- whole graphs ----------------------------------------------------------------------------------


def test_any_value_of_the_main_graph_can_be_fetched() -> None:
    graph = chain()
    wanted = [*graph.inputs, *graph.constants.values(), *(node.output for node in graph.nodes)]
    found = FloatRunner(graph, wanted).run({"x": X})
    assert list(found) == ["x", "c", "h", "r", "y"]
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["c"], np.full_like(X, 3))
    np.testing.assert_array_equal(found["h"], X * 3)
    np.testing.assert_array_equal(found["r"], np.maximum(X * 3, 0))
    np.testing.assert_array_equal(found["y"], np.maximum(X * 3, 0) + X * 3)


def test_fetched_values_are_the_graphs_own_where_onnxruntime_would_fuse() -> None:
    random = np.random.default_rng(1)
    image = random.normal(size=(1, 3, 8, 8)).astype(np.float32)
    weights = {
        "w": random.normal(size=(4, 3, 3, 3)).astype(np.float32),
        **{n: np.abs(random.normal(size=4)).astype(np.float32) + 1 for n in "sbmv"},
    }
    nodes = [
        make("Conv", ["x", "w"], ["conv"]),
        make("BatchNormalization", ["conv", *"sbmv"], ["norm"]),
        make("Relu", ["norm"], ["y"]),
    ]
    graph = read_onnx(model(nodes, {"x": image}, ["y"], 21, weights))
    alone = FloatRunner(graph, [graph.value("y")]).run({"x": image})["y"]
    found = FloatRunner(graph, [node.output for node in graph.nodes]).run({"x": image})
    s, b, m, v = (weights[name].reshape(1, 4, 1, 1) for name in "sbmv")
    norm = (found["conv"] - m) / np.sqrt(v + 1e-5) * s + b
    np.testing.assert_allclose(found["norm"], norm, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["y"], np.maximum(found["norm"], 0))
    np.testing.assert_allclose(found["y"], alone, rtol=1e-5, atol=1e-5)


def test_quantization_is_never_fused_away() -> None:
    quant, wide = Quant.make("uint8", 0.1, 7), np.linspace(-30, 30, 6, dtype=np.float32)
    graph = Graph("g")
    x = graph.add_input("x", float32(2, 3))
    q = graph.create_node("q.quantize", [x], [TensorType((2, 3), quant)])
    d = graph.create_node("q.dequantize", [q.output], [float32(2, 3)])
    graph.set_outputs([graph.create_node("Relu", [d.output], [float32(2, 3)]).output])
    found = FloatRunner(graph, [d.output, *graph.outputs]).run({"x": wide.reshape(2, 3)})
    real = found[d.output.name]
    assert real.min() == np.float32(-7) * np.float32(0.1)
    np.testing.assert_array_equal(found[graph.outputs[0].name], np.maximum(real, 0))


def test_observers_pass_values_through() -> None:
    graph = Graph("g")
    x = graph.add_input("x", float32(2, 3))
    seen = graph.create_node("q.observe", [x], [float32(2, 3)])
    graph.set_outputs([graph.create_node("Relu", [seen.output], [float32(2, 3)]).output])
    found = FloatRunner(graph, [seen.output, *graph.outputs]).run({"x": X})
    np.testing.assert_array_equal(found[seen.output.name], X)


def test_big_constants_are_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_region, "SHARED_FROM", 1)
    graph = chain()
    found = FloatRunner(graph, graph.outputs).run({"x": X})
    np.testing.assert_array_equal(found["y"], np.maximum(X * 3, 0) + X * 3)


def test_values_inside_bodies_cannot_be_fetched() -> None:
    graph = conditional()
    inner = graph.nodes[1].subgraphs[0].nodes[0].output
    with pytest.raises(ConfigError, match="inside a control-flow body"):
        FloatRunner(graph, [inner])
    FloatRunner(graph, [graph.nodes[1].output]).run({"x": X, "flag": np.asarray(False)})


def test_feeds_that_do_not_fit_are_refused() -> None:
    graph = chain()
    runner = FloatRunner(graph, graph.outputs)
    with pytest.raises(DataError, match="needs the input 'x'"):
        runner.run({})
    with pytest.raises(DataError, match="has no input 'z'; its inputs are x"):
        runner.run({"x": X, "z": X})
    with pytest.raises(DataError, match="onnxruntime refuses the data"):
        runner.run({"x": X.astype(np.float64)})


def test_symbolic_batches_run() -> None:
    proto = model([make("Relu", ["x"], ["y"])], {"x": X}, ["y"], 21)
    for item in (*proto.graph.input, *proto.graph.output):
        item.type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3]))
    runner = FloatRunner((graph := read_onnx(proto)), graph.outputs)
    for count in (0, 1, 5):
        assert runner.run({"x": np.ones((count, 3), np.float32)})["y"].shape == (count, 3)


def test_a_shape_that_only_running_refutes() -> None:
    """Inference cannot know what NonZero gives; the values do."""
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[2, 3] x) => (int64[2, 5] y) { n = NonZero(x)  y = Neg(n) }""")
    graph = read_onnx(proto)
    runner = FloatRunner(graph, graph.outputs)
    runner.run({"x": np.asarray([[1, 1, 1], [1, 1, 0]], np.float32)})
    with pytest.raises(ModelError, match=r"'y' has the shape \[2, 5\].* \[2, 6\]; correct"):
        runner.run({"x": np.ones((2, 3), np.float32)})
