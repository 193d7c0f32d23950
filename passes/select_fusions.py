"""select-fusions: which float nodes become which integer ops, and why the others do not.

Patterns of the backend are matched longest first, from the last node to the first, as FX graph mode
does.  Groups with weights anchor; a group without weights stays only where an operand comes out of
another group (no islands of quantize and dequantize), and only where somebody reads its result
quantized, or it is a pool, which reads more than it gives.  What exchanges 8-bit values stays float
where its conversions would cost more than int8 saves (``weigh_islands.py``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qcc.ir.core import Graph, Node, Value
from qcc.ir.pattern import Match, Refusal
from qcc.ir.types import TensorType
from qcc.passes.fusion_plan import FusionGroup, FusionPlan, anchor_of
from qcc.passes.weigh_islands import losing_islands
from qcc.quant.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    ObservationType,
)
from qcc.quant.observers import PlaceholderObserver
from qcc.quant.qconfig import QConfig
from qcc.quant.qconfig_mapping import QConfigMapping

EXCLUDED = "excluded by the qconfig mapping"
ISLAND = "no operand comes from a quantized node, so quantizing it would only add conversions"
CONVERSION = "an operand is float, and would lose precision for a conversion more"
TAIL = "only float nodes read its result, so quantizing it would save nothing"
MIXED = "a float node reads its result, which would lose precision for a conversion more"
NOT_FLOAT32 = "its tensors are not float32"
POOLS = frozenset({"MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool"})
INNER = "it is inside the control-flow body of '{}'"


def select_fusions(
    graph: Graph,
    backend: BackendConfig,
    mapping: QConfigMapping,
    excluded: Mapping[str, str] | None = None,
) -> FusionPlan:
    """Choose the fusion groups of a FLOAT graph; the graph is not changed.

    ``excluded`` maps the first result of a node to the sentence why no group may hold the node.
    """
    selection = _Selection(graph, backend, _Resolver(graph, mapping), dict(excluded or {}))
    groups = selection.run()
    groups = _pruned(groups, selection)
    return FusionPlan(tuple(groups), selection.finish(groups))


def order_patterns(patterns: Iterable[BackendPatternConfig]) -> tuple[BackendPatternConfig, ...]:
    """Patterns with more nodes first; equal ones stay in the given order."""
    return tuple(sorted(patterns, key=lambda config: -len(config.pattern.roles)))


class _Resolver:
    """Looks up the QConfig of a node: torch.ao's precedence needs its scope and order."""

    def __init__(self, graph: Graph, mapping: QConfigMapping) -> None:
        self.mapping = mapping
        self._place: dict[Node, tuple[str, int]] = {}
        counts: dict[tuple[str, str], int] = defaultdict(int)
        for node in graph.nodes:
            scope = scope_of(node.name)
            self._place[node] = (scope, counts[scope, node.op_type])
            counts[scope, node.op_type] += 1

    def __call__(self, node: Node) -> QConfig | None:
        scope, index = self._place[node]
        return self.mapping.resolve(node.label, node.op_type, index, scope)


def scope_of(name: str) -> str:
    """The scope of an ONNX node name: ``"/layer1/0/conv/Conv"`` lies in ``"/layer1/0/conv"``."""
    return name.rpartition("/")[0]


FLOAT_OUTPUT = PlaceholderObserver.with_args(dtype="float32")
"""Stands for a result that leaves a group as float32."""

_UNRESOLVED = QConfig(FLOAT_OUTPUT, FLOAT_OUTPUT)


def input_qconfig(qconfig: QConfig, backend: BackendConfig) -> QConfig:
    """How the operands of a node are observed: fixed parameters speak of the result only."""
    if qconfig.activation.fixed is None or backend.default_qconfig is None:
        return qconfig
    return QConfig(backend.default_qconfig.activation, qconfig.weight)


def gives_float(group: FusionGroup, backend: BackendConfig) -> bool:
    """Whether the backend can give the group's result as float32."""
    qconfig = input_qconfig(group.qconfig, backend)
    return not isinstance(group.config.supports(qconfig, FLOAT_OUTPUT), str)


@dataclass
class _Selection:
    graph: Graph
    backend: BackendConfig
    resolve: _Resolver
    excluded: dict[str, str]
    refusals: dict[Node, list[str]] = field(default_factory=lambda: defaultdict(list))
    position: dict[Node, int] = field(default_factory=dict)

    def run(self) -> list[FusionGroup]:
        """All groups that patterns, qconfigs and dtypes allow, in schedule order of their roots."""
        self.position = {node: index for index, node in enumerate(self.graph.nodes)}
        patterns = order_patterns(self.backend.patterns)
        by_op: dict[str, list[BackendPatternConfig]] = defaultdict(list)
        for config in patterns:
            for op in config.pattern.root_ops:
                by_op[op].append(config)
        taken: set[Node] = set()
        groups: list[FusionGroup] = []
        for node in reversed(self.graph.nodes):
            group = None if node in taken else self._at(node, by_op.get(node.op, ()), taken)
            if group is not None:
                taken.update(group.nodes)
                groups.append(group)
        groups.reverse()
        return groups

    def _at(
        self, node: Node, patterns: Sequence[BackendPatternConfig], taken: set[Node]
    ) -> FusionGroup | None:
        for config in patterns:
            found = config.pattern.match(node)
            if isinstance(found, Refusal):
                self.refuse(node, found.reason)
            if not isinstance(found, Match) or any(inner in taken for inner in found.nodes):
                continue
            group = self._group(config, found)
            if isinstance(group, FusionGroup):
                return group
            self.refuse(node, group)
        return None

    def refuse(self, node: Node, sentence: str) -> None:
        """Note why a node is not quantized, once."""
        if sentence not in self.refusals[node]:
            self.refusals[node].append(sentence)

    def drop(self, group: FusionGroup, sentence: str) -> None:
        """Note first why the nodes of a group that would fit stay float after all."""
        for node in group.nodes:
            self.refusals[node] = [sentence, *(s for s in self.refusals[node] if s != sentence)]

    def _group(self, config: BackendPatternConfig, match: Match) -> FusionGroup | str:
        """The group of a match, or the sentence why it is none."""
        for node in match.nodes:
            if node.output.name in self.excluded:
                return self.excluded[node.output.name]
        inputs = _activations(config, match)
        outputs = tuple(v for v in match.root.outputs if v.uses)
        if not inputs or not outputs or not all(map(_is_float32, (*inputs, *outputs))):
            return NOT_FLOAT32
        axis, weight = config.weight_axis, match.value(config.weight_role or "")
        group = FusionGroup(
            config,
            _UNRESOLVED,
            tuple(sorted(match.nodes, key=self.position.__getitem__)),
            anchor_of(match, weight),
            match.roles,
            inputs,
            outputs,
            weight,
            axis(match) if callable(axis) else axis,
            match.value(config.bias_role or ""),
            key=match.root.output.name,
        )
        qconfig = self.resolve(group.anchor)
        if qconfig is None:
            return EXCLUDED
        sentence = config.check(match) if config.check is not None else None
        if sentence is not None:
            return sentence
        served = config.supports(input_qconfig(qconfig, self.backend), qconfig.activation)
        if isinstance(served, str):
            served = config.supports(input_qconfig(qconfig, self.backend), FLOAT_OUTPUT)
        return served if isinstance(served, str) else replace(group, qconfig=qconfig)

    def finish(self, groups: Sequence[FusionGroup]) -> dict[Node, tuple[str, ...]]:
        """For every node in no group, the sentences; a plain one where none was given."""
        inside = {node for group in groups for node in group.nodes}
        found: dict[Node, tuple[str, ...]] = {}
        roots = {op for config in self.backend.patterns for op in config.pattern.root_ops}
        for node in self.graph.nodes:
            for body in node.subgraphs:
                inner = INNER.format(node.label)
                found.update(dict.fromkeys(body.walk(), (inner,)))
            if node not in inside:
                found[node] = tuple(self.refusals.get(node, ())) or (self._plain(node, roots),)
        return found

    def _plain(self, node: Node, roots: set[str]) -> str:
        if node.output.name in self.excluded:
            return self.excluded[node.output.name]
        if not any(_is_float32(value) for value in node.outputs):
            return NOT_FLOAT32
        if node.op in roots:
            return f"no {node.op} pattern of the backend '{self.backend.name}' fits here"
        return f"the backend '{self.backend.name}' has no int8 pattern for {node.op}"


def _is_float32(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.is_float


def _activations(config: BackendPatternConfig, match: Match) -> tuple[Value, ...]:
    """The distinct float32 operands of a match that are neither constants nor parameters."""
    found: dict[Value, None] = {}
    for name, value in match.values.items():
        if name in (config.weight_role, config.bias_role) or name.startswith("parameter"):
            continue
        if not value.is_constant:
            found[value] = None
    return tuple(found)


# -- pruning ---------------------------------------------------------------------------------------


def _pruned(groups: list[FusionGroup], selection: _Selection) -> list[FusionGroup]:
    """What is left when no rule drops a group any more: each drop may strand others."""
    while True:
        count = len(groups)
        groups = _prune_islands(groups, selection)
        groups = _prune_conversions(groups, selection)
        groups = _prune_tails(groups, selection)
        groups = _prune_mixed(groups, selection)
        if len(groups) == count:
            groups = _prune_losing(groups, selection)
        if len(groups) == count:
            return groups


def _prune_losing(groups: list[FusionGroup], selection: _Selection) -> list[FusionGroup]:
    """Drop what would be slower than in float, conversions included (``weigh_islands.py``)."""
    if selection.backend.speeds is None:
        return groups
    dropped: set[str] = set()
    for island, sentence in losing_islands(groups, selection.backend.speeds):
        for group in island:
            selection.drop(group, sentence)
            dropped.add(group.key)
    return [group for group in groups if group.key not in dropped]


def _prune_mixed(groups: list[FusionGroup], selection: _Selection) -> list[FusionGroup]:
    """Drop arithmetic without weights whose result a float node reads too.

    So the residual stream of a transformer, which normalizations read in float, keeps its
    precision, while that of a convolutional network, where all readers are integer, stays 8-bit.
    """
    members = {node for group in groups for node in group.nodes}
    kept = []
    for group in groups:
        readers = {user for value in group.outputs for user in value.users}
        if group.is_weighted or moves(group) or shrinks(group) or readers <= members:
            kept.append(group)
        else:
            selection.drop(group, MIXED)
    return kept


def moves(group: FusionGroup) -> bool:
    """Whether a group only moves or selects stored values, so that quantizing it costs nothing."""
    shared = ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
    return group.config.observation_type is shared


def _prune_islands(groups: list[FusionGroup], selection: _Selection) -> list[FusionGroup]:
    """Keep groups with weights, and those that read what a kept group gives."""
    given: set[Value] = set()
    kept = []
    for group in groups:
        if group.is_weighted or any(value in given for value in group.inputs):
            given.update(group.outputs)
            kept.append(group)
        else:
            selection.drop(group, ISLAND)
    return kept


def _prune_conversions(groups: list[FusionGroup], selection: _Selection) -> list[FusionGroup]:
    """Drop arithmetic without weights for which alone a float operand would be quantized.

    So an attention mask, a rotary embedding and what they are added to or multiplied with stay
    float, while every operand of a residual network's Add is 8-bit anyhow.
    """
    stored: set[Value] = set()
    for group in groups:
        stored.update(group.outputs)
        if group.is_weighted:
            stored.update(group.inputs)
    kept = []
    for group in groups:
        if group.is_weighted or moves(group) or stored.issuperset(group.inputs):
            kept.append(group)
        else:
            selection.drop(group, CONVERSION)
    return kept


def _prune_tails(groups: list[FusionGroup], selection: _Selection) -> list[FusionGroup]:
    """Drop groups without weights that nobody reads quantized, unless they shrink.

    So a Softmax at the end reads float logits, which its producer gives at no cost.  Sets
    ``float_output`` of groups with weights that nobody reads quantized.
    """
    read: set[Value] = set()
    kept: list[FusionGroup] = []
    for group in reversed(groups):
        wanted = any(value in read for value in group.outputs)
        floats = not wanted and group.is_weighted and gives_float(group, selection.backend)
        if wanted or group.is_weighted or shrinks(group):
            read.update(group.inputs)
            kept.append(replace(group, float_output=floats))
        else:
            selection.drop(group, TAIL)
    kept.reverse()
    return kept


def shrinks(group: FusionGroup) -> bool:
    """Whether a group without weights pays even when its result is dequantized: it reads more."""
    return group.root.op in POOLS
