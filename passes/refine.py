"""refine: better integers for a numbered graph, and how good they are, in one walk over samples.

The float graph and its numbered copy are walked side by side, layer by layer, with the earlier
layers already refined: the weights of a group are rounded anew (``round_weights.py``), its biases
corrected (``correct_bias.py``), and its signal-to-quantization-noise ratio is measured: ``sqnr``
with the numbered graph's own inputs (all error so far), ``local`` with the float model's inputs
quantized (the error of this group alone, its weights rounded to nearest).

A group may have to reach a least ``local`` ratio.  From the first one that does not, nothing is
refined any more, since these numbers will not be used: the rest of the walk only takes the
``local`` ratios of the other groups, on the few samples that they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcc.ir.core import Array, Graph, Value
from qcc.ir.types import TensorType
from qcc.passes.correct_bias import BiasSpot, bias_spot, give_biases, shift_bias
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.products import Product
from qcc.passes.round_weights import rows_worth
from qcc.passes.segments import Segment
from qcc.passes.walk import Noise, Side, real, stored
from qcc.quant.calibration.spill import KeptSamples, Spill
from qcc.ref.float_region import FloatRegion, region_model

LEAST_COMPARED, COMPARED_SAMPLES = 4, 16
"""How many samples the error of each group is measured on."""

COMPARED_ELEMENTS = 1 << 17
"""Elements of a group's results that are compared, within these bounds."""

LEAST_SAMPLES, MOST_SAMPLES = 16, 64
"""How many samples are walked (where there are so many): small models can afford more."""

WALKED_ELEMENTS = 400_000_000
"""Elements of all float values together that are walked, within these bounds."""

HELD_OUT = 8
"""Every eighth sample is held out to judge the rounding (every eighth row of fewer samples)."""

STAGE = "refine numbers"

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
    """What the walk found, in dB by group key.

    ``failed`` are the keys of groups below their least ``local`` ratio.  Where there are any, the
    graph is not refined and ``sqnr`` lacks groups.
    """

    sqnr: dict[str, float] = field(default_factory=dict)
    local: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)


def refine(
    twin: Twin,
    samples: KeptSamples,
    *,
    correct: bool = True,
    rounding: bool = True,
    least: Mapping[str, float] | None = None,
    pair_limit: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Measured:
    """Refine the numbers of the numbered graph in place and measure every group.

    ``correct`` is for biases, ``rounding`` for weights; with neither it only measures.  ``least``
    gives the local ratio in dB that a group has to reach, by its key; ``pair_limit`` is the
    backend's ``weight_pair_limit``.
    """
    if correct:
        give_biases(twin.numbered, twin.numbered_plan)
    count = min(len(samples), samples_for(twin.graph))
    with Spill() as left, Spill() as right:
        walk = _Walk(
            Side.of(twin.graph, twin.plan, left, threads),
            Side.of(twin.numbered, twin.numbered_plan, right, threads),
            count,
            twin.origin,
            correct,
            rounding,
            least or {},
            pair_limit,
        )
        walk.exact.start(samples, count)
        walk.numbered.start(samples, count)
        total = len(walk.exact.segments)
        for step in range(total):
            walk.step(step)
            if progress is not None:
                progress(STAGE, step + 1, total)
        return walk.measured


def samples_for(graph: Graph) -> int:
    """How many samples of a model of this size are walked; open dimensions count as 1."""
    sizes = (
        [d if isinstance(d, int) else 1 for d in value.tensor.shape or ()]
        for node in graph.nodes
        for value in node.outputs
        if isinstance(value.type, TensorType)
    )
    elements = sum(math.prod(size) for size in sizes)
    return max(LEAST_SAMPLES, min(MOST_SAMPLES, WALKED_ELEMENTS // max(elements, 1)))


@dataclass
class _Walk:
    exact: Side
    numbered: Side
    count: int
    origin: Mapping[Value, Value]
    correct: bool
    rounding: bool
    least: Mapping[str, float]
    pair_limit: int | None
    measured: Measured = field(default_factory=Measured)

    def step(self, step: int) -> None:
        """One step on both sides; on the exact one alone once a group has failed."""
        if self.measured.failed:
            self.exact.run(step, min(self.count, COMPARED_SAMPLES))
            self._judge(step)
        else:
            self._refine(step)
        if step + 1 < len(self.exact.segments):
            self.exact.forget(step)
            self.numbered.forget(step)

    def _judge(self, step: int) -> bool:
        """Measure a group on its own, if the step is one; whether it is good enough."""
        group = self.numbered.segments[step].group
        if group is None:
            return True
        ratio = self.measured.local[group.key] = self._local(step)
        if ratio >= self.least.get(group.key, -math.inf):
            return True
        self.measured.failed.add(group.key)
        return False

    def _refine(self, step: int) -> None:
        group = self.numbered.segments[step].group
        theirs = self.exact.segments[step].group
        spot = bias_spot(group) if group is not None and self.correct else None
        place = bias_spot(theirs) if theirs is not None and spot is not None else None
        product = None if group is None or theirs is None else Product.of(group, theirs)
        watch = None if place is None or product is not None else place.watch
        wanted = self.exact.run(step, self.count, watch)
        if not self._judge(step):
            return
        if product is not None:
            self._improve(product, spot)
        elif spot is not None and wanted is not None:
            found = self.numbered.measure(step, self.count, spot.watch)
            shift_bias(spot, found.means - wanted.means)
        self.numbered.run(step, self.count)
        if group is not None:
            self.measured.sqnr[group.key] = self._accumulated(step)

    def _improve(self, product: Product, spot: BiasSpot | None) -> None:
        """Round the weight anew for the operand that it really gets, then correct the bias."""
        operand = product.operand
        if self.rounding:
            product.round(*self._rows(product), self.pair_limit)
        if spot is not None:
            name = self._exact(operand).name
            exact = (self.exact.spill.get(name, i) for i in range(self.count))
            seen = (real(operand, self._operand(product, i)) for i in range(self.count))
            means = product.mean_row(seen), product.mean_row(exact)
            shift_bias(spot, product.mean_error(spot, *means))

    def _rows(self, product: Product) -> tuple[Array, Array]:
        """Rows of the stored operand: those to fit to, and those held out."""
        random = np.random.default_rng(0)
        form = product.form
        share = -(-rows_worth(form.groups, form.inputs) // self.count)
        fit, held = [], []
        for sample in range(self.count):
            rows = form.rows(self._operand(product, sample), share, random, product.zero_point)
            if self.count < HELD_OUT:
                cut_at = rows.shape[1] - rows.shape[1] // HELD_OUT
                fit.append(rows[:, :cut_at])
                held.append(rows[:, cut_at:])
            else:
                (held if sample % HELD_OUT == HELD_OUT - 1 else fit).append(rows)
        return np.concatenate(fit, axis=1), np.concatenate(held, axis=1)

    def _operand(self, product: Product, sample: int) -> Array:
        return self.numbered.spill.get(product.operand.name, sample)

    def _local(self, step: int) -> float:
        """The ratio of a group fed with the float model's operands, its bias not yet corrected.

        A correction makes up for errors of earlier groups, so it would count as one here.
        """
        segment = self.numbered.segments[step]
        region = FloatRegion(
            region_model(segment.nodes, segment.inputs, segment.outputs), self.numbered.threads
        )
        noise = Noise()
        for sample in self._compared(segment):
            feeds = [
                stored(value, self.exact.spill.get(self._exact(value).name, sample))
                for value in segment.inputs
            ]
            self._add(noise, segment.outputs, region.run(feeds), sample)
        return noise.sqnr_db

    def _accumulated(self, step: int) -> float:
        """The ratio of what a group really gives, after all errors so far."""
        segment, noise = self.numbered.segments[step], Noise()
        outputs = segment.outputs
        for sample in self._compared(segment):
            self._add(noise, outputs, self.numbered.load(outputs, sample), sample)
        return noise.sqnr_db

    def _compared(self, segment: Segment) -> range:
        """The samples that a group is compared on: enough elements, of some samples at least."""
        names = [self._exact(value).name for value in segment.outputs]
        elements = sum(math.prod(self.exact.spill.shape(name, 0)) for name in names)
        samples = max(LEAST_COMPARED, -(-COMPARED_ELEMENTS // max(elements, 1)))
        return range(min(self.count, COMPARED_SAMPLES, samples))

    def _exact(self, value: Value) -> Value:
        return self.origin[value]

    def _add(
        self, noise: Noise, values: Sequence[Value], arrays: Sequence[Array], sample: int
    ) -> None:
        for value, array in zip(values, arrays, strict=True):
            noise.add(self.exact.spill.get(self._exact(value).name, sample), real(value, array))
