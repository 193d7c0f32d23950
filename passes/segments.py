"""A float graph and its numbered copy cut into the same steps: groups, and runs of float nodes.

The float graph and the numbered one hold the same groups in the same order, so step ``i`` of one
computes what step ``i`` of the other does.  Walking both in step needs only the values that later
steps read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qcc.ir.core import Graph, Node, Value
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.ref.float_region import region_inputs


@dataclass(frozen=True)
class Segment:
    """Nodes that run together; ``group`` is None for a run of float nodes.

    ``inputs`` and ``outputs`` are the values that it takes from earlier steps and gives to later
    ones (or to the caller).
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    group: FusionGroup | None = None


def cut(graph: Graph, plan: FusionPlan) -> list[Segment]:
    """The steps of ``graph``, which ``plan`` speaks of: run, group, run, group, ..., run.

    The q.dequantize nodes that only a group reads and the q.quantize of its result belong to the
    group.  Runs may be empty, so that two graphs of one plan have as many steps.
    """
    owner = _owners(graph, plan)
    members: dict[FusionGroup, list[Node]] = {}
    for node in graph.nodes:
        if node in owner:
            members.setdefault(owner[node], []).append(node)
    # A group is ready with its last float node: with two results, what reads the first one may
    # stand before the q.quantize of the second.
    roots = {
        [node for node in found if node.op != "q.quantize"][-1]: group
        for group, found in members.items()
    }
    segments: list[Segment] = []
    pending: list[Node] = []
    for node in graph.nodes:
        group = owner.get(node)
        if group is None:
            pending.append(node)
        if node in roots:
            segments.append(_segment(pending, None))
            pending = []
            segments.append(_segment(members[roots[node]], roots[node]))
    segments.append(_segment(pending, None))
    return segments


def _owners(graph: Graph, plan: FusionPlan) -> dict[Node, FusionGroup]:
    owner = {node: group for group in plan.groups for node in group.nodes if node.graph is graph}
    for node in graph.nodes:
        if node.op == "q.dequantize":
            readers = {id(owner.get(user)): owner.get(user) for user in node.output.users}
            (found,) = readers.values() if len(readers) == 1 else (None,)
            if found is not None and not node.output.is_output:
                owner[node] = found
        elif node.op == "q.quantize":
            producer = node.operand(0).producer
            source = None if producer is None else owner.get(producer)
            if source is not None:
                owner[node] = source
    return owner


def _segment(nodes: Sequence[Node], group: FusionGroup | None) -> Segment:
    inside = set(nodes)
    outputs = [
        value
        for node in nodes
        for value in node.outputs
        if value.is_output or any(user not in inside for user in value.users)
    ]
    return Segment(tuple(nodes), tuple(region_inputs(nodes)), tuple(outputs), group)


def last_uses(segments: Sequence[Segment], pinned: Iterable[Value]) -> list[list[Value]]:
    """For each step, the values that no later step reads; ``pinned`` ones live to the end."""
    last: dict[Value, int] = {}
    for index, segment in enumerate(segments):
        for value in (*segment.outputs, *segment.inputs):
            last[value] = index
    last.update(dict.fromkeys(pinned, len(segments) - 1))
    found: list[list[Value]] = [[] for _ in segments]
    for value, index in last.items():
        found[index].append(value)
    return found
