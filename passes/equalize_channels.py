"""equalize-channels: stretch narrow channels in front of depthwise convolutions.

One scale serves all channels of an activation, so a channel whose values are a tenth of the
greatest ones has a tenth of the steps.  Where every reader is a depthwise Conv, channel ``c`` may
be multiplied by ``k[c]`` for free: the producer's weights and bias take the factor, the readers'
weights its inverse, and both have a scale a channel.  This is cross-layer equalization (Nagel et
al. 2019, arXiv:1906.04721, section 4.1) where it has no price, with the ranges that were measured.

The factor goes :data:`SHARE` of the way (in logarithm) to where the channel fills the range that
the tensor's own scale covers, and is never below 1.  The rest is room for greater values than
calibration saw, which a channel that is seldom active has.  A Clip in between then cuts a stretched
channel earlier than before, but never below a value that calibration saw.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Value
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.passes.insert_observers import Observation
from qcc.quant.observers import PerChannelMinMaxObserver
from qcc.quant.qparams import QuantParams

CHANNEL_EXTREMES = PerChannelMinMaxObserver.with_args(ch_axis=1)
"""What calibration keeps of the values that may be equalized."""

SHARE = 0.75
"""Chosen among 0.5, 0.75 and 1 on held-out calibration data: with 1, the sparse channels of the
last layers of a MobileNetV2 are clipped (``docs/accuracy.md``)."""

GREATEST = 2.0**10
"""The greatest factor: a channel that was always near 0 is not blown up without bound."""

Extremes = Mapping[str, "tuple[NDArray[np.float32], NDArray[np.float32]]"]
"""The least and greatest value of each channel, float32 [channels] each, by value name."""

HOMOGENEOUS = frozenset({"Relu", "Clip"})


def equalizable(plan: FusionPlan, observation: Observation) -> dict[str, FusionGroup]:
    """The values (by name) whose channels may be stretched, with the groups that give them."""
    readers = plan.readers()
    found = {}
    for group in plan.groups:
        value = group.root.output
        slot = observation.slots.get(value.name)
        if slot is None or slot.kind != "observed" or not gives_channels(group):
            continue
        using = readers.get(value, [])
        inside = {node for reader in using for node in reader.nodes}
        read_outside = value.is_output or any(user not in inside for user in value.users)
        if using and not read_outside and all(_is_depthwise(other, value) for other in using):
            found[value.name] = group
    return found


def equalize_channels(
    plan: FusionPlan,
    observation: Observation,
    scales: Mapping[str, QuantParams],
    extremes: Extremes,
) -> int:
    """Stretch channels of the graph that ``plan`` speaks of, in place; gives how many tensors.

    ``scales`` gives the parameters that each value will have.
    """
    readers, count = plan.readers(), 0
    for name, group in equalizable(plan, observation).items():
        if name not in extremes:
            continue
        factors = stretch(*extremes[name], scales[name])
        if np.all(factors == 1.0):
            continue
        multiply(group.anchor.input(1), factors)
        multiply(group.anchor.input(2), factors)
        for reader in readers[group.root.output]:
            repeated = np.repeat(factors, _outputs(reader) // len(factors))
            multiply(reader.anchor.input(1), np.float32(1) / repeated)
        count += 1
    return count


def stretch(
    low: NDArray[np.float32], high: NDArray[np.float32], params: QuantParams
) -> NDArray[np.float32]:
    """The factor of each channel, float32 [channels], at least 1.

    ``low`` and ``high`` are the channels' extremes; ``params`` those of the whole tensor.
    """
    bottom, top = (float(bound[0]) for bound in params.real_range)
    with np.errstate(divide="ignore", invalid="ignore"):
        down = np.where(low < 0, bottom / low.astype(np.float64), np.inf)
        up = np.where(high > 0, top / high.astype(np.float64), np.inf)
    room = np.minimum(down, up)
    factors = np.where(np.isfinite(room), np.clip(room, 1.0, GREATEST), 1.0)
    return (factors**SHARE).astype(np.float32)


def gives_channels(group: FusionGroup) -> bool:
    """Whether a group is a Conv whose output channels can be scaled through its activation."""
    anchor = group.anchor
    if anchor.op != "Conv" or group.float_output or not is_own(anchor.input(1)):
        return False
    rest = [node for node in group.nodes if node is not anchor]
    bias = anchor.input(2)
    return all(node.op in HOMOGENEOUS for node in rest) and (bias is None or is_own(bias))


def _is_depthwise(group: FusionGroup, value: Value) -> bool:
    """Whether a group is a Conv that reads each channel of ``value`` with weights of its own."""
    anchor = group.anchor
    if anchor.op != "Conv" or anchor.input(0) is not value or group.inputs != (value,):
        return False
    if not only_anchor_reads(group, value):
        return False
    weight = group.weight
    if weight is None or weight is not anchor.input(1) or not is_own(weight):
        return False
    return weight.tensor.static_shape[1] == 1


def only_anchor_reads(group: FusionGroup, value: Value) -> bool:
    """Whether no other node of a group reads ``value``, as the Add of ``conv(x) + x`` does."""
    return all(node is group.anchor or value not in node.inputs for node in group.nodes)


def is_own(value: Value | None) -> bool:
    """Whether a value is a constant that only one node reads."""
    return value is not None and value.constant is not None and len(value.uses) == 1


def _outputs(group: FusionGroup) -> int:
    assert group.weight is not None
    return group.weight.tensor.static_shape[0]


def multiply(value: Value | None, factors: NDArray[np.float32]) -> None:
    """Multiply a constant along its first axis."""
    if value is not None:
        data = np.asarray(value.constant, np.float32)
        value.constant = data * factors.reshape(-1, *(1,) * (data.ndim - 1))
