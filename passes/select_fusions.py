"""select-fusions: which float nodes become which integer ops, and why the others do not.

Patterns of the backend are matched longest first, from the last node to the first, as FX graph mode
does; which of the groups stay is said in ``prune_groups.py``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qcc.ir.core import Graph, Node, Value
from qcc.ir.pattern import Match, Refusal
from qcc.ir.types import TensorType
from qcc.passes.fusion_plan import FusionGroup, FusionPlan, anchor_of
from qcc.passes.prune_groups import (
    FLOAT_OUTPUT,
    input_qconfig,
    prune_behind_producers,
    prune_for_readers,
)
from qcc.quant.backend_config import (
    BackendConfig,
    BackendPatternConfig,
    Placement,
)
from qcc.quant.qconfig import QConfig
from qcc.quant.qconfig_mapping import QConfigMapping

EXCLUDED = "excluded by the qconfig mapping"
NOT_FLOAT32 = "its tensors are not float32"
FUSED = "float, in the kernels of its neighbours: the runtime fuses it"
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
    if backend.placement is Placement.BEFORE_READERS:
        groups = prune_for_readers(groups, selection)
    else:
        groups = prune_behind_producers(groups, selection)
    refusals = selection.finish(groups)
    return FusionPlan(
        tuple(groups),
        refusals,
        backend.placement,
        backend.concat_shares_scale,
        backend.clamps_results,
        backend.keeps_grids,
    )


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


_UNRESOLVED = QConfig(FLOAT_OUTPUT, FLOAT_OUTPUT)


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
        """The group that ends in ``node``, if any; else sentences, most telling first.

        What a backend says of a match tells more than where the nodes around it end a pattern.
        """
        chosen: FusionGroup | None = None
        mismatches: list[str] = []
        for config in patterns:
            found = config.pattern.match(node)
            if isinstance(found, Refusal):
                mismatches.append(found.reason)
            if not isinstance(found, Match) or any(inner in taken for inner in found.nodes):
                continue
            group = self._group(config, found)
            if isinstance(group, FusionGroup):
                chosen = group
                break
            self.refuse(node, group)
        for sentence in mismatches:
            self.refuse(node, sentence)
        return chosen

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
            float_operands(config, match),
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
        if isinstance(served, str):
            return served
        return replace(group, qconfig=qconfig, bias_dtype=served.bias)

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
        if node.op in self.backend.fuses:
            return FUSED
        if node.op in roots:
            return f"no {node.op} pattern of the backend '{self.backend.name}' fits here"
        return f"the backend '{self.backend.name}' has no int8 pattern for {node.op}"


def _is_float32(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.is_float


def float_operands(config: BackendPatternConfig, match: Match) -> tuple[Value, ...]:
    """The operands that the group of a match reads as float32."""
    names = config.float_roles
    names = names(match) if callable(names) else names
    return tuple(match.values[name] for name in names)


def _activations(config: BackendPatternConfig, match: Match) -> tuple[Value, ...]:
    """The distinct operands of a match that are read quantized: no constants, no parameters."""
    floats = float_operands(config, match)
    found: dict[Value, None] = {}
    for name, value in match.values.items():
        if name in (config.weight_role, config.bias_role) or name.startswith("parameter"):
            continue
        if value in floats:
            continue
        if not value.is_constant:
            found[value] = None
    return tuple(found)
