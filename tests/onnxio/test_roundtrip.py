"""What a model carries survives reading and writing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from qcc.errors import ModelError
from qcc.ir.core import Graph, RawAttribute
from qcc.ir.types import OpaqueType, TensorType
from qcc.onnxio import read_onnx, to_model_proto, write_onnx
from qcc.onnxio.attributes import read_attribute, write_attribute
from qcc.onnxio.tensors import PACKED, read_tensor, stored_size, write_tensor
from tests.onnxio.models import assert_same, info, model, run_in_runtime

make = helper.make_node
X = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
F32 = TensorProto.FLOAT


def again(proto: ModelProto) -> ModelProto:
    """Read and written."""
    return to_model_proto(read_onnx(proto))


def described() -> ModelProto:
    """A model in which everything that can be described is."""
    proto = model(
        [make("Relu", ["x"], ["h"], name="first"), make("Add", ["h", "c"], ["y"], name="second")],
        {"x": X},
        ["y"],
        21,
        {"c": X},
        producer_name="maker",
        producer_version="1.2",
        domain="org.example",
        model_version=7,
        doc_string="a model",
    )
    proto.ir_version = 10
    del proto.graph.value_info[1:]
    parts: list[Any] = [
        proto,
        proto.graph,
        proto.graph.node[0],
        proto.graph.input[0],
        proto.graph.initializer[0],
        proto.graph.value_info[0],
    ]
    for index, part in enumerate(parts):
        part.metadata_props.add(key=f"key{index}", value=f"value {index}")
        part.doc_string = f"doc {index}"
    annotation = proto.graph.quantization_annotation.add(tensor_name="h")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="c")
    return proto


def test_a_model_at_the_pinned_opset_is_written_as_it_was() -> None:
    before = described()
    after = again(before)
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(
        deterministic=True
    )


def test_reading_leaves_the_proto_alone() -> None:
    before = described()
    copy = ModelProto()
    copy.CopyFrom(before)
    read_onnx(before)
    assert before == copy


def test_reading_from_path_bytes_and_proto_agree(tmp_path: Path) -> None:
    proto = described()
    onnx.save(proto, tmp_path / "m.onnx")
    wanted = again(proto)
    assert to_model_proto(read_onnx(tmp_path / "m.onnx")) == wanted
    assert to_model_proto(read_onnx(str(tmp_path / "m.onnx"))) == wanted
    assert to_model_proto(read_onnx(proto.SerializeToString())) == wanted


def test_functions_custom_domains_and_overloads_survive() -> None:
    body = [make("Mul", ["a", "a"], ["t"]), make("Add", ["t", "b"], ["r"])]
    imports = [
        helper.make_opsetid("", 17),
        helper.make_opsetid("mine", 3),
        helper.make_opsetid("com.microsoft", 1),
    ]
    function = helper.make_function("mine", "square_add", ["a", "b"], ["r"], body, imports[:1])
    nodes = [
        make("square_add", ["x", "x"], ["h"], domain="mine", name="call"),
        make("FastGelu", ["h"], ["y"], domain="com.microsoft", name="gelu"),
    ]
    before = model(nodes, {"x": X}, ["y"], 17, functions=[function], opset_imports=imports)
    graph = read_onnx(before)
    assert [node.op for node in graph.nodes] == ["mine.square_add", "com.microsoft.FastGelu"]
    after = to_model_proto(graph)
    assert {item.domain: item.version for item in after.opset_import} == {
        "": 21,
        "mine": 3,
        "com.microsoft": 1,
    }
    assert [node.op_type for node in after.functions[0].node] == ["Mul", "Add"]
    assert_same(run_in_runtime(after, {"x": X}), run_in_runtime(before, {"x": X}))


def test_a_domain_that_a_pass_brought_in_is_imported() -> None:
    graph = read_onnx(model([make("Relu", ["x"], ["y"])], {"x": X}, ["y"], 21))
    gelu = graph.create_node("com.microsoft.Gelu", [graph.outputs[0]], [graph.outputs[0].type])
    graph.set_outputs([gelu.output])
    after = to_model_proto(graph)
    assert {item.domain: item.version for item in after.opset_import} == {
        "": 21,
        "com.microsoft": 1,
    }
    run_in_runtime(after, {"x": X})


def test_unknown_attributes_survive() -> None:
    node = make("Thing", ["x"], ["y"], domain="alien", a=1, b=2.5, c="text", d=[1, 2], e=[0.5])
    node.attribute.append(helper.make_attribute("f", numpy_helper.from_array(X)))
    node.attribute.append(helper.make_attribute("g", ["p", "q"]))
    node.attribute.append(helper.make_attribute("h", b"\xff\x00"))
    node.attribute.append(helper.make_attribute("i", [], attr_type=onnx.AttributeProto.FLOATS))
    node.attribute.append(helper.make_attribute("j", helper.make_tensor_type_proto(F32, [2])))
    node.attribute.append(helper.make_attribute("k", [numpy_helper.from_array(X)]))
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("alien", 1)]
    before = model([node], {"x": X}, ["y"], 21, opset_imports=imports)
    graph = read_onnx(before)
    attributes = graph.nodes[0].attributes
    assert (attributes["a"], attributes["b"], attributes["c"]) == (1, 2.5, "text")
    assert (attributes["d"], attributes["e"], attributes["g"]) == ([1, 2], [0.5], ["p", "q"])
    assert attributes["h"] == b"\xff\x00"
    assert isinstance(attributes["j"], RawAttribute)
    np.testing.assert_array_equal(attributes["f"], X)
    assert list(to_model_proto(graph).graph.node[0].attribute) == list(node.attribute)


def branches(names: tuple[str, str], *, scale: str) -> list[onnx.GraphProto]:
    """Two bodies that read ``x`` and ``scale`` from outside and use the same names inside."""
    found = []
    for op, name in zip(("Mul", "Div"), names, strict=True):
        nodes = [make(op, ["x", scale], ["t"]), make("Relu", ["t"], [name])]
        found.append(helper.make_graph(nodes, f"{op} body", [], [info(name, X)]))
    return found


def control_flow() -> tuple[ModelProto, dict[str, Any]]:
    """If inside Loop beside Scan, with captures from two levels and names used twice."""
    then, other = branches(("out", "out"), scale="s")
    choose = make("If", ["flag"], ["picked"], then_branch=then, else_branch=other)
    loop_body = helper.make_graph(
        [
            make("Identity", ["going"], ["still"]),
            choose,
            make("Add", ["carried", "picked"], ["next"]),
        ],
        "loop body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            info("carried", X),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), info("next", X)],
    )
    scan_body = helper.make_graph(
        [make("Add", ["sum", "row"], ["grown"]), make("Mul", ["grown", "s"], ["scaled"])],
        "scan body",
        [info("sum", X[0]), info("row", X[0])],
        [info("grown", X[0]), info("scaled", X[0])],
    )
    nodes = [
        make("Loop", ["count", "flag", "x"], ["looped"], body=loop_body),
        make("Scan", ["zero", "looped"], ["total", "y"], body=scan_body, num_scan_inputs=1),
    ]
    feeds = {"x": X, "flag": np.asarray(False), "count": np.asarray(3)}
    constants = {"s": np.asarray(2, np.float32), "zero": np.zeros(3, np.float32)}
    return model(nodes, feeds, ["total", "y"], 13, constants), feeds


def test_nested_control_flow_computes_the_same() -> None:
    before, feeds = control_flow()
    graph = read_onnx(before)
    after = to_model_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    for flag in (False, True):
        feeds["flag"] = np.asarray(flag)
        assert_same(run_in_runtime(after, feeds), run_in_runtime(before, feeds))
    loop = graph.nodes[0]
    (body,) = loop.subgraphs
    then, other = body.nodes[1].subgraphs
    assert then.nodes[0].operand(1) is graph.constants["s"]
    assert loop in graph.inputs[0].users
    assert then.nodes[0] in graph.inputs[0].users
    assert then.nodes[0].output.name != other.nodes[0].output.name


def names_of(graph: Graph) -> list[str]:
    """The names of all values of a graph and its bodies."""
    found = [value.name for value in graph.values()]
    for node in graph.nodes:
        for body in node.subgraphs:
            found += names_of(body)
    return found


def test_names_are_unique_over_all_bodies() -> None:
    names = names_of(read_onnx(control_flow()[0]))
    assert len(names) == len(set(names))


def test_clone_of_a_model_with_bodies_is_written_the_same() -> None:
    graph = read_onnx(control_flow()[0])
    assert to_model_proto(graph.clone()) == to_model_proto(graph)


def test_initializers_that_are_inputs_become_constants_and_stay_listed() -> None:
    before = model([make("Add", ["x", "c"], ["y"])], {"x": X, "c": X}, ["y"], 13, {"c": X})
    graph = read_onnx(before)
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.constants["c"].is_constant
    after = to_model_proto(graph)
    assert [item.name for item in after.graph.input] == ["x", "c"]
    assert_same(run_in_runtime(after, {"x": X, "c": 2 * X}), [3 * X], tolerance=1e-6)


def test_nodes_out_of_order_are_sorted() -> None:
    before = model(
        [make("Add", ["h", "x"], ["y"]), make("Relu", ["x"], ["h"])], {"x": X}, ["y"], 13
    )
    graph = read_onnx(before)
    assert [node.op for node in graph.nodes] == ["Relu", "Add"]
    assert_same(run_in_runtime(to_model_proto(graph), {"x": X}), [np.maximum(X, 0) + X])


def test_absent_operands_and_results_stay_absent() -> None:
    weights = {"w": X[None, :, :1].repeat(4, 1), "r": X[None, :, :2].repeat(4, 1)}
    node = make("LSTM", ["x", "w", "r", "", "", "h0"], ["", "h"], hidden_size=2)
    feeds = {"x": X[:, :1, None], "h0": np.ones((1, 1, 2), np.float32)}
    before = model([node], feeds, ["h"], 14, weights)
    graph = read_onnx(before)
    assert graph.nodes[0].inputs[3] is None
    assert [value.name for value in graph.nodes[0].outputs] == ["", "h"]
    after = to_model_proto(graph)
    assert list(after.graph.node[0].input) == ["x", "w", "r", "", "", "h0"]
    assert_same(run_in_runtime(after, feeds), run_in_runtime(before, feeds))


def test_sequences_sparse_tensors_and_strings_survive() -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("z", F32, [2], [1.5, 2.5]),
        helper.make_tensor("", TensorProto.INT64, [2], [1, 4]),
        [2, 3],
    )
    nodes = [
        make("Add", ["x", "z"], ["h"]),
        make("SequenceConstruct", ["h", "x"], ["s"]),
        make("SequenceAt", ["s", "i"], ["y"]),
        make("Equal", ["text", "text2"], ["same"]),
    ]
    text = {"text": np.asarray(["ä", "b"], object), "text2": np.asarray(["ä", "c"], object)}
    before = model(nodes, {"x": X}, ["y", "same"], 19, text | {"i": np.asarray(0)})
    before.graph.sparse_initializer.append(sparse)
    graph = read_onnx(before)
    sequence = next(node for node in graph.nodes if node.op == "SequenceConstruct")
    assert isinstance(sequence.output.type, OpaqueType)
    assert graph.constants["text"].type == TensorType((2,), "string")
    assert graph.constants["text"].constant is not None
    assert list(graph.constants["text"].constant) == ["ä", "b"]
    dense = np.zeros((2, 3), np.float32)
    dense[0, 1], dense[1, 1] = 1.5, 2.5
    found = run_in_runtime(to_model_proto(graph), {"x": X})
    assert_same(found, [X + dense, np.asarray([True, False])])


def test_types_are_inferred() -> None:
    nodes = [make("Transpose", ["x"], ["h"]), make("Gemm", ["h", "x"], ["y"])]
    proto = model(nodes, {"x": X}, ["y"], 13)
    del proto.graph.value_info[:]
    graph = read_onnx(proto)
    assert graph.nodes[0].output.type == TensorType((3, 2), "float32")


def test_symbolic_and_unknown_dimensions_survive() -> None:
    proto = model([make("Relu", ["x"], ["y"])], {"x": X}, ["y"], 13)
    shape = proto.graph.input[0].type.tensor_type.shape
    shape.dim[0].dim_param = "batch"
    shape.dim[1].Clear()
    del proto.graph.output[:]
    del proto.graph.value_info[:]
    proto.graph.output.append(onnx.ValueInfoProto(name="y"))
    graph = read_onnx(proto)
    assert graph.inputs[0].type == TensorType(("batch", None), "float32")
    assert graph.outputs[0].type == TensorType(("batch", None), "float32")
    assert again(proto).graph.input[0] == proto.graph.input[0]


ELEMENTS = [
    name
    for name in TensorProto.DataType.keys()  # noqa: SIM118
    if name not in ("UNDEFINED", "STRING")
]


@pytest.mark.parametrize("kind", ELEMENTS)
@pytest.mark.parametrize("external", [False, True])
def test_every_element_type_survives(kind: str, external: bool, tmp_path: Path) -> None:
    code = TensorProto.DataType.Value(kind)
    dtype = helper.tensor_dtype_to_np_dtype(code)
    numbers = np.random.default_rng(1).integers(0, 2, (33, 64)).astype(dtype)
    graph = Graph("g")
    graph.info.opsets[""] = 21
    graph.set_outputs([graph.add_constant("c", numbers)])
    write_onnx(graph, tmp_path / "m.onnx", external_data=external)
    back = read_onnx(tmp_path / "m.onnx").constants["c"]
    assert back.constant is not None
    assert back.constant.dtype == dtype
    assert back.constant.tobytes() == numbers.tobytes()
    assert (tmp_path / "m.onnx.data").exists() == (
        external and stored_size((33, 64), dtype.name) >= 1024
    )


@given(st.integers(0, 33), st.sampled_from(sorted(PACKED)), st.randoms())
@settings(deadline=None)
def test_packed_tensors_round_trip(count: int, element: str, random: Any) -> None:
    dtype = np.dtype(getattr(ml_dtypes, element))
    data = np.asarray([random.randint(0, 1) for _ in range(count)], np.int8).astype(dtype)
    tensor = write_tensor("t", data, element)
    assert len(tensor.raw_data) == stored_size((count,), element)
    np.testing.assert_array_equal(read_tensor(tensor, None), data)


@given(
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(width=32, allow_nan=False),
        st.text(),
        st.binary().filter(lambda b: not _is_text(b)),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
        st.lists(st.floats(width=32, allow_nan=False), min_size=1),
        st.lists(st.text(), min_size=1),
    )
)
@settings(deadline=None)
def test_attributes_round_trip(value: Any) -> None:
    back = read_attribute(write_attribute("a", value, "Alien", "alien"), None)
    assert back == value
    assert type(back) is type(value)


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("nodes", "outputs", "words"),
    [
        ([make("Relu", ["nowhere"], ["y"], name="n")], ["y"], "reads 'nowhere'.*node 'n'"),
        ([make("Relu", ["x"], ["y"])], ["z"], "output 'z'"),
        ([make("Relu", ["x"], ["y"]), make("Relu", ["x"], ["y"])], ["y"], "'y' twice"),
        ([make("Add", ["b", "x"], ["a"]), make("Relu", ["a"], ["b"])], ["a"], "cycle"),
    ],
)
def test_broken_graphs_are_refused(nodes: Any, outputs: list[str], words: str) -> None:
    proto = helper.make_model(
        helper.make_graph(
            nodes, "g", [info("x", X)], [onnx.ValueInfoProto(name=name) for name in outputs]
        ),
        opset_imports=[helper.make_opsetid("", 13)],
    )
    with pytest.raises(ModelError, match=words):
        read_onnx(proto)
