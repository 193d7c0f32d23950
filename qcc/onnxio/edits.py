"""Small edits of nodes that the opset adapters are made of.

All of them keep the names of a node's outputs: what follows a node takes over its public output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto

from qcc.errors import ModelError
from qcc.ir.core import Attribute, Graph, Node, RawAttribute, Value
from qcc.ir.types import UNDEFINED, UNKNOWN, Quant, TensorType, ValueType
from qcc.onnxio.elements import element_dtype

REFERENCE_CONSTANT = {
    AttributeProto.INTS: "value_ints",
    AttributeProto.INT: "value_int",
    AttributeProto.FLOATS: "value_floats",
    AttributeProto.FLOAT: "value_float",
}
"""The attribute of Constant that can refer to a function's attribute of each kind."""


def home(node: Node) -> Graph:
    """The graph that a node sits in."""
    if node.graph is None:
        raise ValueError(f"node '{node.label}' is in no graph")
    return node.graph


def constant(node: Node, role: str, data: Any) -> Value:
    """A constant beside ``node``, named after it and its ``role``."""
    graph = home(node)
    return graph.add_constant(graph.fresh_name(f"{node.label}_{role}"), np.asarray(data))


def before(
    node: Node,
    op: str,
    inputs: Sequence[Value | None],
    role: str,
    *,
    type: ValueType = UNKNOWN,
    attributes: Mapping[str, Attribute] | None = None,
) -> Value:
    """Insert a node of one output before ``node`` and return that output."""
    graph = home(node)
    name = graph.fresh_name(f"{node.label}_{role}")
    made = graph.create_node(
        op, inputs, [type], attributes=attributes, name=name, output_names=[name], before=node
    )
    return made.output


def after(
    node: Node,
    op: str,
    extra_inputs: Sequence[Value | None],
    *,
    index: int = 0,
    inner_type: ValueType = UNKNOWN,
    attributes: Mapping[str, Attribute] | None = None,
) -> Node:
    """Insert a node after ``node`` that takes over its public output ``index``.

    ``node`` gets a fresh inner output of ``inner_type``, which is the new node's first input.
    """
    graph = home(node)
    public = node.outputs[index]
    inner = Value(graph.fresh_name(public.name), inner_type, producer=node, index=index)
    node.outputs = (*node.outputs[:index], inner, *node.outputs[index + 1 :])
    final = Node(op, "", graph.fresh_name(f"{node.label}_{op.lower()}"))
    final.attributes = dict(attributes or {})
    final.outputs = (public,)
    public.producer, public.index = final, 0
    graph._set_inputs(final, [inner, *extra_inputs])
    nodes = graph.nodes
    position = nodes.index(node) + 1
    graph.insert_node(final, nodes[position] if position < len(nodes) else None)
    return final


def set_inputs(node: Node, inputs: Sequence[Value | None]) -> None:
    """Replace the operands of a node, without absent ones at the end."""
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    home(node)._set_inputs(node, kept)


def set_input(node: Node, index: int, value: Value | None) -> None:
    """Set one operand of a node, which may lie beyond its present ones."""
    operands = list(node.inputs) + [None] * (index + 1 - len(node.inputs))
    operands[index] = value
    set_inputs(node, operands)


def reference(value: Attribute) -> AttributeProto | None:
    """The proto of an attribute that refers to an attribute of the enclosing function."""
    if not isinstance(value, RawAttribute):
        return None
    proto = AttributeProto.FromString(value.proto)
    return proto if proto.ref_attr_name else None


def plain(node: Node, name: str, default: Attribute = None) -> Attribute:
    """An attribute as a plain value; raises ModelError where a function's caller decides it."""
    value = node.attributes.get(name, default)
    if reference(value) is not None:
        raise ModelError(
            f"The opset of this function cannot be converted, since attribute '{name}' of a "
            f"{node.op_type} is a parameter of the function; inline the function "
            "(onnx.inliner.inline_local_functions) and try again.",
            node=node.label,
        )
    return [] if isinstance(value, RawAttribute) else value


def attribute_to_input(
    node: Node, name: str, index: int, dtype: Any = np.int64, shape: tuple[int, ...] = (-1,)
) -> None:
    """Turn attribute ``name``, where it is set, into operand ``index`` of the given shape."""
    value = node.attributes.get(name)
    if value is None:
        return
    proto = reference(value)
    if proto is not None and proto.type in REFERENCE_CONSTANT:
        operand = _reference_operand(node, name, proto, shape)
    else:
        operand = constant(node, name, np.asarray(plain(node, name), dtype).reshape(shape))
    del node.attributes[name]
    set_input(node, index, operand)


def _reference_operand(
    node: Node, name: str, proto: AttributeProto, shape: tuple[int, ...]
) -> Value:
    """A Constant that refers to the function's attribute that ``proto`` refers to."""
    scalar = proto.type in (AttributeProto.INT, AttributeProto.FLOAT)
    proto.name = REFERENCE_CONSTANT[proto.type]
    kept = RawAttribute(proto.SerializeToString(deterministic=True))
    operand = before(node, "Constant", (), name, attributes={proto.name: kept})
    if not scalar or not shape:
        return operand
    target = constant(node, f"{name}_shape", np.asarray(shape, np.int64))
    return before(node, "Reshape", (operand, target), f"{name}_list")


def scalar_like(node: Node, role: str, value: float, like: Value) -> Value:
    """A scalar constant of the element type of ``like``."""
    element = element_of(like)
    if element is not None:
        return constant(node, role, np.asarray(value).astype(element_dtype(element)))
    scalar = constant(node, role, np.asarray(value, np.float32))
    return before(node, "CastLike", (scalar, like), f"{role}_cast")


def element_of(value: Value | None) -> str | None:
    """The scalar (or stored) element of a tensor, None where it is not known."""
    if value is None or not isinstance(value.type, TensorType):
        return None
    return None if value.type.storage == UNDEFINED else value.type.storage


def dims_of(value: Value | None) -> tuple[Any, ...] | None:
    """The dimensions of a tensor, None where not even the rank is known."""
    if value is None or not isinstance(value.type, TensorType):
        return None
    return value.type.shape


def constant_of(value: Value | None) -> np.ndarray[Any, Any] | None:
    """The data of an initializer or of a Constant node's ``value``, else None."""
    if value is None or isinstance(getattr(value.type, "element", None), Quant):
        return None
    if value.constant is not None:
        return np.asarray(value.constant)
    node = value.producer
    if node is None or node.op != "Constant":
        return None
    for name in ("value", "value_ints", "value_floats", "value_int", "value_float"):
        data = node.attributes.get(name)
        if data is not None and not isinstance(data, RawAttribute):
            return np.asarray(data, np.float32 if "float" in name else None)
    return None


def drop_default(node: Node, name: str, default: Attribute) -> bool:
    """Remove an attribute that has the given value; False where it has another one."""
    if name not in node.attributes:
        return True
    if node.attributes[name] != default:
        return False
    del node.attributes[name]
    return True
