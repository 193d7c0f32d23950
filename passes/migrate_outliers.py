"""migrate-outliers: move the spread of an activation's channels into the weights behind it.

A few channels of a normalization's or a gated product's result are often ten times the others, and
one scale for all then leaves these few steps.  Where weighted MatMuls or Gemms read a float value
``v``, they read ``v / s`` instead and their weights take ``s`` by input channel, with

    s[c] = max|v[c]|**ALPHA / max|w[c]|**(1 - ALPHA)

Source: SmoothQuant (Xiao et al. 2022, arXiv:2211.10438).  The division is one float Mul in front of
the quantization.  It is inserted only where the noise that quantizing ``v`` adds to the products
falls to :data:`WORTHWHILE` of what it was, by the measured extremes of the channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Graph, Use, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.equalize_channels import Extremes, only_anchor_reads
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.passes.insert_observers import Observation, Slot
from qcc.passes.operand_rows import LinearForm, linear_form
from qcc.quant.observers import PerChannelMinMaxObserver
from qcc.quant.observers.base import UniformArguments
from qcc.quant.qparams import QuantParams

ALPHA = 0.8
"""How much of the spread goes into the weights, which have a scale a channel of the output."""

WORTHWHILE = 0.7
"""The share of its noise power that a migration must leave at most: 1.5 dB less."""

GREATEST = 2.0**12
"""The greatest ratio of two channels' factors is its square."""

LAST_EXTREMES = PerChannelMinMaxObserver.with_args(ch_axis=-1)
"""What calibration keeps of the values that may be migrated."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Migrated:
    """A plan whose groups read divided values, with the slots and parameters of those."""

    plan: FusionPlan
    observation: Observation
    scales: dict[str, QuantParams]
    count: int


def migratable(
    plan: FusionPlan, observation: Observation, *, quantized: bool = False
) -> dict[str, list[FusionGroup]]:
    """The float values (by name) that weighted matrix products read, with these groups.

    With ``quantized`` those too that other groups give, which may still turn out too noisy.
    """
    produced = {} if quantized else plan.producers()
    found: dict[str, list[FusionGroup]] = {}
    for value, readers in plan.readers().items():
        slot = observation.slots.get(value.name)
        if value in produced or slot is None or slot.kind != "observed":
            continue
        weighted = [group for group in readers if _form(group, value) is not None]
        # A value that is quantized for others anyway would need a second quantization.
        if weighted and len(weighted) == len(readers):
            found[value.name] = weighted
    return found


def migrate_outliers(
    graph: Graph,
    plan: FusionPlan,
    observation: Observation,
    scales: Mapping[str, QuantParams],
    extremes: Extremes,
) -> Migrated:
    """Migrate in ``graph``, which ``plan`` speaks of, in place; the plan that fits it now.

    ``scales`` gives the parameters of every value; each new value's are added to a copy.
    """
    rewriter = Rewriter(graph)
    slots, known = dict(observation.slots), dict(scales)
    moved: dict[FusionGroup, FusionGroup] = {}
    sites = migratable(plan, observation)
    values = {value.name: value for group in plan.groups for value in group.inputs}
    for name, groups in sites.items():
        slot = observation.slots[name]
        arguments = slot.spec.arguments
        if name not in extremes or not isinstance(arguments, UniformArguments):
            continue
        low, high = (np.asarray(bound, np.float64) for bound in extremes[name])
        factors = _factors(low, high, groups, values[name])
        params = arguments.qparams(np.min(low / factors), np.max(high / factors))
        if _noise(params, groups, values[name], factors) > WORTHWHILE * _noise(
            known[name], groups, values[name], np.ones_like(factors)
        ):
            continue
        divided = _divide(rewriter, values[name], factors, groups)
        slots[divided.name] = Slot(divided.name, "observed", slot.spec)
        known[divided.name] = params
        for group in groups:
            _scale_rows(group, factors)
            moved[group] = replace(group, inputs=(divided,))
    renewed = tuple(moved.get(group, group) for group in plan.groups)
    count = len(slots) - len(observation.slots)
    return Migrated(replace(plan, groups=renewed), replace(observation, slots=slots), known, count)


def _form(group: FusionGroup, value: Value) -> LinearForm | None:
    """How a group multiplies ``value``, where it is the only activation of a matrix product."""
    anchor, weight = group.anchor, group.weight
    if weight is None or weight.constant is None or len(weight.uses) != 1:
        return None
    plain = anchor.op in ("MatMul", "Gemm") and anchor.input(0) is value
    if not plain or anchor.input(1) is not weight or group.inputs != (value,):
        return None
    if not only_anchor_reads(group, value):
        return None
    return linear_form(anchor, weight.constant)


def _rows(group: FusionGroup, value: Value) -> Float64:
    """The weights, float64 [outputs, inputs]."""
    form = _form(group, value)
    assert form is not None
    assert group.weight is not None
    return np.asarray(form.matrices(np.asarray(group.weight.constant))[0])


def _factors(low: Float64, high: Float64, groups: list[FusionGroup], value: Value) -> Float64:
    """``s``: float64 [inputs], of geometric mean 1 over the channels that are used."""
    spread = np.maximum(-low, high)
    weights = np.max([np.abs(_rows(group, value)).max(axis=0) for group in groups], axis=0)
    used = (spread > 0) & (weights > 0)
    if not used.any():
        return np.ones_like(spread)
    logs = np.zeros_like(spread)
    logs[used] = ALPHA * np.log(spread[used]) - (1 - ALPHA) * np.log(weights[used])
    logs[used] -= logs[used].mean()
    return np.asarray(np.exp(np.clip(logs, -np.log(GREATEST), np.log(GREATEST))))


def _noise(params: QuantParams, groups: list[FusionGroup], value: Value, factors: Float64) -> float:
    """What rounding the operand adds to the products, as mean square, up to a constant."""
    total = sum(float(((_rows(group, value) * factors) ** 2).sum()) for group in groups)
    return float(params.scale[0]) ** 2 * total


def _divide(rewriter: Rewriter, value: Value, factors: Float64, groups: list[FusionGroup]) -> Value:
    """``value / factors`` in front of its first reader; the groups read it now."""
    anchors = {group.anchor for group in groups}
    before = next(node for node in rewriter.graph.nodes if node in anchors)
    inverse = rewriter.constant(
        f"{value.name}_inverse_spread",
        (1.0 / factors).astype(np.float32),
        TensorType((len(factors),), "float32"),
    )
    made = rewriter.insert(
        "Mul",
        [value, inverse],
        [value.type],
        output_names=[rewriter.graph.fresh_name(f"{value.name}_divided")],
        before=before,
    )
    for anchor in anchors:
        rewriter.graph.replace_use(Use(anchor, 0), made.output)
    return made.output


def _scale_rows(group: FusionGroup, factors: Float64) -> None:
    """Multiply the weights by input channel."""
    weight = group.weight
    assert weight is not None
    data = np.asarray(weight.constant, np.float32)
    form = linear_form(group.anchor, data)
    assert form is not None
    weight.constant = form.weight(form.matrices(data) * factors).astype(np.float32)
