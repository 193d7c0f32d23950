"""Lowering: q.dequantize → float ops → q.quantize groups become q.* ops (NUMBERED to LOWERED).

The same patterns that chose the fusion groups on the float graph are matched again here, so a model
that already holds Q/DQ takes the same way.  What no pattern matches, or a lowering refuses with a
sentence, stays float.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qcc.ir.core import Graph, Node, Stage
from qcc.ir.rewrite import Rewriter
from qcc.passes.lower.cleanup import clean
from qcc.passes.lower.elementwise import lower_binary, lower_concat, lower_lut, lower_softmax
from qcc.passes.lower.group import Group, Lowering, stored
from qcc.passes.lower.linear import lower_conv, lower_matmul
from qcc.passes.lower.movement import MOVEMENT, lower_float_movement, lower_movement, move_bytes
from qcc.passes.lower.pooling import (
    lower_average_pool,
    lower_max_pool,
    lower_reduce_mean,
    lower_resize,
)

LOWERINGS: dict[str, Lowering] = {
    "q.conv": lower_conv,
    "q.matmul": lower_matmul,
    "q.add": lower_binary,
    "q.sub": lower_binary,
    "q.mul": lower_binary,
    "q.lut": lower_lut,
    "q.softmax": lower_softmax,
    "q.concat": lower_concat,
    "q.max_pool": lower_max_pool,
    "q.average_pool": lower_average_pool,
    "q.reduce_mean": lower_reduce_mean,
    "q.resize": lower_resize,
    "q.reshape": lower_movement,
    "q.transpose": lower_movement,
    "q.slice": lower_movement,
    "q.pad": lower_movement,
    "q.expand": lower_movement,
    "q.gather": lower_movement,
    "q.depth_to_space": lower_movement,
    "q.move": lower_movement,
}
"""Name of a lowering (as a BackendPatternConfig gives it) to the function that does it."""


class LoweringPattern(Protocol):
    """What lowering reads of a BackendPatternConfig."""

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    @property
    def pattern(self) -> Any:
        """A pattern whose ``match(node)`` gives a match with ``nodes``, a refusal, or None."""
        ...

    @property
    def lowering(self) -> str | None:
        """A key of :data:`LOWERINGS`, or None."""
        ...


@dataclass
class LoweringReport:
    """What became of the float nodes: fused names by q.* node, and sentences for the rest."""

    fused: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of each group to the names of its float nodes."""
    refusals: dict[str, list[str]] = field(default_factory=dict)
    """Label of a float node to the reasons why it was not lowered."""

    def refuse(self, node: Node, sentence: str) -> None:
        """Note a reason once."""
        reasons = self.refusals.setdefault(node.label, [])
        if sentence not in reasons:
            reasons.append(sentence)


def lower(graph: Graph, patterns: Iterable[LoweringPattern]) -> LoweringReport:
    """Lower ``graph`` in place to stage LOWERED.

    ``patterns`` are tried in their order at every node, from the last node to the first.
    """
    rewriter = Rewriter(graph)
    report = LoweringReport()
    candidates = [p for p in patterns if p.lowering in LOWERINGS]
    move_bytes(graph, rewriter)
    clean(graph, rewriter)
    handled: set[Node] = set()
    for node in reversed(graph.nodes):
        if node.graph is graph and node.domain == "" and node not in handled:
            handled.update(_lower_at(node, candidates, rewriter, report))
    move_bytes(graph, rewriter)
    _lower_plain_movement(graph, rewriter)
    clean(graph, rewriter)
    graph.stage = Stage.LOWERED
    return report


def _lower_at(
    root: Node,
    patterns: Sequence[LoweringPattern],
    rewriter: Rewriter,
    report: LoweringReport,
) -> tuple[Node, ...]:
    """Lower the group that ends at ``root``; gives its nodes, some of which may stay float."""
    for pattern in patterns:
        found = pattern.pattern.match(root)
        nodes = getattr(found, "nodes", None)
        if not nodes:
            continue
        group = Group(in_schedule_order(root.graph, nodes))
        if not _reads_quantized(group):
            continue
        names = tuple(node.label for node in group.nodes)
        sentence = LOWERINGS[str(pattern.lowering)](group, rewriter)
        if sentence is None:
            report.fused[names[0]] = names
            for name in names:
                report.refusals.pop(name, None)
            return group.nodes
        report.refuse(root, sentence)
    return ()


def in_schedule_order(graph: Graph | None, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """``nodes`` as the graph schedules them."""
    wanted = set(nodes)
    return tuple(node for node in graph.nodes if node in wanted) if graph is not None else ()


def _reads_quantized(group: Group) -> bool:
    """Whether the group reads any stored activation: float groups are nobody's refusal."""
    return any(
        source is not None and not source.is_constant
        for node in group.nodes
        for source in map(stored, node.inputs)
    )


def _lower_plain_movement(graph: Graph, rewriter: Rewriter) -> None:
    """Float movement next to integer ops moves natively too; among float ops it stays."""
    for node in graph.nodes:
        if node.graph is not graph or node.op not in MOVEMENT:
            continue
        neighbours = [v.producer for v in node.inputs[:1] if v is not None and v.producer]
        neighbours += [user for output in node.outputs for user in output.users]
        if any(neighbour.domain == "q" for neighbour in neighbours):
            lower_float_movement(node, rewriter)


__all__ = [
    "LOWERINGS",
    "Group",
    "Lowering",
    "LoweringPattern",
    "LoweringReport",
    "in_schedule_order",
    "lower",
]
