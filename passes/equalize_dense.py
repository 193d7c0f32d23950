"""Stretch narrow channels in front of dense convolutions, as far as that lowers the noise.

As in ``equalize_channels.py`` a channel is multiplied by ``k[c]`` where it is made and its readers'
weights by the inverse.  A dense reader's weights have one scale for all their inputs, so a smaller
column of them is rounded more coarsely: stretching trades the noise of rounding activations,

    (step of x)^2 / 12 * sum over readers of W[:, c]^2 / k[c]^2,

against that of rounding weights,

    sum over readers and outputs o of (step of W[o])^2 / 12 * taps * E[x[c]^2] * k[c]^2,

and the sum is least at ``k^4`` = the ratio of the two without ``k``.  That pays where activations
are symmetric and never negative, as behind a Relu for TensorRT: they use half of their steps.

Readers are reached through MaxPool and through Concats along the channels, which keep the scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Value
from qcc.ir.ops import attribute
from qcc.passes.equalize_channels import (
    Extremes,
    gives_channels,
    is_own,
    multiply,
    only_anchor_reads,
    stretch,
)
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.passes.insert_observers import Observation
from qcc.passes.prune_groups import moves
from qcc.quant.qparams import QuantParams

PEAK = 5.0
"""A channel's greatest value over its root mean square, about: only extremes are measured."""

LEAST = 1.05
"""Values whose greatest factor is less stay as they are."""

WEIGHT_STEPS = 127


@dataclass(frozen=True)
class Columns:
    """The input channels of a convolution, from ``first`` on, that a value is read as."""

    reader: FusionGroup
    first: int

    @property
    def depthwise(self) -> bool:
        """Whether each channel has weights, and so a scale, of its own."""
        return self._shape[1] == 1 and _groups(self.reader) > 1

    @property
    def _shape(self) -> tuple[int, ...]:
        assert self.reader.weight is not None
        return self.reader.weight.tensor.static_shape

    def weights(self, channels: int) -> NDArray[np.float64]:
        """Those that read these channels: float64 [outputs, channels, taps]."""
        assert self.reader.weight is not None
        data = np.asarray(self.reader.weight.constant, np.float64)
        flat = data.reshape(*data.shape[:2], -1)
        if self.depthwise:
            repeat = data.shape[0] // _groups(self.reader)
            rows = flat[self.first * repeat : (self.first + channels) * repeat, 0]
            return np.asarray(rows.reshape(channels, repeat, -1).transpose(1, 0, 2))
        return np.asarray(flat[:, self.first : self.first + channels])

    def divide(self, factors: NDArray[np.float32]) -> None:
        """Divide the weights of these channels."""
        weight = self.reader.weight
        assert weight is not None
        if self.depthwise:
            whole = np.ones(self._shape[0], np.float32)
            repeat = self._shape[0] // _groups(self.reader)
            stop = (self.first + len(factors)) * repeat
            whole[self.first * repeat : stop] = np.repeat(factors, repeat)
            multiply(weight, np.float32(1) / whole)
            return
        data = np.array(weight.constant, np.float32)
        stop = self.first + len(factors)
        data[:, self.first : stop] /= factors.reshape(1, -1, *(1,) * (data.ndim - 2))
        weight.constant = data


def stretchable(
    plan: FusionPlan, observation: Observation
) -> dict[str, tuple[FusionGroup, tuple[Columns, ...]]]:
    """The values (by name) that only convolutions read, with who gives and who reads them."""
    readers, found = plan.readers(), {}
    for group in plan.groups:
        value = group.root.output
        slot = observation.slots.get(value.name)
        if slot is None or slot.kind != "observed" or not gives_channels(group):
            continue
        columns = _columns(value, 0, readers)
        if columns and not all(item.depthwise for item in columns):
            found[value.name] = (group, tuple(columns))
    return found


def _columns(
    value: Value, first: int, readers: Mapping[Value, list[FusionGroup]]
) -> list[Columns] | None:
    """As which channels ``value`` is read, which are those from ``first`` on; None if otherwise."""
    using = readers.get(value, [])
    inside = {node for reader in using for node in reader.nodes}
    if not using or value.is_output or any(user not in inside for user in value.users):
        return None
    found: list[Columns] = []
    for reader in using:
        if _reads_channels(reader, value):
            found.append(Columns(reader, first))
            continue
        further = _passed_on(reader, value)
        if further is None:
            return None
        columns = _columns(reader.root.output, first + further, readers)
        if columns is None:
            return None
        found += columns
    return found


def _reads_channels(group: FusionGroup, value: Value) -> bool:
    """Whether a group is a dense or depthwise Conv of ``value`` with a weight of its own."""
    anchor, weight = group.anchor, group.weight
    if anchor.op != "Conv" or anchor.input(0) is not value or group.inputs != (value,):
        return False
    if weight is None or anchor.input(1) is not weight or not is_own(weight):
        return False
    dense = _groups(group) == 1
    return only_anchor_reads(group, value) and (dense or weight.tensor.static_shape[1] == 1)


def _passed_on(group: FusionGroup, value: Value) -> int | None:
    """How many channels a MaxPool or Concat puts in front of ``value``; None for other groups."""
    root = group.root
    if not moves(group) or len(group.nodes) != 1:
        return None
    if root.op == "MaxPool":
        return 0
    if root.op != "Concat" or root.inputs.count(value) != 1:
        return None
    before = root.inputs[: root.inputs.index(value)]
    sizes = [_channels(item) for item in before if item is not None]
    axis, rank = int(attribute(root, "axis")), value.tensor.rank
    if rank is None or axis % rank != 1 or None in sizes:
        return None
    return sum(size for size in sizes if size is not None)


def _channels(value: Value) -> int | None:
    shape = value.tensor.shape
    size = None if shape is None or len(shape) < 2 else shape[1]
    return size if isinstance(size, int) else None


def _groups(group: FusionGroup) -> int:
    return int(attribute(group.anchor, "group") or 1)


def equalize_dense(
    plan: FusionPlan,
    observation: Observation,
    scales: Mapping[str, QuantParams],
    extremes: Extremes,
) -> int:
    """Stretch channels of the graph that ``plan`` speaks of, in place; gives how many tensors.

    ``scales`` gives the parameters that each value will have.
    """
    count = 0
    for name, (giver, columns) in stretchable(plan, observation).items():
        if name not in extremes:
            continue
        factors = _factors(scales[name], *extremes[name], columns)
        if factors.max() < LEAST:
            continue
        multiply(giver.anchor.input(1), factors)
        multiply(giver.anchor.input(2), factors)
        for item in columns:
            item.divide(factors)
        count += 1
    return count


def _factors(
    params: QuantParams,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    columns: tuple[Columns, ...],
) -> NDArray[np.float32]:
    """The factor of each channel: that of least noise, but no more than there is room for."""
    channels = len(low)
    rounding = np.zeros(channels)
    storing = np.zeros(channels)
    for item in columns:
        weights = item.weights(channels)
        rounding += float(params.scale[0]) ** 2 * (weights**2).sum(axis=(0, 2))
        if not item.depthwise:
            storing += _steps(item.reader) * weights.shape[2]
    storing *= (np.maximum(-low, high).astype(np.float64) / PEAK) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        best = np.where(storing > 0, (rounding / storing) ** 0.25, 1.0)
    room = stretch(low, high, params)
    return np.clip(np.minimum(best, room), 1.0, None).astype(np.float32)


def _steps(group: FusionGroup) -> float:
    """The squared steps of a weight, summed over its outputs."""
    assert group.weight is not None
    data = np.asarray(group.weight.constant, np.float64)
    steps = np.abs(data).reshape(data.shape[0], -1).max(axis=1) / WEIGHT_STEPS
    return float((steps**2).sum())
