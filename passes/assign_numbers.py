"""assign-numbers: every q.observe becomes q.quantize and q.dequantize (OBSERVED to NUMBERED).

Each value has one q.quantize; each group that reads it, all its float readers together, and each
graph output have a q.dequantize of their own.  Weights and biases become integer constants behind a
q.dequantize.  A Relu or Clip that the saturation of the following q.quantize implies is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcc.ir.core import Graph, Node, Stage, Use, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.passes.insert_observers import Observation, observers_of
from qcc.passes.lower.group import clamp_of
from qcc.passes.operand_rows import linear_form
from qcc.passes.quantize_weights import (
    FloatArray,
    QuantizedWeight,
    quantize_bias,
    quantize_weight,
)
from qcc.quant.qparams import QuantParams


@dataclass
class Numbering:
    """What numbering did, for reports and for bias correction.

    ``quants`` maps each group's key to its output's parameters (None for a float result), and
    ``dropped`` to the names of the redundant activations that were removed.
    """

    weights: dict[str, QuantizedWeight] = field(default_factory=dict)
    quants: dict[str, Quant | None] = field(default_factory=dict)
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sources: dict[Value, Value] = field(default_factory=dict)
    """Each stored value to the float value that it stands for."""


def assign_numbers(
    graph: Graph,
    plan: FusionPlan,
    observation: Observation,
    scales: Mapping[str, QuantParams],
    pair_limit: int | None = None,
) -> Numbering:
    """Number an OBSERVED ``graph`` in place; ``plan`` speaks of its nodes.

    ``scales`` gives the parameters of every slot of ``observation`` by value name; ``pair_limit``
    is the backend's ``weight_pair_limit``.
    """
    return _Numbering(graph, plan, observation, scales, pair_limit).run()


class _Numbering:
    def __init__(
        self,
        graph: Graph,
        plan: FusionPlan,
        observation: Observation,
        scales: Mapping[str, QuantParams],
        pair_limit: int | None,
    ) -> None:
        self.graph, self.plan, self.scales = graph, plan, scales
        self.pair_limit = pair_limit
        self.names = tuple(observation.slots)
        self.rewriter = Rewriter(graph)
        self.members = plan.group_of()
        self.done = Numbering()

    def run(self) -> Numbering:
        for node in observers_of(self.graph):
            self._number(node)
        for group in self.plan.groups:
            self._weights(group)
        for group in self.plan.groups:
            quant = None if group.float_output else _stored_as(group.root.output)
            self.done.quants[group.key] = quant
            if len(group.root.output.uses) == 1:
                self._drop_activation(group, quant)
        self.graph.stage = Stage.NUMBERED
        return self.done

    def _number(self, node: Node) -> None:
        """One q.observe into one q.quantize and a q.dequantize for each reader."""
        source, seen = node.operand(0), node.output
        stem = self.names[int(node.attributes["observer"])]
        quant = self.scales[stem].to_quant()
        made = self.rewriter.insert(
            "q.quantize",
            [source],
            [source.tensor.with_element(quant)],
            output_names=[self.graph.fresh_name(f"{stem}_quantized")],
            before=node,
        )
        self.done.sources[made.output] = source
        for uses in self._by_reader(seen):
            self._dequantize(made.output, seen, uses, node)
        self.rewriter.erase(node)

    def _by_reader(self, value: Value) -> list[list[Use]]:
        """The uses of ``value``: those of each group, of all float nodes, of each graph output."""
        found: dict[object, list[Use]] = {}
        for use in value.uses:
            reader: object = use
            if isinstance(use.user, Node):
                group = self.members.get(use.user)
                reader = "float" if group is None else id(group)
            found.setdefault(reader, []).append(use)
        return list(found.values())

    def _dequantize(self, stored: Value, seen: Value, uses: list[Use], before: Node) -> None:
        was_output = seen.is_output
        made = self.rewriter.insert(
            "q.dequantize",
            [stored],
            [seen.type],
            output_names=[self.graph.fresh_name(f"{stored.name}_real")],
            before=before,
        )
        for use in uses:
            self.graph.replace_use(use, made.output)
        if was_output and not seen.is_output:
            seen.name, made.output.name = made.output.name, seen.name

    def _weights(self, group: FusionGroup) -> None:
        if group.weight is None or group.weight.constant is None:
            return
        anchor = group.anchor
        index = anchor.inputs.index(group.weight)
        x = _behind(anchor.operand(0))
        weight = np.asarray(group.weight.constant, np.float32)
        axis = group.weight_axis or 0
        bias = None if group.bias_dtype == "float32" else bias_of(group)
        channels = None if bias is None else _flat_bias(bias, weight.shape[axis])
        done = quantize_weight(
            group.label,
            weight,
            axis,
            group.qconfig.weight,
            x.scale[0],
            channels,
            linear_form(anchor, weight) if index == 1 else None,
            self.pair_limit,
            self.plan.keeps_grids,
        )
        self.done.weights[group.key] = done
        self.done.notes.extend(done.notes)
        stored = self.rewriter.constant(
            f"{group.weight.name}_quantized",
            done.stored,
            TensorType(tuple(done.stored.shape), done.quant),
        )
        self._attach(anchor, index, stored, group.weight)
        if group.bias is not None and channels is not None:
            self._bias(group, group.bias, channels, x, done.quant)
        elif group.bias is not None:
            self._own_bias(group, group.bias)
        self.rewriter.erase_dead(group.weight)

    def _bias(
        self,
        group: FusionGroup,
        source: Value,
        bias: FloatArray,
        x: Quant,
        weight: Quant,
    ) -> None:
        data, quant = quantize_bias(bias, x.scale[0], weight)
        stored = self.rewriter.constant(
            f"{source.name}_quantized", data, TensorType((len(data),), quant)
        )
        reader = next(node for node in group.nodes if source in node.inputs)
        self._attach(reader, reader.inputs.index(source), stored, source)
        self.rewriter.erase_dead(source)

    def _own_bias(self, group: FusionGroup, source: Value) -> None:
        """A float32 bias that no other group reads, so that it may be corrected."""
        data = np.array(source.constant, np.float32).reshape(-1)
        if data.size == 1 and group.weight is not None:
            data = _flat_bias(data, group.weight.tensor.static_shape[group.weight_axis or 0])
        made = self.rewriter.constant(f"{group.anchor.label}_bias", data)
        reader = next(node for node in group.nodes if source in node.inputs)
        self.rewriter.replace_input(reader, reader.inputs.index(source), made)
        self.rewriter.erase_dead(source)

    def _attach(self, node: Node, index: int, stored: Value, source: Value) -> None:
        real = self.rewriter.insert(
            "q.dequantize",
            [stored],
            [TensorType(stored.tensor.shape, "float32")],
            output_names=[self.graph.fresh_name(f"{source.name}_real")],
            before=node,
        )
        self.rewriter.replace_input(node, index, real.output)

    def _drop_activation(self, group: FusionGroup, quant: Quant | None) -> None:
        root = group.root
        if quant is None or len(group.nodes) < 2 or not is_implied(root, quant):
            return
        self.done.dropped[group.key] = (root.label,)
        last = root.operand(0).producer
        if last is not None:  # the group keeps its place among the others
            self.rewriter.move(last, root)
        self.rewriter.replace_uses(root.output, root.operand(0))
        self.rewriter.erase(root)


def is_implied(node: Node, quant: Quant) -> bool:
    """Whether quantizing by ``quant`` already clamps as the Relu or Clip ``node`` does."""
    if node.op not in ("Relu", "Clip"):
        return False
    clamp = clamp_of([node], quant)
    if isinstance(clamp, str):
        return False
    low, high = clamp
    bottom, top = quant.range
    return (low is None or low <= bottom) and (high is None or high >= top)


def bias_of(group: FusionGroup) -> FloatArray | None:
    """The float bias of a group's weighted node, as it stands in the graph."""
    if group.bias is None or group.bias.constant is None:
        return None
    return np.asarray(group.bias.constant, np.float32)


def _flat_bias(bias: FloatArray, channels: int) -> FloatArray:
    """One number an output channel (a scalar bias is repeated)."""
    flat = np.broadcast_to(bias.reshape(-1), (channels,))
    return np.ascontiguousarray(flat)


def _behind(value: Value) -> Quant:
    """The quantization of the stored value that a q.dequantize reads."""
    producer = value.producer
    quant = None if producer is None else producer.operand(0).tensor.quant
    if quant is None:
        raise ValueError(f"'{value.name}' is not dequantized")
    return quant


def _stored_as(value: Value) -> Quant | None:
    """How a value is stored: by its one q.quantize, if it has one."""
    found = [user for user in value.users if user.op == "q.quantize"]
    return found[0].output.tensor.quant if found else None
