"""Boundaries that meet: quantize after dequantize, repeated dequantizes, and what nothing uses."""

from __future__ import annotations

from qcc import numerics
from qcc.ir.core import Graph, Node, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.dequantize_constants import dequantized_constant


def clean(graph: Graph, rewriter: Rewriter) -> None:
    """Join boundaries and drop dead nodes and constants, until nothing changes."""
    before = -1
    while before != rewriter.changes:
        before = rewriter.changes
        for node in graph.nodes:
            if node.graph is graph and node.op in _RULES:
                _RULES[node.op](node, rewriter)
        _share_dequantizes(graph, rewriter)
        drop_dead(graph, rewriter)


def _join_quantize(node: Node, rewriter: Rewriter) -> None:
    """``q.quantize(q.dequantize(x))`` is x itself, or x at another scale."""
    x = node.operand(0).producer
    if node.operand(0).is_constant:
        _quantize_constant(node, rewriter)
        return
    if x is None or x.op != "q.dequantize":
        return
    source, target = x.operand(0), node.output
    if source.tensor.element == target.tensor.element:
        rewriter.replace(node, [source])
        return
    quants = (source.tensor.quant, target.tensor.quant)
    if any(q is None or not q.per_tensor for q in quants) or source.is_constant:
        return
    made = rewriter.insert("q.requantize", [source], [target.type], name=node.name, before=node)
    rewriter.replace(node, [made.output])


def _quantize_constant(node: Node, rewriter: Rewriter) -> None:
    quant, data = node.output.tensor.quant, node.operand(0).constant
    if quant is None or data is None:
        return
    low, high = quant.range
    stored = numerics.quantize(
        data,
        quant.scales,
        quant.zero_points,
        quant.storage,
        axis=quant.axis,
        low=low,
        high=high,
    )
    folded = rewriter.constant(f"{node.operand(0).name}_q", stored, TensorType(stored.shape, quant))
    rewriter.replace(node, [folded])


def _join_dequantize(node: Node, rewriter: Rewriter) -> None:
    """A dequantized constant that float nodes read becomes a float constant."""
    source = node.operand(0)
    reads_integers = any(user.domain == "" for user in node.output.users)
    if source.constant is None or not reads_integers or node.output.is_output:
        return
    data = dequantized_constant(node)
    if data is not None:
        rewriter.replace(node, [rewriter.constant(f"{source.name}_f32", data)])


_RULES = {"q.quantize": _join_quantize}


def fold_float_constants(graph: Graph, rewriter: Rewriter) -> None:
    """Turn every dequantized constant that is still read into a float constant.

    Also those that have no integer form (blocks, floats of few bits).
    """
    for node in graph.nodes:
        if node.graph is graph and node.op in ("q.dequantize", "DequantizeLinear"):
            _join_dequantize(node, rewriter)
    drop_dead(graph, rewriter)


def _share_dequantizes(graph: Graph, rewriter: Rewriter) -> None:
    """One q.dequantize a value: later ones use the first."""
    first: dict[Value, Node] = {}
    for node in graph.nodes:
        if node.op != "q.dequantize" or node.graph is not graph:
            continue
        kept = first.setdefault(node.operand(0), node)
        if kept is not node and not node.output.is_output:
            rewriter.replace(node, [kept.output])


def drop_dead(graph: Graph, rewriter: Rewriter) -> None:
    """Erase nodes and constants that nothing uses."""
    for node in reversed(graph.nodes):
        if node.graph is graph and not any(output.uses for output in node.outputs):
            rewriter.erase(node)
    for constant in list(graph.constants.values()):
        if not constant.uses:
            rewriter.changes += 1
            graph.remove_constant(constant)
