"""Replace a node by the function body of its ONNX schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import onnx
from onnx import FunctionProto, ModelProto, TypeProto
from onnx.defs import OpSchema

from qcc.ir.core import Attribute, Graph, Node, Use, Value
from qcc.ir.infer import merge_types
from qcc.ir.types import UNKNOWN
from qcc.onnxio import edits
from qcc.onnxio.attributes import read_attribute
from qcc.onnxio.build import build_function
from qcc.onnxio.emit import Emitter, node_proto
from qcc.onnxio.inferred import infer_types
from qcc.onnxio.typeinfo import write_type

Convert = Callable[[Node, int, int], None]


def expand_function(node: Node, schema: OpSchema, target: int, convert: Convert) -> bool:
    """Replace ``node`` by its schema's function body converted to opset ``target``.

    Returns False, with nothing changed, where the schema has no body (for these operand types).
    ``convert`` converts one node from an opset to another.  The node's outputs keep their names.
    """
    function = _body(node, schema, target)
    if function is None:
        return False
    # A body that is made for the node leaves out the results that the node does not name.
    pairs = zip(function.output, node.outputs, strict=False)
    wanted = [(formal, public) for formal, public in pairs if public.name]
    function.output[:] = [formal for formal, _ in wanted]
    node.outputs = tuple(public for _, public in wanted)
    body = build_function(function)
    opset = body.info.opsets.get("", schema.since_version)
    made = _inline(node, body, _arguments(node, schema))
    _infer(made, opset)
    for inner in made:
        for nested in inner.subgraphs:
            for deep in list(nested.walk()):
                convert(deep, opset, target)
        convert(inner, opset, target)
    return True


def _body(node: Node, schema: OpSchema, target: int) -> FunctionProto | None:
    """The function body written in the newest opset that the target knows, else in the oldest."""
    any_schema: Any = schema
    version = _version(any_schema.function_opset_versions, target)
    if version is not None:
        return _parsed(any_schema.get_function_with_opset_version(version))
    version = _version(any_schema.context_dependent_function_opset_versions, target)
    if version is None:
        return None
    types = [_type_bytes(value) for value in node.inputs]
    if None in types:
        return None
    serialized = node_proto(node).SerializeToString()
    return _parsed(
        any_schema.get_context_dependent_function_with_opset_version(version, serialized, types)
    )


def _version(known: Sequence[int], target: int) -> int | None:
    versions = sorted(known)
    usable = [version for version in versions if version <= target]
    return usable[-1] if usable else next(iter(versions), None)


def _type_bytes(value: Value | None) -> bytes | None:
    """The serialized type of an operand (empty for an absent one), None where it is not known."""
    type = TypeProto() if value is None else write_type(value.type)
    return None if type is None else bytes(type.SerializeToString())


def _parsed(body: bytes) -> FunctionProto | None:
    if not body:
        return None
    function: FunctionProto = FunctionProto.FromString(body)
    return function


def _inline(node: Node, body: Graph, arguments: Mapping[str, Attribute]) -> tuple[Node, ...]:
    """Move the body's nodes before ``node``, which goes away; returns the moved nodes."""
    graph = edits.home(node)
    made = body.nodes
    _substitute(body, arguments)
    _rename(body, graph, node.label)
    for formal, actual in zip_longest(body.inputs, node.inputs[: len(body.inputs)]):
        for use in formal.uses:
            _set_operand(use, actual)
    results = body.outputs
    body.set_outputs(())
    for result, public in zip(results, node.outputs, strict=True):
        _take_over(result, public)
    for inner in made:
        _reparent(inner, body, graph)
        graph.insert_node(inner, node)
    edits.set_inputs(node, ())
    node.outputs = ()
    graph.remove_node(node)
    return made


def _infer(nodes: tuple[Node, ...], opset: int) -> None:
    """Complete the types of what nodes of an opset give, from those of what they read."""
    made = {value: None for node in nodes for value in node.outputs if value.name}
    read = {value: None for node in nodes for value in node.inputs if value is not None}
    model = ModelProto(ir_version=onnx.IR_VERSION)
    model.opset_import.add(domain="", version=opset)
    graph = Emitter(set()).region("body", nodes, [v for v in read if v not in made], [], [])
    model.graph.CopyFrom(graph)
    types = infer_types(model).types()
    for value in made:
        value.type = merge_types(value.type, types.get(value.name, UNKNOWN))


def _set_operand(use: Use, actual: Value | None) -> None:
    if not isinstance(use.user, Node):
        raise TypeError("a schema's function gives one of its inputs as an output")
    operands = list(use.user.inputs)
    operands[use.index] = actual
    edits.home(use.user)._set_inputs(use.user, operands)


def _take_over(result: Value, public: Value) -> None:
    """Let the producer of ``result`` make ``public`` instead."""
    producer = result.producer
    if producer is None:
        raise TypeError("a schema's function gives one of its inputs as an output")
    for use in result.uses:
        _set_operand(use, public)
    public.producer, public.index = producer, result.index
    outputs = list(producer.outputs)
    outputs[result.index] = public
    producer.outputs = tuple(outputs)


def _reparent(inner: Node, body: Graph, graph: Graph) -> None:
    """Take a node out of the throwaway body."""
    body._nodes.remove(inner)
    inner.graph = None
    for nested in inner.subgraphs:
        _adopt(nested, graph)


def _adopt(nested: Graph, parent: Graph) -> None:
    nested.parent, nested.info, nested._names = parent, parent.info, parent._names
    for node in nested.nodes:
        for deeper in node.subgraphs:
            _adopt(deeper, nested)


def _rename(body: Graph, graph: Graph, label: str) -> None:
    """Give every value and node of the body a name that is free in the whole tree of ``graph``."""
    for value in body.values():
        if value.name:
            value.name = graph.fresh_name(f"{label}_{value.name}")
    for node in body.nodes:
        node.name = graph.fresh_name(f"{label}_{node.op_type.lower()}")
        for nested in node.subgraphs:
            _rename(nested, graph, label)


def _substitute(body: Graph, arguments: Mapping[str, Attribute]) -> None:
    """Replace references to the function's attributes by what the node (or a default) says."""
    for node in body.walk():
        for name, value in list(node.attributes.items()):
            proto = edits.reference(value)
            if proto is None:
                continue
            if proto.ref_attr_name in arguments:
                node.attributes[name] = arguments[proto.ref_attr_name]
            else:
                del node.attributes[name]


def _arguments(node: Node, schema: OpSchema) -> dict[str, Attribute]:
    """The node's attributes, and the schema's defaults of those that it does not set."""
    found: dict[str, Attribute] = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            found[name] = read_attribute(attribute.default_value, None)
    return found | node.attributes
