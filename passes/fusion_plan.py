"""What fusion selection decides: groups of float nodes that become one integer op each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from qcc.ir.core import Graph, Node, Value
from qcc.ir.pattern import Match
from qcc.quant.backend_config import BackendPatternConfig, Placement
from qcc.quant.qconfig import QConfig


@dataclass(frozen=True, eq=False)
class FusionGroup:
    """A match of a backend's pattern that is to be quantized.

    ``nodes`` are in schedule order, the root (whose results leave the group) last; ``anchor`` is
    the one that does the work: the reader of the weight, else the last before a clamp.  ``inputs``
    are the distinct activations that it reads quantized, ``floats`` those that it reads as float32,
    ``outputs`` the used results of the root.
    ``weight`` (with its output-channel axis) and ``bias`` are float constants, where the pattern
    has them.  ``float_output`` says that the result leaves as float32, since nobody reads it
    quantized and the backend offers that.
    """

    config: BackendPatternConfig
    qconfig: QConfig
    nodes: tuple[Node, ...]
    anchor: Node
    roles: Mapping[str, Node]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    floats: tuple[Value, ...] = ()
    weight: Value | None = None
    weight_axis: int | None = None
    bias: Value | None = None
    float_output: bool = False
    bias_dtype: str | None = None
    """What a bias is stored as: int32 with the scale of the products, or float32 as it is."""
    key: str = ""
    """A name that survives every rewriting: that of the root's first result on the float graph."""

    @property
    def root(self) -> Node:
        """The last node."""
        return self.nodes[-1]

    @property
    def is_weighted(self) -> bool:
        """Whether the group has a constant weight, and so anchors quantization."""
        return self.weight is not None

    @property
    def label(self) -> str:
        """The name that reports use for the whole group."""
        return self.anchor.label


def anchor_of(match: Match, weight: Value | None) -> Node:
    """The node of a match that does the work; see :class:`FusionGroup`."""
    if weight is not None:
        return next(node for node in match.nodes if weight in node.inputs)
    clamp = match.roles.get("activation")
    return next(node for node in reversed(match.nodes) if node is not clamp)


@dataclass(frozen=True)
class FusionPlan:
    """The groups in schedule order of their roots, and for every other node why it stays float.

    ``refusals`` maps a node to sentences, the most telling first; ``placement``,
    ``concat_shares_scale``, ``clamps_results`` and ``keeps_grids`` are the backend's.
    """

    groups: tuple[FusionGroup, ...] = ()
    refusals: Mapping[Node, tuple[str, ...]] = field(default_factory=dict)
    placement: Placement = Placement.BEHIND_PRODUCERS
    concat_shares_scale: bool = False
    clamps_results: bool = True
    keeps_grids: bool = True

    def group_of(self) -> dict[Node, FusionGroup]:
        """Every grouped node's group."""
        return {node: group for group in self.groups for node in group.nodes}

    def producers(self) -> dict[Value, FusionGroup]:
        """Every group's outputs to the group."""
        return {value: group for group in self.groups for value in group.outputs}

    def readers(self) -> dict[Value, list[FusionGroup]]:
        """Every activation that groups read quantized, to those groups."""
        found: dict[Value, list[FusionGroup]] = {}
        for group in self.groups:
            for value in group.inputs:
                found.setdefault(value, []).append(group)
        return found

    def quantized_values(self) -> tuple[Value, ...]:
        """The values that exist in quantized form: what groups read, and what they give."""
        found: dict[Value, None] = {}
        behind = self.placement is Placement.BEHIND_PRODUCERS
        for group in self.groups:
            found.update(dict.fromkeys(group.inputs))
            if behind and not group.float_output:
                found.update(dict.fromkeys(group.outputs))
        return tuple(found)

    def on(self, graph: Graph, clone: Graph) -> FusionPlan:
        """The same plan on ``clone``, a fresh copy of ``graph`` (which the plan speaks of)."""
        nodes = dict(zip(graph.nodes, clone.nodes, strict=True))
        values = dict(zip(graph.values(), clone.values(), strict=True))
        inner = zip(graph.walk(), clone.walk(), strict=True)
        return FusionPlan(
            tuple(_moved(group, nodes, values) for group in self.groups),
            {new: self.refusals[old] for old, new in inner if old in self.refusals},
            self.placement,
            self.concat_shares_scale,
            self.clamps_results,
            self.keeps_grids,
        )


def _moved(
    group: FusionGroup, nodes: Mapping[Node, Node], values: Mapping[Value, Value]
) -> FusionGroup:
    return replace(
        group,
        nodes=tuple(nodes[node] for node in group.nodes),
        anchor=nodes[group.anchor],
        roles={role: nodes[node] for role, node in group.roles.items()},
        inputs=_values(group.inputs, values),
        outputs=_values(group.outputs, values),
        floats=_values(group.floats, values),
        weight=None if group.weight is None else values[group.weight],
        bias=None if group.bias is None else values[group.bias],
    )


def _values(wanted: Iterable[Value], values: Mapping[Value, Value]) -> tuple[Value, ...]:
    return tuple(values[value] for value in wanted)
