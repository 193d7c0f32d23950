"""The text form: what is printed reads back as the same graph, and errors say where and what."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcc.errors import ParseError
from qcc.ir.builder import GraphBuilder
from qcc.ir.compare import graphs_equal
from qcc.ir.core import Graph, Stage, constant_array
from qcc.ir.parse import parse_graph, parse_type
from qcc.ir.print import print_graph, print_node, print_type
from qcc.ir.syntax import array_of, float32_text, float_text, number_of
from qcc.ir.types import UNKNOWN, OpaqueType, Quant, TensorType, float32
from tests.ir.graphs import graphs, types

EXAMPLE = """\
model {ir_version=8, producer_name="pytorch", metadata=meta{"task": "digits"}}
graph @main stage(numbered) opsets{"": 21} (%x: f32[1,3,?,H]) doc "An example" {
  const %w: f32[8,3,3,3] = @blake2:d1ff1d9ab4f4f1f5
  const %s: s8<#q0, axis=0, low=-127>[8] = dense<[1, 2, 3, 4, 5, 6, 7, -8]>
  %h: f32[1,8,?,?] = Conv(%x, %w, _) {pads=[1, 1, 1, 1], alpha=0.1f} "conv1" meta{"a": "b"}
  %c: f32[8] = q.dequantize(%s)
  %q: u8<0.0123, 128>[1,8,?,?] = q.quantize(%h)
  %y: f32[*] = "a.b"::"c.d"(%c) {body=graph @inner (%i: i64[]) {
    %"j k": i64[] = Add(%i, %i)
    return %"j k"
  }, kinds=[1, 2.0, "x", b"\\x00y", none, true]}
  return %q, %y
}
#q0 = {scale=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], zero_point=0}
"""


def example() -> Graph:
    graph = parse_graph(EXAMPLE.replace("@blake2:d1ff1d9ab4f4f1f5", weight_text()))
    weight = graph.value("w")
    assert weight.constant is not None
    return graph


def weight_text() -> str:
    return f"dense<[{', '.join(['0.5'] * 216)}]>"


def test_the_example_reads_as_written() -> None:
    graph = example()
    conv = graph.nodes[0]
    assert (conv.op, conv.name, conv.metadata) == ("Conv", "conv1", {"a": "b"})
    assert conv.inputs[0] is graph.inputs[0]
    assert conv.input(2) is None
    assert conv.attributes == {"pads": [1, 1, 1, 1], "alpha": float(np.float32(0.1))}
    assert graph.inputs[0].type == float32(1, 3, None, "H")
    assert graph.value("q").type == TensorType((1, 8, None, None), Quant.make("uint8", 0.0123, 128))
    quant = graph.value("s").tensor.quant
    assert quant == Quant.make("int8", np.arange(1, 9) / np.float32(10), 0, axis=0, low=-127)
    assert (graph.stage, graph.doc, graph.info.ir_version) == (Stage.NUMBERED, "An example", 8)
    odd = graph.nodes[3]
    assert (odd.domain, odd.op_type) == ("a.b", "c.d")
    assert odd.attributes["kinds"] == [1, 2.0, "x", b"\x00y", None, True]
    assert odd.subgraphs[0].parent is graph
    assert odd.subgraphs[0].outputs[0].name == "j k"
    assert graph.fresh_name("conv1") == "conv1_1"


def test_the_example_prints_as_written() -> None:
    lines = print_graph(example()).splitlines()
    expected = EXAMPLE.splitlines()
    assert lines[2].startswith("  const %w: f32[8,3,3,3] = @blake2:")
    assert lines[:2] + lines[3:] == expected[:2] + expected[3:]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_round_trip(graph: Graph) -> None:
    text = print_graph(graph, resources=True)
    again = parse_graph(text)
    assert graphs_equal(graph, again) is None
    assert graphs_equal(again, graph) is None
    assert print_graph(again, resources=True) == text
    assert graphs_equal(graph, graph.clone()) is None


@settings(max_examples=100, deadline=None)
@given(types())
def test_types_round_trip(type: Any) -> None:
    assert parse_type(print_type(type)) == type


@given(st.floats(width=32, allow_nan=False))
def test_float32_text_is_exact_and_short(number: float) -> None:
    text = float32_text(number)
    assert np.float32(number_of(text)) == np.float32(number)
    assert len(text) <= len(repr(number)) + 2


@given(st.floats(allow_nan=False))
def test_float_text_is_exact(number: float) -> None:
    text = float_text(number)
    assert text in ("inf", "-inf") or np.array_equal(number_of(text), number)
    assert isinstance(number_of(text) if "inf" not in text else 0.0, float)


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (float32(), "f32[]"),
        (UNKNOWN, "?[*]"),
        (TensorType((2, "N", None), "int8"), "s8[2,N,?]"),
        (TensorType(None, "float8_e4m3fn"), "float8_e4m3fn[*]"),
        (
            TensorType((2,), Quant.make("int8", [0.1, 0.2], 0, axis=0)),
            "s8<[0.1, 0.2], 0, axis=0>[2]",
        ),
        (
            TensorType((1,), Quant.make("uint8", 0.1, 3, low=1), "nhwc"),
            "u8<0.1, 3, low=1>[1] layout(nhwc)",
        ),
        (OpaqueType(b"abc"), 'opaque "YWJj"'),
    ],
)
def test_types(type: Any, text: str) -> None:
    assert print_type(type) == text
    assert parse_type(text) == type


def test_small_constants_inline_big_ones_as_digests() -> None:
    b = GraphBuilder()
    small = b.constant(np.arange(16, dtype=np.float32), "small")
    big = b.constant(np.arange(17, dtype=np.float32), "big")
    graph = b.output(small, big)
    text = print_graph(graph)
    assert "const %small: f32[16] = dense<[0.0, 1.0, " in text
    assert "const %big: f32[17] = @blake2:" in text
    with pytest.raises(ParseError, match="data of constant 'big' are not in this text"):
        parse_graph(text)
    whole = print_graph(graph, resources=True)
    again = constant_array(parse_graph(whole).value("big"))
    assert again is not None
    np.testing.assert_array_equal(again, np.arange(17))


def test_damaged_resources_are_refused() -> None:
    b = GraphBuilder()
    text = print_graph(b.output(b.constant(np.zeros(20, np.int8), "w")), resources=True)
    with pytest.raises(ParseError, match="digest differs"):
        parse_graph(text.replace('"AAAA', '"BAAA'))
    with pytest.raises(ParseError, match="do not fit its type"):
        parse_graph(text.replace('"AAAA', '"'))


def test_equal_data_are_one_resource() -> None:
    b = GraphBuilder()
    values = [b.constant(np.ones(50, np.float32)) for _ in range(3)]
    text = print_graph(b.output(*values), resources=True)
    assert text.count("@blake2:") == 4


def test_equal_parameters_are_one_alias() -> None:
    b = GraphBuilder(stage=Stage.NUMBERED)
    quant = Quant.make("int8", np.linspace(0.1, 0.9, 5), 0, axis=0)
    for other in (quant, quant.with_axis(1), Quant.make("int8", np.ones(5), 0, axis=0)):
        b.input(f"x{other.axis}{other.scale[0]}", TensorType((5, 5), other))
    text = print_graph(b.output())
    assert text.count("\n#q") == 2
    assert text.count("s8<#q0, axis=0>") == text.count("s8<#q0, axis=1>") == 1


def test_notes_are_comments_under_their_node() -> None:
    graph = example()
    text = print_graph(graph, resources=True, notes={graph.nodes[1]: "two\nlines"})
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if "q.dequantize" in line)
    assert lines[at + 1].strip() == "// " + "^" * len(lines[at].strip())
    assert [line.strip() for line in lines[at + 2 : at + 4]] == ["// two", "// lines"]
    assert graphs_equal(graph, parse_graph(text)) is None


def test_print_node() -> None:
    assert print_node(example().nodes[2]) == "%q: u8<0.0123, 128>[1,8,?,?] = q.quantize(%h)"


def test_comments_and_spaces_do_not_matter() -> None:
    text = "graph@g(%x:f32[1])// a comment\n{%y:f32[1]=Relu(%x)return%y}"
    assert [node.op for node in parse_graph(text).nodes] == ["Relu"]


def graph_text(body: str) -> str:
    return f"graph @g (%x: f32[2]) {{\n  {body}\n}}"


@pytest.mark.parametrize(
    ("body", "line", "column", "message"),
    [
        ("%y: f32[2] = Relu(%z)", 2, 21, "'%z' is used before it is defined"),
        ("%x: f32[2] = Relu(%x)", 2, 3, "'%x' is defined twice"),
        ("%y: f32[2] = Relu(%y)", 2, 21, "'%y' is used before"),
        ("%y: f99[2] = Relu(%x)", 2, 7, "no element type 'f99'"),
        ("%y: f32[2] = Relu(%x", 3, 1, "')' must stand here, not '}'"),
        ("%y: f32[2] Relu(%x)", 2, 14, "'=' must stand here, not 'Relu'"),
        ("%y: f32[2] = Relu(%x) {a=}", 2, 28, "a graph must stand here, not '}'"),
        ('%y: f32[2] = Relu(%x) "name', 2, 25, "a quote that is never closed"),
        ("%y: f32[2] = Relu(%x) ;", 2, 25, "begins with ';'"),
        ("%y: s8<0.0, 1>[2] = Relu(%x)", 2, 7, "scale must be positive"),
        ("%y: s8<#q7>[2] = Relu(%x)", 2, 10, "no alias '#q7'"),
        ("%y: s8<1.0, 1, aksis=1>[2] = Relu(%x)", 2, 7, "no 'aksis'"),
        ("const %c: f32[3] = dense<[1.0]>", 2, 22, "constant 'c' do not fit its type"),
        ("const %c: s8[1] = dense<[128]>", 2, 21, "does not fit in int8"),
        ("const %c: s8[1] = dense<[1.5]>", 2, 21, "every element must be int"),
        ("const %c: f32[?] = dense<[1.0]>", 2, 22, "needs a static shape"),
        ("const %c: f32[1]", 3, 1, "'=' must stand here"),
        ('%y: f32[2] = Relu(%x) {a=raw "?"}', 2, 32, "not base64"),
        ('%y: f32[2] = Relu(%x) {a="\\q"}', 2, 28, "no JSON text"),
    ],
)
def test_errors_name_line_column_and_what(body: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_graph(graph_text(body))
    error = caught.value
    assert message in str(error)
    assert (error.line, error.column) == (line, column)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "graph",
        "graph @g",
        "graph @g (",
        "graph @g () {",
        "graph @g () { return",
        "graph @g stage(odd) () { return }",
        "graph @g () { return } more",
        "graph @g () { return %x }",
        'model {colour="red"} graph @g () { return }',
        'model {ir_version="8"} graph @g () { return }',
        "#q0 = {scale=1}",
        "resources {",
    ],
)
def test_what_is_not_a_graph_is_a_parse_error(text: str) -> None:
    with pytest.raises(ParseError, match="line 1, column"):
        parse_graph(text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damaged_text_is_a_parse_error_or_a_graph(data: st.DataObject) -> None:
    """Nothing but ParseError comes out of the parser, whatever is cut out of a text."""
    text = print_graph(example(), resources=True)
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(1, 12))
    put = data.draw(st.sampled_from(["", "%", '"', "}", "]", "1", "x", "é", "\n"]))
    with contextlib.suppress(ParseError):
        parse_graph(text[:start] + put + text[start + length :])


def test_array_of_refuses_what_does_not_fit() -> None:
    assert array_of([], "float32", (0, 3)).shape == (0, 3)
    assert array_of([7, -8], "int4", (2,)).tolist() == [7, -8]
    for items, element in (([8], "int4"), ([True], "int8"), ([1], "bool"), (["x"], "float32")):
        with pytest.raises((ValueError, OverflowError)):
            array_of(items, element, (1,))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("%h: f32[1,8,?,?]", "%h: f32[1,8,?,5]"),
            "value 'h' is f32[1,8,?,?] in one and f32[1,8,?,5]",
        ),
        (
            ("pads=[1, 1, 1, 1]", "pads=[1, 1, 1]"),
            "'pads' of node 'conv1' has 4 items in one and 3",
        ),
        (("alpha=0.1f", "alpha=0.1"), "attribute 'alpha' of node 'conv1' is"),
        (("alpha=0.1f", "beta=0.1f"), "node 'conv1' has the attributes"),
        (("Conv(%x, %w, _)", "Conv(%x, %w)"), "the operands of node 'conv1' are 3 in one and 2"),
        (("Add(%i, %i)", "Mul(%i, %i)"), "the op type of node 'j k' is 'Add' in one and 'Mul'"),
        (("7, -8]", "7, -7]"), "the data of value 's' differ"),
        (("ir_version=8", "ir_version=9"), "the model's ir_version is 8 in one and 9"),
        (("return %q, %y", "return %q, %c"), "the outputs of graph 'main' differ at number 1"),
        (("0.0123", "0.0124"), "value 'q' is u8<0.0123, 128>"),
        (('doc "An example"', ""), "the doc of graph 'main'"),
        (("stage(numbered)", "stage(float)"), "the stage of graph 'main'"),
        (('b"\\x00y"', '"y"'), "attribute 'kinds' of node 'y' is b'\\x00y' in one and 'y'"),
    ],
)
def test_graphs_equal_says_what_differs(change: tuple[str, str], sentence: str) -> None:
    text = print_graph(example(), resources=True)
    assert change[0] in text
    found = graphs_equal(example(), parse_graph(text.replace(*change)))
    assert found is not None
    assert sentence in found


@pytest.mark.shared
def test_real_models_round_trip(zoo: Path) -> None:
    from qcc.onnxio import read_onnx

    for name in ("silero_vad_if_dynamic", "dreams260k_llama", "mnist_gru", "magika_v3_3"):
        for path in (zoo / "models").rglob(f"{name}.onnx"):
            graph = read_onnx(path)
            again = parse_graph(print_graph(graph, resources=True))
            assert graphs_equal(graph, again) is None, path.name


def test_the_documented_example_is_valid() -> None:
    from qcc.ir.verify import verify

    page = (Path(__file__).parents[2] / "docs" / "ir.md").read_text("utf-8")
    text = page.split("```qir\n")[1].split("```")[0]
    graph = parse_graph(text)
    verify(graph)
    assert graphs_equal(graph, parse_graph(print_graph(graph, resources=True))) is None
