"""Which of the groups that patterns allow are quantized; each that goes may take others with it.

*Behind producers*: groups with weights anchor; a group without weights stays only where an operand
comes out of another group (no islands of quantize and dequantize), and only where somebody reads
its result quantized, or it is a pool, which reads more than it gives.  What exchanges 8-bit values
stays float where its conversions would cost more than int8 saves (``weigh_islands.py``).

*Before readers*: a layer with weights always stays.  The others save bandwidth, and only where a
neighbour is quantized anyway: an Add of a skip connection where the layer stays whose kernel adds
it, a pool or a normalization where its operand comes from such a layer and the result is not the
caller's, what moves values where, besides, somebody reads the result quantized.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from qcc.ir.core import Graph, Value
from qcc.passes.fusion_plan import FusionGroup
from qcc.passes.weigh_islands import losing_islands
from qcc.quant.backend_config import BackendConfig, ObservationType
from qcc.quant.observers import PlaceholderObserver
from qcc.quant.qconfig import QConfig

ISLAND = "no operand comes from a quantized node, so quantizing it would only add conversions"
TAIL = "only float nodes read its result, so quantizing it would save nothing"
ALONE = "its float operand does not come from a quantized layer that it could be fused with"
GIVEN = "its result is the model's, so quantizing what it reads would only cost precision"
CONVERSION = "an operand is float, and would lose precision for a conversion more"
MIXED = "a float node reads its result, which would lose precision for a conversion more"
POOLS = frozenset({"MaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool"})

FLOAT_OUTPUT = PlaceholderObserver.with_args(dtype="float32")
"""Stands for a result that leaves a group as float32."""


class Selection(Protocol):
    """What pruning needs of a selection in progress."""

    graph: Graph
    backend: BackendConfig

    def drop(self, group: FusionGroup, sentence: str) -> None:
        """Note why the nodes of a group stay float after all."""
        ...


def input_qconfig(qconfig: QConfig, backend: BackendConfig) -> QConfig:
    """How the operands of a node are observed: fixed parameters speak of the result only."""
    if qconfig.activation.fixed is None or backend.default_qconfig is None:
        return qconfig
    return QConfig(backend.default_qconfig.activation, qconfig.weight)


def gives_float(group: FusionGroup, backend: BackendConfig) -> bool:
    """Whether the backend can give the group's result as float32."""
    qconfig = input_qconfig(group.qconfig, backend)
    return not isinstance(group.config.supports(qconfig, FLOAT_OUTPUT), str)


def moves(group: FusionGroup) -> bool:
    """Whether a group only moves or selects stored values, so that quantizing it costs nothing."""
    shared = ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT
    return group.config.observation_type is shared


def prune_for_readers(groups: Sequence[FusionGroup], selection: Selection) -> list[FusionGroup]:
    """The groups that stay, in their order; each that goes may take others with it.

    Sets ``float_output`` of those whose result nobody reads quantized.
    """
    kept = list(groups)
    while True:
        count = len(kept)
        kept = _with_neighbours(kept, selection)
        kept = _with_readers(kept, selection)
        if len(kept) == count:
            return kept


def _with_neighbours(groups: Sequence[FusionGroup], selection: Selection) -> list[FusionGroup]:
    """Keep what reads values that quantized layers give, as such or through fused float ops."""
    inner = {node: group for group in groups for node in group.nodes}
    given: set[Value] = set()
    stored = {value for group in groups if group.is_weighted for value in group.inputs}
    kept = []
    for node in selection.graph.nodes:
        group = inner.get(node)
        if group is None:
            if node.op in selection.backend.fuses and not given.isdisjoint(node.inputs):
                given.update(node.outputs)
            continue
        if node is not group.root:
            continue
        sentence = _obstacle(group, given, stored)
        if sentence is not None:
            selection.drop(group, sentence)
            continue
        given.update(group.outputs)
        kept.append(group)
    return kept


def _obstacle(group: FusionGroup, given: set[Value], stored: set[Value]) -> str | None:
    if group.is_weighted:
        return None
    if group.floats:
        return None if given.issuperset(group.floats) else ALONE
    return ISLAND if (given | stored).isdisjoint(group.inputs) else None


def _with_readers(groups: Sequence[FusionGroup], selection: Selection) -> list[FusionGroup]:
    """Keep what moves values where it is read quantized, the rest unless it is only given away."""
    read: set[Value] = set()
    kept = []
    for group in reversed(groups):
        wanted = any(value in read for value in group.outputs)
        sentence = None if wanted or group.is_weighted or group.floats else _waste(group)
        if sentence is not None:
            selection.drop(group, sentence)
            continue
        read.update(group.inputs)
        floats = not wanted and gives_float(group, selection.backend)
        kept.append(replace(group, float_output=floats))
    kept.reverse()
    return kept


def _waste(group: FusionGroup) -> str | None:
    """Why a group whose result nobody reads quantized saves nothing."""
    if moves(group):
        return TAIL
    return GIVEN if any(value.is_output for value in group.outputs) else None


# -- behind producers ------------------------------------------------------------------------------


def prune_behind_producers(groups: list[FusionGroup], selection: Selection) -> list[FusionGroup]:
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


def _prune_losing(groups: list[FusionGroup], selection: Selection) -> list[FusionGroup]:
    """Drop what would be slower than in float, conversions included (``weigh_islands.py``)."""
    if selection.backend.speeds is None:
        return groups
    dropped: set[str] = set()
    for island, sentence in losing_islands(groups, selection.backend.speeds):
        for group in island:
            selection.drop(group, sentence)
            dropped.add(group.key)
    return [group for group in groups if group.key not in dropped]


def _prune_mixed(groups: list[FusionGroup], selection: Selection) -> list[FusionGroup]:
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


def _prune_islands(groups: list[FusionGroup], selection: Selection) -> list[FusionGroup]:
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


def _prune_conversions(groups: list[FusionGroup], selection: Selection) -> list[FusionGroup]:
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


def _prune_tails(groups: list[FusionGroup], selection: Selection) -> list[FusionGroup]:
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
