"""insert-observers: one q.observe for each value that will exist quantized (FLOAT to OBSERVED).

How a value's parameters are found is a :class:`Slot`, by torch.ao's observation types:

* ``observed``: an observer sees the value during calibration;
* ``fixed``: the op's result has a known range (Sigmoid, Tanh, Softmax);
* ``shared``: the op moves values, so its result has its operand's parameters;
* ``merged``: a Concat covers the ranges of all its operands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.rewrite import Rewriter
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.quant.backend_config import ObservationType, Placement
from qcc.quant.observers import MinMaxObserver, ObserverSpec

DEFAULT_INPUT = MinMaxObserver.with_args()
"""Observes an operand whose only readers state fixed parameters (of their results)."""


@dataclass(frozen=True)
class Slot:
    """How the quantization of the value called ``name`` is found.

    ``kind`` is ``observed``, ``fixed``, ``shared`` or ``merged``; ``spec`` makes the observer;
    ``sources`` names the operands that a shared or merged slot follows; ``fixed`` is (scale, zero
    point).
    """

    name: str
    kind: str
    spec: ObserverSpec
    sources: tuple[str, ...] = ()
    fixed: tuple[float, int] | None = None


@dataclass(frozen=True)
class Observation:
    """The slots by value name, in schedule order; q.observe nodes hold an index into them."""

    slots: Mapping[str, Slot] = field(default_factory=dict)

    @property
    def observed(self) -> dict[str, ObserverSpec]:
        """The values that calibration must measure, with the specs of their observers."""
        return {s.name: s.spec for s in self.slots.values() if s.kind == "observed"}

    def head(self, name: str) -> str:
        """The value whose parameters ``name`` shares in the end (itself unless shared)."""
        while name in self.slots and self.slots[name].kind == "shared":
            name = self.slots[name].sources[0]
        return name

    def merged_with(self, other: Observation) -> Observation:
        """These slots, and for the values that have none here those of ``other``."""
        return Observation({**other.slots, **self.slots})


def plan_observation(plan: FusionPlan) -> Observation:
    """The slot of every value that the plan quantizes; the graph is not changed."""
    producers, readers = plan.producers(), plan.readers()
    slots: dict[str, Slot] = {}
    for value in plan.quantized_values():
        producer = producers.get(value)
        if producer is None or producer.float_output:
            slots[value.name] = Slot(value.name, "observed", _input_spec(readers[value]))
        else:
            slots[value.name] = _slot(value, producer)
    return Observation(slots)


def _input_spec(readers: Sequence[FusionGroup]) -> ObserverSpec:
    """How to observe what no group computes: as its first reader is, unless that is fixed."""
    specs = [group.qconfig.activation for group in readers]
    measured = [spec for spec in specs if spec.fixed is None]
    return (measured or [DEFAULT_INPUT])[0]


def _slot(value: Value, producer: FusionGroup) -> Slot:
    config, spec = producer.config, producer.qconfig.activation
    fixed = config.fixed_output or spec.fixed
    if fixed is not None:
        return Slot(value.name, "fixed", spec, fixed=fixed)
    kind = config.observation_type_for(len(producer.inputs))
    if kind is not ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT:
        return Slot(value.name, "observed", spec)
    sources = tuple(operand.name for operand in producer.inputs)
    return Slot(value.name, "shared" if len(sources) == 1 else "merged", spec, sources)


def insert_observers(graph: Graph, plan: FusionPlan, observation: Observation) -> None:
    """Put a q.observe behind every value of ``plan``, read by those who will read it quantized.

    Where the backend quantizes behind producers, a value that a group computes quantized exists in
    no other form, so all its uses read the q.observe; of other values only operands of groups do.
    Changes ``graph`` (which ``plan`` speaks of) in place; its stage becomes OBSERVED.
    """
    rewriter = Rewriter(graph)
    indices = {name: index for index, name in enumerate(observation.slots)}
    producers, members = plan.producers(), plan.group_of()
    after = _next_nodes(graph)
    behind = plan.placement is Placement.BEHIND_PRODUCERS
    for value in plan.quantized_values():
        name = value.name
        first = graph.nodes[0] if value.producer is None else after[value.producer]
        attributes = {"observer": indices[name]}
        share = observation.head(name)
        if share != name:
            attributes["share"] = indices[share]
        made = rewriter.insert(
            "q.observe",
            [value],
            [value.type],
            attributes=attributes,
            output_names=[graph.fresh_name(f"{name}_observed")],
            before=first,
        )
        producer = producers.get(value)
        if behind and producer is not None and not producer.float_output:
            rewriter.replace_uses(value, made.output, except_node=made)
            continue
        for use in value.uses:
            if isinstance(use.user, Node) and _reads(members.get(use.user), value):
                rewriter.replace_input(use.user, use.index, made.output)
    graph.stage = Stage.OBSERVED


def _reads(group: FusionGroup | None, value: Value) -> bool:
    return group is not None and value in group.inputs


def _next_nodes(graph: Graph) -> dict[Node, Node | None]:
    nodes: Sequence[Node] = graph.nodes
    return dict(zip(nodes, [*nodes[1:], None], strict=True))


def observers_of(graph: Graph) -> tuple[Node, ...]:
    """The q.observe nodes of an OBSERVED graph."""
    return tuple(node for node in graph.nodes if node.op == "q.observe")
