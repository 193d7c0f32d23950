"""Every rule of the verifier, broken once; the message stands under the guilty node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from qcc.errors import VerifyError
from qcc.ir.core import Graph, Node, Stage, Use, Value
from qcc.ir.parse import parse_graph
from qcc.ir.types import Quant, TensorType, float32
from qcc.ir.verify import verify

FLOAT = """
graph @main stage(float) opsets{"": 21} (%x: f32[1,4], %going: bool[]) {
  const %w: f32[4,4] = dense<[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]>
  const %s: i64[2] = dense<[4, 1]>
  %h: f32[1,4] = MatMul(%x, %w) "matmul"
  %y: f32[1,4] = If(%going) {
    then_branch=graph @then () {
      %a: f32[1,4] = Relu(%h) "inner"
      return %a
    },
    else_branch=graph @else () {
      return %h
    }} "if"
  %z: f32[4,1] = Reshape(%y, %s) "reshape"
  return %z
}
"""

NUMBERED = """
graph @main stage(numbered) opsets{"": 21} (%x: f32[1,4]) {
  const %w: s8<[0.1, 0.2, 0.3, 0.4], 0, axis=1>[1,4] = dense<[1, 2, 3, 4]>
  %q: u8<0.5, 128>[1,4] = q.quantize(%x) "quantize"
  %r: f32[1,4] = q.dequantize(%q) "dequantize"
  %f: f32[1,4] = q.dequantize(%w) "weight"
  %y: f32[1,4] = Mul(%r, %f) "mul"
  return %y
}
"""

LOWERED = """
graph @main stage(lowered) opsets{"": 21} (%x: u8<0.5, 128>[1,4]) {
  const %w: s8<0.1, 0>[4,4] = dense<[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]>
  %q: u8<0.5, 128>[1,4] = q.matmul(%x, %w) "matmul"
  %t: u8<0.5, 128>[4,1] = q.transpose(%q) {perm=[1, 0]} "transpose"
  %f: f32[4,1] = q.dequantize(%t) "dequantize"
  %y: f32[4,1] = Sin(%f) "sin"
  return %y
}
"""


def node(graph: Graph, name: str) -> Node:
    return next(item for item in graph.walk() if item.name == name)


@pytest.mark.parametrize("text", [FLOAT, NUMBERED, LOWERED])
def test_valid_graphs_pass(text: str) -> None:
    verify(parse_graph(text))
    verify(parse_graph(text).clone())


# -- structure -------------------------------------------------------------------------------------


def use_before_definition(graph: Graph) -> str:
    graph.reorder(graph.nodes[::-1])
    return "%y is used where it is not defined yet"


def use_of_a_body_value_outside(graph: Graph) -> str:
    graph.replace_use(Use(node(graph, "reshape"), 0), node(graph, "inner").output)
    return "%a is used where it is not defined yet"


def stale_use(graph: Graph) -> str:
    x = graph.inputs[0]
    x._uses[Use(node(graph, "reshape"), 0)] = None
    return "the use list of 'x' names 'reshape', which does not use it"


def missing_use(graph: Graph) -> str:
    graph.value("w")._uses.clear()
    return "the use list of %w lacks this node"


def use_by_a_removed_node(graph: Graph) -> str:
    gone = Node("Relu", name="gone")
    graph._set_inputs(gone, [graph.inputs[0]])
    return "the use list of 'x' names 'gone', which does not use it"


def equal_names(graph: Graph) -> str:
    node(graph, "inner").output.name = "h"
    return "the name '%h' is given to two values"


def foreign_node(graph: Graph) -> str:
    node(graph, "matmul").graph = None
    return "the node does not know its graph"


def foreign_result(graph: Graph) -> str:
    node(graph, "matmul").output.producer = None
    return "%h does not know its producer"


def foreign_output(graph: Graph) -> str:
    graph.set_outputs([Value("elsewhere", float32(1))])
    return "output 'elsewhere' of graph 'main' is not defined"


def renamed_constant(graph: Graph) -> str:
    graph.value("w").name = "other"
    return "constant 'other' is listed under the name 'w'"


def constant_of_another_shape(graph: Graph) -> str:
    graph.value("w").constant = np.zeros((4, 3), np.float32)
    return "its data have the shape [4, 3]"


def constant_of_another_dtype(graph: Graph) -> str:
    graph.value("w").constant = np.zeros((4, 4), np.float64)
    return "its data are float64"


# -- ops -------------------------------------------------------------------------------------------


def unknown_op(graph: Graph) -> str:
    node(graph, "matmul").op_type = "MatMull"
    return "ONNX has no op MatMull at opset 21"


def deprecated_op(graph: Graph) -> str:
    node(graph, "matmul").op_type = "Upsample"
    return "ONNX has no op Upsample at opset 21"


def too_few_operands(graph: Graph) -> str:
    graph._set_inputs(node(graph, "matmul"), [graph.inputs[0]])
    return "MatMul has 2 operands, not 1"


def absent_operand(graph: Graph) -> str:
    graph._set_inputs(node(graph, "matmul"), [None, graph.value("w")])
    return "MatMul needs the operand A (number 0)"


def unknown_attribute(graph: Graph) -> str:
    node(graph, "matmul").attributes["alpha"] = 1.0
    return "MatMul has no attribute 'alpha' at opset 21"


def attribute_of_another_kind(graph: Graph) -> str:
    node(graph, "reshape").attributes["allowzero"] = "yes"
    return "attribute 'allowzero' of Reshape must be INT, not 'yes'"


def missing_attribute(graph: Graph) -> str:
    body = node(graph, "if").attributes.pop("then_branch")
    body.drop_uses()
    return "If needs the attribute 'then_branch'"


def attribute_without_text(graph: Graph) -> str:
    found = node(graph, "matmul")
    found.domain, found.attributes["odd"] = "my.domain", {"a": 1}
    return "attribute 'odd' holds a dict, which has no text form"


def quantized_type(graph: Graph) -> str:
    graph.inputs[0].type = TensorType((1, 4), Quant.make("uint8", 0.5, 0))
    return "stage float has no quantized types"


@pytest.mark.parametrize(
    "damage",
    [
        *(use_before_definition, use_of_a_body_value_outside, stale_use, missing_use),
        *(use_by_a_removed_node, equal_names, foreign_node, foreign_result, foreign_output),
        *(renamed_constant, constant_of_another_shape, constant_of_another_dtype, unknown_op),
        *(deprecated_op, too_few_operands, absent_operand, unknown_attribute),
        *(attribute_of_another_kind, missing_attribute, attribute_without_text, quantized_type),
    ],
    ids=lambda damage: str(damage.__name__),
)
def test_broken_float_graphs(damage: Callable[[Graph], str]) -> None:
    graph = parse_graph(FLOAT)
    sentence = damage(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert sentence in caught.value.message


# -- stages and numbers ----------------------------------------------------------------------------


def with_quant(graph: Graph, value: str, quant: Quant) -> None:
    found = graph.value(value)
    found.type = found.tensor.with_element(quant)


def quant_of(graph: Graph, value: str) -> Quant:
    quant = graph.value(value).tensor.quant
    assert quant is not None
    return quant


def integer_op_too_early(graph: Graph) -> str:
    node(graph, "quantize").op_type = "requantize"
    return "q.requantize is not legal in stage numbered"


def observer_too_late(graph: Graph) -> str:
    node(graph, "quantize").op_type = "observe"
    return "q.observe is not legal in stage numbered"


def float_op_on_integers(graph: Graph) -> str:
    graph.replace_use(Use(node(graph, "mul"), 0), graph.value("q"))
    return "%q is quantized, and Mul is a float op"


def unknown_integer_op(graph: Graph) -> str:
    node(graph, "quantize").op_type = "quantise"
    return "the integer dialect has no op q.quantise"


def too_many_operands(graph: Graph) -> str:
    x = graph.inputs[0]
    graph._set_inputs(node(graph, "quantize"), [x, x])
    return "q.quantize has 1 operands, not 2"


def no_operand(graph: Graph) -> str:
    graph._set_inputs(node(graph, "quantize"), [None])
    return "q.quantize needs the operand x (number 0)"


def integer_attribute(graph: Graph) -> str:
    node(graph, "quantize").attributes["axis"] = 1
    return "q.quantize has no attribute 'axis'"


def own_check(graph: Graph) -> str:
    graph.value("r").type = TensorType((1, 4), "float64")
    return "the result must be float32"


def wrong_channels(graph: Graph) -> str:
    quant = quant_of(graph, "w")
    with_quant(graph, "w", Quant(quant.storage, quant.scale[:3], quant.zero_point[:3], 1))
    return "it has 3 scales for 4 channels"


def wrong_axis(graph: Graph) -> str:
    with_quant(graph, "w", quant_of(graph, "w").with_axis(2))
    return "its axis 2 is none of a tensor of rank 2"


def wrong_zero_point(graph: Graph) -> str:
    with_quant(graph, "q", replace(quant_of(graph, "q"), zero_point=(256,)))
    return "a zero point is not within uint8"


def wrong_bounds(graph: Graph) -> str:
    with_quant(graph, "q", replace(quant_of(graph, "q"), low=-1))
    return "its bounds [-1, 255] are not within uint8"


def scale_beyond_float32(graph: Graph) -> str:
    with_quant(graph, "q", replace(quant_of(graph, "q"), scale=(0.1,)))
    return "a scale is not a float32"


@pytest.mark.parametrize(
    "damage",
    [
        *(integer_op_too_early, observer_too_late, float_op_on_integers, unknown_integer_op),
        *(too_many_operands, no_operand, integer_attribute, own_check, wrong_channels),
        *(wrong_axis, wrong_zero_point, wrong_bounds, scale_beyond_float32),
    ],
    ids=lambda damage: str(damage.__name__),
)
def test_broken_numbered_graphs(damage: Callable[[Graph], str]) -> None:
    graph = parse_graph(NUMBERED)
    sentence = damage(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert sentence in caught.value.message


@pytest.mark.parametrize(
    ("text", "stage", "legal"),
    [
        (FLOAT, Stage.OBSERVED, True),
        (FLOAT, Stage.LOWERED, True),
        (NUMBERED, Stage.FLOAT, False),
        (NUMBERED, Stage.LOWERED, True),
        (LOWERED, Stage.NUMBERED, False),
        (LOWERED, Stage.OBSERVED, False),
    ],
)
def test_stages(text: str, stage: Stage, legal: bool) -> None:
    graph = parse_graph(text)
    if legal:
        verify(graph, stage)
    else:
        with pytest.raises(VerifyError, match=f"stage {stage.value}"):
            verify(graph, stage)


def test_observers_are_legal_when_observed() -> None:
    text = """graph @g stage(observed) (%x: f32[1]) {
      %y: f32[1] = q.observe(%x) {observer=0}
      return %y
    }"""
    verify(parse_graph(text))
    with pytest.raises(VerifyError, match=r"q.observe is not legal in stage float"):
        verify(parse_graph(text), Stage.FLOAT)


def test_regions_see_nothing_around() -> None:
    text = """graph @g stage(lowered) (%x: f32[1]) {
      %y: f32[1] = q.region(%x) {reason="no kernel", body=graph @body (%i: f32[1]) {
        %o: f32[1] = Sin(%i)
        return %o
      }}
      return %y
    }"""
    verify(parse_graph(text))
    with pytest.raises(VerifyError, match=r"%x is used where it is not defined"):
        verify(parse_graph(text.replace("Sin(%i)", "Sin(%x)")))


def test_other_domains_are_not_looked_into() -> None:
    verify(parse_graph('graph @g () { %y: ?[*] = my.domain.Op(_, _) {a="x"} return %y }'))


def test_the_message_stands_under_the_node() -> None:
    graph = parse_graph(FLOAT)
    node(graph, "inner").attributes["slope"] = 1.0
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    error = caught.value
    assert error.node == "inner"
    assert error.message == "Relu has no attribute 'slope' at opset 21 (at Relu 'inner')"
    lines = [line.strip() for line in error.text.splitlines()]
    at = next(index for index, line in enumerate(lines) if "Relu(%h)" in line)
    assert lines[at + 1].startswith("// ^^^^")
    assert lines[at + 2] == "// Relu has no attribute 'slope' at opset 21"
    assert "// Relu has no attribute" in str(error)


def test_a_graph_that_cannot_be_printed_still_gives_the_message() -> None:
    graph = parse_graph(FLOAT)
    attribute_without_text(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert "cannot be printed" in caught.value.text
