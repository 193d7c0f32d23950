"""Float nodes without a native kernel become q.region nodes, each with the reason.

Regions are as large as convexity allows.  Every node has a *depth*: how often a path from the
graph's inputs to it changes between native and float.  Float nodes of one depth can run together:
a path that left the region and came back would have passed native nodes and so gained depth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import networkx

from qcc.ir.core import Array, Graph, Node, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType, ValueType
from qcc.numerics import storage_dtype
from qcc.passes.lower.cleanup import drop_dead, fold_float_constants
from qcc.passes.lower.group import eight_bit
from qcc.passes.lower.movement import (
    MOVEMENT,
    joins_natively,
    lower_float_concat,
    lower_float_movement,
    moves_natively,
)
from qcc.ref.evaluate import captured_values
from qcc.ref.float_ops import float_refusal, is_native_float


def outline_float(
    graph: Graph,
    reasons: Mapping[str, Sequence[str]] | None = None,
    native_float: Callable[[Node], bool] = is_native_float,
    *,
    whole: bool = False,
) -> list[Node]:
    """Group the float nodes of a LOWERED graph into q.region nodes, in place; gives the regions.

    ``reasons`` maps a node's label to sentences why it is float (a lowering report's refusals).
    ``native_float`` says which float ops the target computes itself; such a node, and one that only
    moves values, stays native unless it would split a region.  ``whole``: a graph without q.* nodes
    is treated like any other one, too; otherwise it becomes one region.
    """
    rewriter = Rewriter(graph)
    fold_float_constants(graph, rewriter)
    _export_wide_boundaries(graph, rewriter)
    outside = _foreign_nodes(
        graph,
        lambda node: native_float(node) or moves_natively(node) or joins_natively(node),
        whole,
    )
    for node in [node for node in graph.nodes if node not in outside]:
        if node.op in MOVEMENT:
            lower_float_movement(node, rewriter)
        elif node.op == "Concat":
            lower_float_concat(node, rewriter)
    regions = [
        _outline(graph, rewriter, members, reasons or {}) for members in _by_depth(graph, outside)
    ]
    _reschedule(graph)
    drop_dead(graph, rewriter)
    return [node for node in regions if node.graph is graph]


def _export_wide_boundaries(graph: Graph, rewriter: Rewriter) -> None:
    """Quantization that native code does not know (16 bits, per channel) runs in onnxruntime."""
    for node in graph.nodes:
        if node.op not in ("q.quantize", "q.dequantize"):
            continue
        whole = node.output if node.op == "q.quantize" else node.operand(0)
        quant = whole.tensor.quant
        if quant is None or eight_bit(quant):
            continue
        scale = rewriter.constant(f"{node.label}_scale", _shaped(quant.scales, quant))
        zeros = quant.zero_points.astype(storage_dtype(quant.storage))
        zero = rewriter.constant(f"{node.label}_zero_point", _shaped(zeros, quant))
        is_quantize = node.op == "q.quantize"
        exported = rewriter.insert(
            "QuantizeLinear" if is_quantize else "DequantizeLinear",
            [node.operand(0), scale, zero],
            [node.output.tensor],
            attributes={} if quant.axis is None else {"axis": quant.axis},
            name=node.name,
            before=node,
        )
        rewriter.replace(node, [exported.output])


def _shaped(values: Array, quant: Quant) -> Array:
    return values.reshape(()) if quant.per_tensor else values


def _foreign_nodes(graph: Graph, capable: Callable[[Node], bool], whole: bool) -> set[Node]:
    """The nodes that must run in a region: those without native code, and what would split one.

    A node that native code could compute splits a region where it lies on a path from one foreign
    node to another of the same depth.  Depths are those that nodes have while such nodes count
    neither as native nor as foreign: that is the least depth that each can have, and what stays
    native here does not raise it.  Graph inputs count as foreign values of depth 0.

    Unless ``whole``, a graph without integers is one region, which runs with any shapes.
    """
    own = [node for node in graph.nodes if node.domain != "q"]
    if len(own) == len(graph.nodes) and not whole:
        return set(own)
    flexible = {node for node in own if capable(node)}
    rigid = set(own) - flexible
    reached = _least_depths(graph, flexible, rigid)
    ahead: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        depth = reached[node].foreign if node in rigid else ahead.get(node, _NOWHERE)
        if node.domain == "q":
            continue
        for value in captured_values(node):
            if value.producer in flexible:
                ahead[value.producer] = min(depth, ahead.get(value.producer, _NOWHERE))
    return rigid | {n for n in flexible if ahead.get(n, _NOWHERE) == reached[n].foreign}


_NOWHERE = sys.maxsize


class _Depths(NamedTuple):
    """The largest depths of the foreign and of the native values that reach a node; -1: none."""

    foreign: int = -1
    native: int = -1


def _least_depths(graph: Graph, flexible: set[Node], rigid: set[Node]) -> dict[Node, _Depths]:
    """Foreign depths are even, native ones odd; a flexible node has what its operands have."""
    found: dict[Node, _Depths] = {}
    inputs, graph_nodes = set(graph.inputs), set(graph.nodes)
    for node in graph.nodes:
        behind = [
            found[value.producer] if value.producer is not None else _Depths(foreign=0)
            for value in captured_values(node)
            if value in inputs or value.producer in graph_nodes
        ]
        foreign = max((depths.foreign for depths in behind), default=-1)
        native = max((depths.native for depths in behind), default=-1)
        if node in flexible:
            found[node] = _Depths(foreign, native)
        elif node in rigid:
            found[node] = _Depths(foreign=max(foreign, native + 1, 0))
        else:
            found[node] = _Depths(native=max(foreign + 1, native, 1))
    return found


def _by_depth(graph: Graph, foreign: set[Node]) -> list[list[Node]]:
    depth: dict[Node, int] = {}
    groups: dict[int, list[Node]] = {}
    for node in graph.nodes:
        inside = node in foreign
        deepest = 0 if inside else 1
        for value in captured_values(node):
            maker = value.producer
            if maker is not None and maker in depth:
                change = (maker in foreign) != inside
                deepest = max(deepest, depth[maker] + change)
        depth[node] = deepest
        if inside:
            groups.setdefault(deepest, []).append(node)
    return [groups[key] for key in sorted(groups)]


def _outline(
    graph: Graph,
    rewriter: Rewriter,
    members: list[Node],
    reasons: Mapping[str, Sequence[str]],
) -> Node:
    inside = set(members)
    inputs: dict[Value, None] = {}
    for node in members:
        for value in captured_values(node):
            if value.producer not in inside and not value.is_constant:
                inputs[value] = None
    outputs = [
        value
        for node in members
        for value in node.outputs
        if any(use.user is graph or use.user not in inside for use in value.uses)
    ]
    body = _body(graph, members, list(inputs), outputs)
    region = rewriter.insert(
        "q.region",
        list(inputs),
        [value.type for value in outputs],
        attributes={"body": body, "reason": _reason(members, reasons)},
        name=graph.fresh_name("region"),
    )
    for inner in body.outputs:
        inner.name = graph.fresh_name(inner.name)
    for old, new in zip(outputs, region.outputs, strict=True):
        rewriter.replace_uses(old, new)
    for node in reversed(members):
        rewriter.erase(node)
    return region


def _body(
    graph: Graph, members: Iterable[Node], inputs: Sequence[Value], outputs: Sequence[Value]
) -> Graph:
    """The members copied into a graph of their own; constants are shared data."""
    body = Graph("region", parent=graph)
    mapping: dict[Value, Value] = {}
    branches = any(node.subgraphs for node in members)
    for value in inputs:
        type_ = _open_type(value.type) if branches else value.type
        mapping[value] = body.add_input(graph.fresh_name(value.name), type_)
    for node in members:
        for value in captured_values(node):
            if value.constant is not None and value not in mapping:
                name = graph.fresh_name(value.name)
                mapping[value] = body.add_constant(name, value.constant, value.tensor)
        body.insert_copy(node, mapping)
    body.set_outputs([mapping[value] for value in outputs])
    return body


def _open_type(type_: ValueType) -> ValueType:
    """The type without its sizes: a branch that is not taken may contradict the given ones."""
    if not isinstance(type_, TensorType) or type_.shape is None:
        return type_
    return type_.with_shape((None,) * len(type_.shape))


def _reason(members: Sequence[Node], reasons: Mapping[str, Sequence[str]]) -> str:
    found: dict[str, None] = {}
    for node in members:
        own = float_refusal(node)
        for sentence in (*reasons.get(node.label, ()), *([own] if own else [])):
            found[sentence] = None
    if found:
        return "; ".join(found)
    kinds = ", ".join(sorted({node.op for node in members}))
    return f"no integer kernel for {kinds}"


def _reschedule(graph: Graph) -> None:
    """Order the nodes by their dependencies, keeping the present order where it is free."""
    position = {node: index for index, node in enumerate(graph.nodes)}
    order: networkx.DiGraph[Node] = networkx.DiGraph()
    order.add_nodes_from(graph.nodes)
    for node in graph.nodes:
        for value in captured_values(node):
            if value.producer in position:
                order.add_edge(value.producer, node)
    # A region stands last in the list, so everything ready comes before it.
    graph.reorder(networkx.lexicographical_topological_sort(order, key=position.__getitem__))
