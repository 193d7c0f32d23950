"""Operation definitions: where arity, attributes, type rules and reference semantics are looked up.

The float dialect is ONNX: its definitions are ``onnx.defs`` schemas at the pinned opset.  The
integer dialect (domain ``q``) is ours; each op is registered with :func:`define`, with its numpy
reference beside its definition (:mod:`qcc.ir.integer`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from qcc.ir.core import Array, Node, Stage

PINNED_OPSET = 21
"""The opset that every graph has in memory."""

Evaluate = Callable[[Node, Sequence["Array | None"]], Sequence[Array]]
Check = Callable[[Node], "str | None"]

LATE = frozenset({Stage.NUMBERED, Stage.LOWERED})


@dataclass(frozen=True)
class Operand:
    """One operand: its name, whether it may be absent, whether it repeats (last operand only)."""

    name: str
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class OpDefinition:
    """An op of the integer dialect.

    ``check`` gives a sentence when the node breaks a rule of the op.  ``evaluate`` maps operand
    arrays in *stored* form to result arrays in stored form and reads scales from the types of the
    node's operands and results.
    """

    name: str
    operands: tuple[Operand, ...]
    evaluate: Evaluate
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Attribute name to default value."""
    outputs: int | None = 1
    """Number of results; None where it varies."""
    stages: frozenset[Stage] = frozenset({Stage.LOWERED})
    check: Check | None = None
    doc: str = ""


_DEFINITIONS: dict[str, OpDefinition] = {}


def define(definition: OpDefinition) -> OpDefinition:
    """Register an op of the integer dialect; raises ValueError for a second one of the name."""
    if definition.name in _DEFINITIONS:
        raise ValueError(f"op '{definition.name}' is defined twice")
    _DEFINITIONS[definition.name] = definition
    return definition


def definition(op: str) -> OpDefinition | None:
    """The definition of an integer-dialect op (``"q.conv"``), or None."""
    _load_integer_dialect()
    return _DEFINITIONS.get(op)


def integer_ops() -> tuple[OpDefinition, ...]:
    """Every op of the integer dialect, by name."""
    _load_integer_dialect()
    return tuple(_DEFINITIONS[name] for name in sorted(_DEFINITIONS))


@cache
def _load_integer_dialect() -> None:
    import importlib

    importlib.import_module("qcc.ir.integer")


@cache
def schema(op_type: str, domain: str = "", opset: int = PINNED_OPSET) -> Any | None:
    """The ``onnx.defs`` schema of an op at ``opset``, or None where ONNX does not know it."""
    import onnx.defs

    if not onnx.defs.has(op_type, domain):
        return None
    try:
        return onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None


def attribute(node: Node, name: str) -> Any:
    """An attribute's value, or the default of its definition or schema; None if it has none."""
    if name in node.attributes:
        return node.attributes[name]
    if node.domain == "q":
        found = definition(node.op)
        return None if found is None else found.attributes.get(name)
    return _schema_default(node.op_type, node.domain, name)


@cache
def _schema_default(op_type: str, domain: str, name: str) -> Any:
    found = schema(op_type, domain)
    if found is None or name not in found.attributes:
        return None
    default = found.attributes[name].default_value
    import onnx.helper

    return onnx.helper.get_attribute_value(default) if default.name else None
