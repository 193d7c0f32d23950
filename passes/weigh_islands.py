"""Which quantized parts of a graph would run slower than in float, conversions included.

Groups that hand 8-bit values to each other form an island.  At its shore values are converted:
what comes from a float node (or the caller) and what goes to one.  The work saved inside must pay
for that.  The estimate is a backend's :class:`~qcc.quant.backend_config.Speeds` times the sizes of
tensors; islands whose sizes are not known yet are left as they are.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from math import prod

from qcc.ir.core import Node, Value
from qcc.ir.types import TensorType
from qcc.passes.fusion_plan import FusionGroup
from qcc.quant.backend_config import Speeds

LEAST_LOSS = 2000.0
"""Nanoseconds: estimates are no finer, and nobody notices less."""

LOSS = (
    "in int8 it and what it exchanges 8-bit values with would take about {int8:.0f} us, of which "
    "{border:.0f} us are conversions, and {floats:.0f} us in float"
)


@dataclass(frozen=True)
class Estimate:
    """Nanoseconds of an island on one core."""

    floats: float
    integers: float
    border: float

    @property
    def loses(self) -> bool:
        """Whether float is faster by more than the estimate's grain."""
        return self.integers + self.border > self.floats + LEAST_LOSS

    @property
    def sentence(self) -> str:
        """Why the island stays float."""
        whole = self.integers + self.border
        return LOSS.format(int8=whole / 1e3, border=self.border / 1e3, floats=self.floats / 1e3)


def losing_islands(
    groups: Sequence[FusionGroup], speeds: Speeds
) -> list[tuple[tuple[FusionGroup, ...], str]]:
    """The islands of ``groups`` that lose, each with the sentence that says by how much."""
    found = []
    for island in islands(groups):
        estimate = estimated(island, speeds)
        if estimate is not None and estimate.loses:
            found.append((island, estimate.sentence))
    return found


def islands(groups: Sequence[FusionGroup]) -> list[tuple[FusionGroup, ...]]:
    """``groups`` by who exchanges 8-bit values with whom, in their order."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(len(groups)))
    giver = {
        value: number
        for number, group in enumerate(groups)
        if not group.float_output
        for value in group.outputs
    }
    for number, group in enumerate(groups):
        graph.add_edges_from((giver[v], number) for v in group.inputs if v in giver)
    parts = sorted(sorted(part) for part in nx.connected_components(graph))
    return [tuple(groups[number] for number in part) for part in parts]


def estimated(island: Sequence[FusionGroup], speeds: Speeds) -> Estimate | None:
    """What an island costs either way; None where a size is not known."""
    members = {node for group in island for node in group.nodes}
    values = {value for group in island for value in (*group.inputs, *group.outputs)}
    values |= {v for group in island for v in group.anchor.inputs if v is not None}
    if not all(_is_sized(value) for value in values):
        return None
    floats = integers = border = 0.0
    given: set[Value] = set()
    for group in island:
        products, moved = _products(group), sum(map(_size, group.outputs))
        floats += products / speeds.float_macs + moved / speeds.float_elements
        integers += products / speeds.int8_macs + moved / speeds.int8_elements
        if not group.float_output:
            given.update(group.outputs)
    read = {value for group in island for value in group.inputs}
    border += sum(_size(value) for value in read - given) / speeds.conversions
    border += sum(_size(value) for value in given if _leaves(value, members)) / speeds.conversions
    return Estimate(floats, integers, border)


def _leaves(value: Value, members: Container[Node]) -> bool:
    """Whether a float node or the caller reads a value, too."""
    return value.is_output or any(user not in members for user in value.users)


def _products(group: FusionGroup) -> int:
    """Multiply-accumulates of a group; 0 for one that only moves or transforms elements."""
    if group.weight is not None and group.weight_axis is not None:
        channels = _shape(group.weight)[group.weight_axis]
        return sum(map(_size, group.outputs)) * _size(group.weight) // max(1, channels)
    if group.anchor.op == "MatMul":
        return sum(map(_size, group.outputs)) * _shape(group.anchor.operand(0))[-1]
    return 0


def _is_sized(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.is_static


def _shape(value: Value) -> tuple[int, ...]:
    assert isinstance(value.type, TensorType)
    return value.type.static_shape


def _size(value: Value) -> int:
    return prod(_shape(value))
