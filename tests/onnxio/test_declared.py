"""Models that declare wrong shapes: they are read with the shapes that their nodes give."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto

from qcc.ir.core import Graph
from qcc.ir.types import Shape
from qcc.onnxio import read_onnx, to_model_proto
from tests.onnxio.models import run_in_runtime

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def parse(text: str) -> ModelProto:
    return onnx.parser.parse_model(HEAD + text)


def network(output: str, inner: str = "", batch: str = "1") -> ModelProto:
    """x [batch, 2, 4, 4], Conv c [batch, 3, 4, 4], Flatten f [batch, 48], MatMul y [batch, 5].

    ``output`` is the declaration of y, ``inner`` those of inner values.
    """
    proto = parse(f"""g (float[{batch}, 2, 4, 4] x) => ({output} y) <{inner}> {{
        c = Conv<pads = [1, 1, 1, 1]>(x, w)
        f = Flatten(c)
        y = MatMul(f, m) }}""")
    random = np.random.default_rng(0)
    for name, shape in (("w", (3, 2, 3, 3)), ("m", (48, 5))):
        data = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    return proto


def shapes(graph: Graph) -> dict[str, Shape]:
    return {value.name: value.tensor.shape for node in graph.nodes for value in node.outputs}


TRUE = {"c": (1, 3, 4, 4), "f": (1, 48), "y": (1, 5)}


@pytest.mark.parametrize("output", ["float[1, 5]", "float[a, b]", "float[1, b]", "float[]"])
def test_what_is_compatible_needs_no_words(output: str) -> None:
    """``float[]`` is a tensor of unknown shape."""
    graph = read_onnx(network(output, "float[q, 3, r, 4] c"))
    assert graph.info.notes == []
    assert all(
        isinstance(a, str) or a == b
        for name, shape in shapes(graph).items()
        for a, b in zip(shape or (), TRUE[name], strict=True)
    )


@pytest.mark.parametrize(
    ("output", "inner", "names"),
    [
        ("float[1, 10]", "", ["y"]),
        ("float[1, 5, 1]", "", ["y"]),
        ("float[7]", "", ["y"]),
        ("float", "", ["y"]),
        ("float[1, 5]", "float[1, 8, 4, 4] c", ["c"]),
        ("float[1, 5]", "float[1, 3, 16] c", ["c"]),
        ("float[1, 5]", "float[1, 24] f", ["f"]),
        ("float[2, 5]", "float[1, 24] f", ["y", "f"]),
    ],
)
def test_what_nodes_give_is_the_truth(output: str, inner: str, names: list[str]) -> None:
    proto = network(output, inner)
    graph = read_onnx(proto)
    assert shapes(graph) == TRUE
    assert [note.split("'")[1] for note in graph.info.notes] == names
    x = np.random.default_rng(1).normal(size=(1, 2, 4, 4)).astype(np.float32)
    (wanted,) = run_in_runtime(proto, {"x": x})
    (found,) = run_in_runtime(to_model_proto(graph), {"x": x})
    np.testing.assert_array_equal(found, wanted)


def test_the_sentence_names_both_shapes() -> None:
    (note,) = read_onnx(network("float[1, 10]")).info.notes
    assert note == (
        "the model declares 'y' as [1, 10], but its nodes give [1, 5], which is used: "
        "correct or remove the declaration"
    )


def test_many_contradictions_are_counted() -> None:
    values = ", ".join(f"float[9] v{index}" for index in range(6))
    nodes = " ".join(f"v{index + 1} = Relu(v{index})" for index in range(5))
    proto = parse(
        f"g (float[2] x) => (float[3] y) <{values}> {{ v0 = Neg(x) {nodes} y = Abs(v5) }}"
    )
    notes = read_onnx(proto).info.notes
    assert len(notes) == 5
    assert "'y'" in notes[0]
    assert notes[-1] == "the model declares 3 more values with wrong shapes"


@pytest.mark.parametrize("batch", ["n", "unk__7"])
def test_a_fixed_size_of_what_follows_an_open_input(batch: str) -> None:
    graph = read_onnx(network("float[1, 5]", batch=batch))
    assert shapes(graph)["y"] is not None
    assert not isinstance((shapes(graph)["y"] or ())[0], int)
    (note,) = graph.info.notes
    assert "'y' as [1, 5]" in note


def test_a_fixed_size_of_what_follows_an_input_dimension_without_name() -> None:
    proto = network("float[1, 5]")
    proto.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    graph = read_onnx(proto)
    assert shapes(graph)["y"] == (None, 5)
    assert graph.inputs[0].tensor.shape == (None, 2, 4, 4)
    assert "give [?, 5]" in graph.info.notes[0]


def test_what_inference_leaves_open_is_taken_from_the_declaration() -> None:
    graph = read_onnx(parse("g (float[4] x) => (int64[1, 3] y) { y = NonZero(x) }"))
    assert graph.outputs[0].tensor.shape == (1, 3)
    assert graph.info.notes == []


def test_what_is_wrong_once_is_not_trusted() -> None:
    graph = read_onnx(parse("g (float[4] x) => (int64[2, 3] y) { y = NonZero(x) }"))
    assert graph.outputs[0].tensor.shape == (1, None)
    assert len(graph.info.notes) == 1


def test_bodies() -> None:
    graph = read_onnx(
        parse("""g (float[2, 3] x, bool b) => (float[2, 4] y) { y = If (b) <
            then_branch = t () => (float[2, 9] p) { p = Relu(x) },
            else_branch = e () => (float[n, 3] q) { q = Neg(x) }> }""")
    )
    assert graph.outputs[0].tensor.shape == (2, 3)
    then_branch = graph.nodes[0].subgraphs[0]
    assert then_branch.outputs[0].tensor.shape == (2, 3)
    assert [note.split("'")[1] for note in graph.info.notes] == ["y", "p"]


def test_reading_leaves_the_proto_alone() -> None:
    proto = network("float[1, 10]", "float[1, 8, 4, 4] c", batch="n")
    copy = ModelProto()
    copy.CopyFrom(proto)
    read_onnx(proto)
    assert proto == copy


def test_a_clone_keeps_the_notes() -> None:
    graph = read_onnx(network("float[1, 10]"))
    assert graph.clone().info.notes == graph.info.notes != []


@given(st.lists(st.integers(0, 6) | st.sampled_from(["n", "?"]), max_size=4))
def test_any_declaration(dims: list[int | str]) -> None:
    """Whatever is declared, the shape is the computed one, and words stand for contradictions."""
    proto = network("float[1, 5]")
    shape = proto.graph.output[0].type.tensor_type.shape
    del shape.dim[:]
    for dim in dims:
        entry = shape.dim.add()
        if isinstance(dim, int):
            entry.dim_value = dim
        elif dim != "?":
            entry.dim_param = dim
    graph = read_onnx(proto)
    right = len(dims) == 2 and dims[0] in (1, "n", "?") and dims[1] in (5, "n", "?")
    assert bool(graph.info.notes) is not right
    found = graph.outputs[0].tensor.shape or ()
    assert len(found) == 2
    assert all(isinstance(a, str) or a == b for a, b in zip(found, (1, 5), strict=True))
