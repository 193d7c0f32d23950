"""Convert a graph from one opset to another, node by node and without loss.

A node whose schema says the same at both opsets is only relabelled; one whose meaning was written
differently goes through an adapter (:mod:`qcc.onnxio.upgrade`, :mod:`qcc.onnxio.downgrade`); an op
that the target does not know yet is expanded into its schema's function body
(:mod:`qcc.onnxio.expand`).  What is left is refused with the node's name.  Only the default domain
has opsets here: nodes of other domains are carried through.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx.helper
from onnx.defs import OpSchema

from qcc.errors import ModelError
from qcc.ir import ops
from qcc.ir.core import Graph, Node, RawAttribute, Value
from qcc.onnxio.downgrade import DOWNGRADES
from qcc.onnxio.edits import element_of
from qcc.onnxio.elements import type_string
from qcc.onnxio.expand import expand_function
from qcc.onnxio.upgrade import UPGRADES

OLDEST_OPSET = 7
"""Before opset 7 broadcasting was written in attributes."""


def convert_graph(graph: Graph, source: int, target: int) -> None:
    """Convert all nodes of a graph and of the bodies inside it, in place; raises ModelError."""
    if source == target:
        return
    for node in list(graph.walk()):
        convert_node(node, source, target)


def convert_node(node: Node, source: int, target: int) -> None:
    """Convert one node (not the bodies inside it), in place; raises ModelError."""
    if node.domain or not onnx.defs.has(node.op_type, ""):
        return
    before = _schema_at(node, source)
    # A deprecated op means what it meant before.
    _adapt(node, min(source, before.since_version) if before.deprecated else source, target)
    after = ops.schema(node.op_type, "", target)
    if after is not None and after.since_version == before.since_version:
        return
    problem = _misfit(node, before, after, target)
    if problem is None:
        _drop_unknown(node, after)
        return
    if target < before.since_version and expand_function(node, before, target, convert_node):
        return
    raise ModelError(
        f"{node.op_type}-{before.since_version} of opset {source} cannot be expressed in opset "
        f"{target}: {problem}; {_advice(source, target)}.",
        node=node.label,
    )


def _schema_at(node: Node, opset: int) -> OpSchema:
    """The schema that gives the node its meaning: of a deprecated op the last one before."""
    found: OpSchema | None = ops.schema(node.op_type, "", opset)
    if found is not None and found.deprecated:
        found = ops.schema(node.op_type, "", found.since_version - 1) or found
    if found is None:
        raise ModelError(
            f"The op {node.op_type} does not exist in opset {opset}, which the model declares; "
            "correct the model's opset.",
            node=node.label,
        )
    return found


def _advice(source: int, target: int) -> str:
    if source < target:
        return "export the model with a newer opset"
    if source == ops.PINNED_OPSET:
        return f"write the model with opset {source}"
    return f"export the model with opset {target} or write that part with other ops"


def _adapt(node: Node, source: int, target: int) -> None:
    op = node.op_type
    if source < target:
        for boundary, adapter in UPGRADES.get(op, ()):
            if source < boundary <= target:
                adapter(node)
    else:
        for boundary, adapter in DOWNGRADES.get(op, ()):
            if target < boundary <= source:
                adapter(node)


# -- does a node fit a schema? ---------------------------------------------------------------------


def _misfit(node: Node, before: OpSchema, after: OpSchema | None, target: int) -> str | None:
    """Why the adapted node is not a node of ``after``, or None; a clause for a message."""
    if after is None or after.deprecated:
        return f"opset {target} has no {node.op_type}"
    checks = (
        _attribute_misfit(node, before, after),
        _count_misfit(node, after),
        *_type_misfits(node, after),
    )
    return next((problem for problem in checks if problem is not None), None)


def _attribute_misfit(node: Node, before: OpSchema, after: OpSchema) -> str | None:
    for name, value in node.attributes.items():
        known = name in after.attributes
        if not known and not _is_default(before, name, value):
            return f"it has no attribute '{name}' there"
    for name, attribute in after.attributes.items():
        if attribute.required and name not in node.attributes:
            return f"it needs the attribute '{name}' there"
    return None


def _drop_unknown(node: Node, after: OpSchema | None) -> None:
    for name in list(node.attributes):
        if after is not None and name not in after.attributes:
            del node.attributes[name]


def default_of(schema: OpSchema, name: str) -> Any:
    """The default value of an attribute, None where it has none."""
    attribute = schema.attributes.get(name)
    if attribute is None or not attribute.default_value.name:
        return None
    return onnx.helper.get_attribute_value(attribute.default_value)


def _is_default(schema: OpSchema, name: str, value: Any) -> bool:
    default = default_of(schema, name)
    if default is None or isinstance(value, RawAttribute):
        return False
    return bool((value.encode() if isinstance(value, str) else value) == default)


def _count_misfit(node: Node, after: OpSchema) -> str | None:
    if len(node.inputs) > after.max_input or len(node.outputs) > after.max_output:
        return "it takes fewer operands or gives fewer results there"
    if len(node.inputs) < after.min_input:
        return f"it needs {after.min_input} operands there"
    required = OpSchema.FormalParameterOption.Single
    for formal, value in zip(after.inputs, node.inputs, strict=False):
        if formal.option == required and value is None:
            return f"its operand '{formal.name}' may not be absent there"
    return None


def _type_misfits(node: Node, after: OpSchema) -> Iterator[str]:
    pairs = [*_typed(node.inputs, after.inputs), *_typed(node.outputs, after.outputs)]
    for value, formal in pairs:
        element = element_of(value)
        if element is None or not any(t.startswith("tensor(") for t in formal.types):
            continue
        if type_string(element) not in formal.types:
            yield f"it does not take {element} for '{formal.name}' there"


def _typed(
    values: tuple[Value | None, ...], formals: Any
) -> Iterator[tuple[Value, OpSchema.FormalParameter]]:
    for index, value in enumerate(values):
        if value is not None and formals:
            yield value, formals[min(index, len(formals) - 1)]
