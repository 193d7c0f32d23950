"""From what calibration measured to the quantization parameters of every value.

The order is: fixed, observed, shared, merged.  A Concat covers the union of its operands' ranges.
An operand that only the Concat reads takes the Concat's parameters, so that its bytes need no
second rounding; an operand that others read too does so only where its own range is at most
:data:`CONCAT_SHARE_RATIO` times smaller.  For runtimes that join stored values only where all have
one scale, a Concat, its operands and whatever shares theirs form one class of equal parameters:
those that the Concat's result needs.  Where kernels do not clamp, an operand keeps parameters that
imply its Relu or Clip.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qcc.passes.assign_numbers import is_implied
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.insert_observers import Observation, Slot
from qcc.quant.observers.base import UniformArguments
from qcc.quant.qparams import QuantParams, affine_qparams

CONCAT_SHARE_RATIO = 2.0
"""How much coarser a Concat may make an operand that others read too (8 would cost them 3 bits)."""

Measured = Callable[[str], QuantParams]
"""The parameters that the observer of a value (by name) gives."""


def resolve_scales(
    plan: FusionPlan,
    observation: Observation,
    measured: Measured,
) -> dict[str, QuantParams]:
    """The parameters of every value that ``plan`` quantizes, by name.

    Raises DataError when an observer has seen nothing.
    """
    return _Resolution(plan, observation, measured).run()


@dataclass
class _Resolution:
    plan: FusionPlan
    observation: Observation
    measured: Measured
    found: dict[str, QuantParams] = field(default_factory=dict)
    """Parameters by head, before Concats hand theirs back to their operands."""

    def run(self) -> dict[str, QuantParams]:
        names = [value.name for value in self.plan.quantized_values()]
        for name in names:
            self._head(name)
        if self.plan.concat_shares_scale:
            equal = self._equal_in_classes()
            return {name: equal[self.observation.head(name)] for name in names}
        final = dict(self.found)
        adopted: set[str] = set()
        readers = self._readers()
        for head in reversed(self._merged_heads()):
            for source in self.observation.slots[head].sources:
                operand = self.observation.head(source)
                if operand in adopted or not self._adopts(operand, head, final, readers):
                    continue
                adopted.add(operand)
                final[operand] = final[head]
        return {name: final[self.observation.head(name)] for name in names}

    def _equal_in_classes(self) -> dict[str, QuantParams]:
        """Parameters by head: those that Concats join cover the union of their ranges.

        The best range of the joined values as a whole is narrower, and clips the operand that has
        the widest one: it is a part of them only.
        """
        import networkx as nx

        slots = self.observation.slots
        joined = nx.Graph()
        joined.add_nodes_from(self.found)
        for head in self._merged_heads():
            sources = slots[head].sources
            joined.add_edges_from((head, self.observation.head(source)) for source in sources)
        equal = {}
        for members in nx.connected_components(joined):
            # A merged slot's spec is that of a measured value, a fixed one's may be another type.
            ordered = sorted(members, key=lambda name: (slots[name].kind != "merged", name))
            parts = [self.found[name] for name in ordered]
            alone = len(ordered) == 1
            equal.update(
                dict.fromkeys(members, parts[0] if alone else union_of(parts, slots[ordered[0]]))
            )
        return equal

    def _head(self, name: str) -> QuantParams:
        head = self.observation.head(name)
        if head not in self.found:
            self.found[head] = self._parameters(self.observation.slots[head])
        return self.found[head]

    def _parameters(self, slot: Slot) -> QuantParams:
        if slot.fixed is not None:
            return QuantParams.make(*slot.fixed, slot.spec.dtype)
        if slot.kind == "merged":
            return union_of([self._head(source) for source in slot.sources], slot)
        return self.measured(slot.name)

    def _merged_heads(self) -> list[str]:
        return [name for name in self.found if self.observation.slots[name].kind == "merged"]

    def _readers(self) -> dict[str, set[str]]:
        """By head: the results (or ``""`` for float readers) of those who read it, movers aside."""
        groups = self.plan.group_of()
        readers: dict[str, set[str]] = {}
        for value in self.plan.quantized_values():
            found = readers.setdefault(self.observation.head(value.name), set())
            if value.is_output:
                found.add("")
            for user in value.users:
                group = groups.get(user)
                if group is None:
                    found.add("")
                    continue
                name = self.observation.head(group.outputs[0].name)
                if name != self.observation.head(value.name):
                    found.add(name)
        return readers

    def _adopts(
        self,
        operand: str,
        head: str,
        final: Mapping[str, QuantParams],
        readers: Mapping[str, set[str]],
    ) -> bool:
        slot = self.observation.slots[operand]
        mine, merged = final[operand], final[head]
        if slot.kind == "fixed" or mine.storage != merged.storage:
            return False
        if not self.plan.clamps_results and self._clamp_would_stay(operand, mine, merged):
            return False
        if readers.get(operand, set()) <= {head}:
            return True
        return merged.scale[0] <= CONCAT_SHARE_RATIO * mine.scale[0]

    def _clamp_would_stay(self, operand: str, mine: QuantParams, merged: QuantParams) -> bool:
        """Whether ``mine`` implies the Relu or Clip that makes ``operand``, and ``merged`` not."""
        for group in self.plan.groups:
            if group.outputs[0].name == operand and len(group.nodes) > 1:
                implied = is_implied(group.root, mine.to_quant())
                return implied and not is_implied(group.root, merged.to_quant())
        return False


def union_of(parts: list[QuantParams], slot: Slot) -> QuantParams:
    """Parameters that cover the ranges of all ``parts``: those of one part where it covers all.

    Symmetric parts differ by their scale alone, so the greatest is that of the union.
    """
    widest = max(parts, key=lambda part: part.scale)
    alike = {replace(part, scale=widest.scale) for part in parts} == {widest}
    if alike and widest.storage == slot.spec.dtype:
        return widest
    low = min(float(part.real_range[0][0]) for part in parts)
    high = max(float(part.real_range[1][0]) for part in parts)
    arguments = slot.spec.arguments
    if isinstance(arguments, UniformArguments):
        return arguments.qparams(np.float32(low), np.float32(high))
    return affine_qparams(low, high, slot.spec.dtype)
