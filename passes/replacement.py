"""Replacing one value by another without breaking what the outside of a graph can see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qcc.ir.core import Attribute, Graph, Node, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import UNDEFINED, Dim, Shape, TensorType, ValueType


@dataclass(frozen=True)
class Found:
    """An op of one operand that a node was found to compute, written out."""

    op: str
    x: Value
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def replaceable(old: Value, new: Value) -> bool:
    """Whether every use of ``old`` may become a use of ``new``.

    An output of a graph must come out of a node of that same graph and can stand there only once:
    a graph input, a constant or an outer value cannot take its place.
    """
    for use in old.uses:
        graph = use.user
        if not isinstance(graph, Graph):
            continue
        if new.producer is None or new.producer.graph is not graph:
            return False
        if any(output is new for output in graph.outputs):
            return False
    return True


def forward(node: Node, value: Value, rewriter: Rewriter) -> bool:
    """Replace the one result of ``node`` by ``value`` and erase the node; False where it must stay.

    What the result's type knew about the shape is kept.
    """
    if not replaceable(node.output, value) or any(extra.uses for extra in node.outputs[1:]):
        return False
    rewriter.set_type(value, refined(value.type, node.output.type))
    rewriter.replace_uses(node.output, value)
    operands = node.inputs
    rewriter.erase(node)
    for operand in operands:
        rewriter.erase_dead(operand)
    return True


def substitute(node: Node, value: Value, rewriter: Rewriter) -> None:
    """Like :func:`forward`, with an Identity in between where ``value`` alone cannot stand."""
    if forward(node, value, rewriter):
        return
    identity = rewriter.insert("Identity", [value], [node.output.type], before=node)
    rewriter.replace_uses(node.output, identity.output)
    rewriter.erase(node)


def supersede(
    node: Node,
    op: str,
    inputs: Sequence[Value | None],
    rewriter: Rewriter,
    attributes: Mapping[str, Attribute] | None = None,
) -> Node:
    """Replace ``node`` by one new node that computes its first result; names and notes stay.

    The node must not have further results that are used.
    """
    old = node.output
    replacement = rewriter.insert(
        op,
        inputs,
        [old.type],
        attributes=attributes,
        name=node.name,
        output_names=[old.name],
        before=node,
    )
    replacement.doc, replacement.metadata = node.doc, dict(node.metadata)
    new = replacement.output
    new.doc, new.metadata = old.doc, dict(old.metadata)
    rewriter.replace_uses(old, new)
    rewriter.erase(node)
    return replacement


def supersede_found(
    nodes: Iterable[Node], find: Callable[[Node], Found | None], rewriter: Rewriter
) -> None:
    """Replace each node that ``find`` gives something for; what it read alone goes too.

    ``nodes`` may be erased on the way: those are passed over.
    """
    for node in nodes:
        found = None if node.graph is None else find(node)
        if found is None:
            continue
        operands = node.inputs
        supersede(node, found.op, [found.x], rewriter, found.attributes)
        for value in operands:
            rewriter.erase_dead(value)


def refined(known: ValueType, other: ValueType) -> ValueType:
    """``known`` with the dimensions (and the element) that only ``other`` knows."""
    if not isinstance(known, TensorType) or not isinstance(other, TensorType):
        return known
    element = other.element if known.element == UNDEFINED else known.element
    return TensorType(_refined_shape(known.shape, other.shape), element, known.layout)


def _refined_shape(known: Shape, other: Shape) -> Shape:
    if known is None or other is None:
        return known if other is None else other
    if len(known) != len(other):
        return known
    return tuple(_refined_dim(a, b) for a, b in zip(known, other, strict=True))


def _refined_dim(known: Dim, other: Dim) -> Dim:
    if isinstance(known, int) or other is None:
        return known
    return other if isinstance(other, int) or known is None else known
