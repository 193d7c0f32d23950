"""correct-bias: remove the mean error that quantization adds to each output channel.

Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2; as torch.ao's
``bias_correction``): layer by layer, with the earlier layers already corrected, the mean of each
channel of a Conv, Gemm or MatMul is measured on the float and on the numbered graph over the same
kept samples, before the activation, and the difference is taken off the int32 bias.

The same walk measures each group's signal-to-quantization-noise ratio: ``sqnr`` with the numbered
graph's own inputs (all error so far), ``local`` with the float model's inputs quantized (the error
of this group alone).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Array, Graph, Node, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.passes.quantize_weights import BIAS_LIMIT, quantize_bias
from qcc.passes.walk import EQUAL_DB, Noise, Side, Watch, real, stored
from qcc.quant.calibration.spill import KeptSamples, Spill
from qcc.ref.float_region import FloatRegion, region_model

COMPARED_SAMPLES = 16
"""How many samples the error of each group is measured on."""

STAGE = "correct biases"

Progress = Callable[[str, int, "int | None"], None]


@dataclass(frozen=True)
class Twin:
    """A float graph and its numbered copy.

    ``plan`` speaks of ``graph``, ``numbered_plan`` holds the same groups on ``numbered``;
    ``origin`` maps the values of ``numbered``, stored ones included, to those of ``graph``.
    """

    graph: Graph
    plan: FusionPlan
    numbered: Graph
    numbered_plan: FusionPlan
    origin: Mapping[Value, Value]


@dataclass
class Measured:
    """What the walk found, in dB: by group key, and by graph output."""

    sqnr: dict[str, float] = field(default_factory=dict)
    local: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BiasSpot:
    """Where a weighted group adds its bias: the node, and the channel axis of its result."""

    node: Node
    index: int
    axis: int

    @property
    def watch(self) -> Watch:
        """What to measure: the node's result."""
        return Watch(self.node.output, self.axis)


def bias_spot(group: FusionGroup) -> BiasSpot | None:
    """Where the bias of a group is, or could be; None where the group cannot have one."""
    if not group.is_weighted:
        return None
    anchor = group.anchor
    if anchor.op == "MatMul":
        add = group.roles.get("add")
        if add is None or group.bias is None:
            return None
        return BiasSpot(add, 1 - add.inputs.index(anchor.output), -1)
    return BiasSpot(anchor, 2, 1 if anchor.op == "Conv" else -1)


def correct_bias(
    twin: Twin,
    samples: KeptSamples,
    *,
    correct: bool = True,
    threads: int = 1,
    progress: Progress | None = None,
) -> Measured:
    """Correct the biases of the numbered graph in place and measure every group.

    With ``correct=False`` it only measures.
    """
    if correct:
        _give_biases(twin)
    with Spill() as left, Spill() as right:
        walk = _Walk(
            Side.of(twin.graph, twin.plan, left, threads),
            Side.of(twin.numbered, twin.numbered_plan, right, threads),
            len(samples),
            twin.origin,
            correct,
        )
        walk.exact.start(samples)
        walk.numbered.start(samples)
        total = len(walk.exact.segments)
        for step in range(total):
            walk.step(step)
            if progress is not None:
                progress(STAGE, step + 1, total)
        walk.outputs()
        return walk.measured


@dataclass
class _Walk:
    exact: Side
    numbered: Side
    count: int
    origin: Mapping[Value, Value]
    correct: bool
    measured: Measured = field(default_factory=Measured)

    def step(self, step: int) -> None:
        """One step on both sides."""
        group = self.numbered.segments[step].group
        theirs = self.exact.segments[step].group
        spot = bias_spot(group) if group is not None and self.correct else None
        place = bias_spot(theirs) if theirs is not None and spot is not None else None
        wanted = self.exact.run(step, self.count, None if place is None else place.watch)
        if group is not None:
            self.measured.local[group.key] = self._local(step)
        if spot is not None and wanted is not None:
            found = self.numbered.measure(step, self.count, spot.watch)
            shift_bias(spot, found.means - wanted.means)
        self.numbered.run(step, self.count)
        if group is not None:
            self.measured.sqnr[group.key] = self._accumulated(step)
        if step + 1 < len(self.exact.segments):
            self.exact.forget(step)
            self.numbered.forget(step)

    def _local(self, step: int) -> float:
        """The ratio of a group fed with the float model's operands, its bias not yet corrected.

        A correction makes up for errors of earlier groups, so it would count as one here.
        """
        segment = self.numbered.segments[step]
        region = FloatRegion(
            region_model(segment.nodes, segment.inputs, segment.outputs), self.numbered.threads
        )
        noise = Noise()
        for sample in self._compared():
            feeds = [
                stored(value, self.exact.spill.get(self._exact(value).name, sample))
                for value in segment.inputs
            ]
            self._add(noise, segment.outputs, region.run(feeds), sample)
        return noise.sqnr_db

    def _accumulated(self, step: int) -> float:
        """The ratio of what a group really gives, after all errors so far."""
        outputs, noise = self.numbered.segments[step].outputs, Noise()
        for sample in self._compared():
            self._add(noise, outputs, self.numbered.load(outputs, sample), sample)
        return noise.sqnr_db

    def _compared(self) -> range:
        return range(min(self.count, COMPARED_SAMPLES))

    def _exact(self, value: Value) -> Value:
        return self.origin[value]

    def _add(
        self, noise: Noise, values: Sequence[Value], arrays: Sequence[Array], sample: int
    ) -> None:
        for value, array in zip(values, arrays, strict=True):
            noise.add(self.exact.spill.get(self._exact(value).name, sample), real(value, array))

    def outputs(self) -> None:
        """Compare the graph's float outputs."""
        pairs = zip(self.exact.graph.outputs, self.numbered.graph.outputs, strict=True)
        for exact, value in pairs:
            if exact.producer is None or not _is_float(exact):
                continue
            noise = Noise()
            for sample in range(self.count):
                (a,), (b,) = self.exact.load([exact], sample), self.numbered.load([value], sample)
                noise.add(a, b)
            self.measured.outputs[exact.name] = noise.sqnr_db if self.count else EQUAL_DB


def _is_float(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.is_float


def _give_biases(twin: Twin) -> None:
    """A zero bias for every Conv and Gemm group that has none."""
    rewriter = Rewriter(twin.numbered)
    for group in twin.numbered_plan.groups:
        spot = bias_spot(group)
        if spot is None or spot.node.input(spot.index) is not None:
            continue
        node = spot.node
        x = _constant_behind(node.operand(0)).tensor.quant
        weight = _constant_behind(node.operand(1)).tensor.quant
        assert x is not None
        assert weight is not None
        channels = _constant_behind(node.operand(1)).tensor.static_shape[group.weight_axis or 0]
        data, quant = quantize_bias(np.zeros(channels, np.float32), x.scale[0], weight)
        value = rewriter.constant(f"{node.label}_bias", data, TensorType((channels,), quant))
        made = rewriter.insert(
            "q.dequantize",
            [value],
            [TensorType((channels,), "float32")],
            output_names=[twin.numbered.fresh_name(f"{node.label}_bias_real")],
            before=node,
        )
        rewriter.set_inputs(node, [*node.inputs[:2], made.output])


def _constant_behind(value: Value) -> Value:
    producer = value.producer
    assert producer is not None
    return producer.operand(0)


def shift_bias(spot: BiasSpot, delta: NDArray[np.float64]) -> None:
    """Take ``delta`` (real units, one a channel) off the stored bias at ``spot``."""
    bias = _constant_behind(spot.node.operand(spot.index))
    quant = bias.tensor.quant
    if quant is None or bias.constant is None or not np.isfinite(delta).all():
        return
    steps = np.rint(delta / quant.scales.astype(np.float64))
    moved = np.asarray(bias.constant, np.float64) - steps
    bias.constant = np.clip(moved, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)
