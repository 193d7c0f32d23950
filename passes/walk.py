"""Walking the float graph and its numbered copy side by side over a few kept samples.

Each step runs in onnxruntime on its own; between steps, values wait on disk, and only those that a
later step reads.  So the numbered side sees what earlier (already corrected) steps gave, the float
side what the float model gives, and memory is that of one step on one sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.ir.core import Array, Graph, Node, Value
from qcc.ir.types import TensorType
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.segments import Segment, cut, last_uses
from qcc.quant.calibration.spill import KeptSamples, Spill
from qcc.ref.float_region import FloatRegion, region_model

EQUAL_DB = 200.0
"""The ratio that is reported where two results are equal."""


@dataclass
class Noise:
    """Signal and noise power of one result; sums of arrays are float32, their total float64."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: Array, approximate: Array) -> None:
        """Take in one pair of equal shape; where ``exact`` is infinite or NaN nothing is compared.

        Attention masks hold -inf or the least float32, whose square only float64 holds.
        """
        x = np.asarray(exact, np.float32).ravel()
        y = np.asarray(approximate, np.float32).ravel()
        with np.errstate(over="ignore", invalid="ignore"):
            signal, noise = _powers(x, y)
        if not np.isfinite(signal + noise):
            usable = np.isfinite(x)
            signal, noise = _powers(x[usable].astype(np.float64), y[usable].astype(np.float64))
        self.signal += signal
        self.noise += noise

    @property
    def sqnr_db(self) -> float:
        """10 log10(signal / noise)."""
        if self.noise <= self.signal * 1e-20:
            return EQUAL_DB
        return float(10 * np.log10(max(self.signal, 1e-300) / self.noise))


def _powers(exact: Array, approximate: Array) -> tuple[float, float]:
    error = exact - approximate
    return float(np.dot(exact, exact)), float(np.dot(error, error))


@dataclass(frozen=True)
class Watch:
    """A value inside a step whose mean is wanted for each index of ``axis``."""

    value: Value
    axis: int


@dataclass
class ChannelMeans:
    """Sums over all axes but one, in float64."""

    axis: int
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    items: int = 0

    def add(self, array: Array) -> None:
        """Take in one array; its size along the axis must stay the same."""
        axis = self.axis % array.ndim
        size = array.shape[axis]
        # Sums along what lies together are pairwise in float32, which is exact enough and fast.
        inner = array.reshape(-1, size, int(np.prod(array.shape[axis + 1 :]))).sum(axis=2)
        sums = inner.sum(axis=0, dtype=np.float64)
        self.total = sums if self.items == 0 else self.total + sums
        self.items += array.size // max(size, 1)

    @property
    def means(self) -> NDArray[np.float64]:
        """The mean of each channel."""
        return self.total / max(self.items, 1)


@dataclass
class Side:
    """One of the two graphs: its steps, and the values that wait on disk for later ones."""

    graph: Graph
    segments: list[Segment]
    dead: list[list[Value]]
    spill: Spill
    threads: int = 1

    @classmethod
    def of(cls, graph: Graph, plan: FusionPlan, spill: Spill, threads: int) -> Side:
        """Cut ``graph``, which ``plan`` speaks of."""
        segments = cut(graph, plan)
        return cls(graph, segments, last_uses(segments, graph.outputs), spill, threads)

    def start(self, samples: KeptSamples, count: int) -> None:
        """Put the first ``count`` samples where the steps find the graph's inputs."""
        for index in range(count):
            batch = samples[index]
            for value in self.graph.inputs:
                self.spill.put(value.name, index, batch[value.name])

    def load(self, values: Sequence[Value], sample: int) -> list[Array]:
        """The waiting arrays of one sample."""
        return [self.spill.get(value.name, sample) for value in values]

    def run(self, step: int, count: int, watch: Watch | None = None) -> ChannelMeans | None:
        """Run a step on every sample and store what it gives; measure ``watch`` on the way."""
        segment = self.segments[step]
        wanted = list(segment.outputs)
        if watch is not None and watch.value not in wanted:
            wanted.append(watch.value)
        if not wanted:
            return None
        region = FloatRegion(region_model(segment.nodes, segment.inputs, wanted), self.threads)
        means = None if watch is None else ChannelMeans(watch.axis)
        for sample in range(count):
            results = region.run(self.load(segment.inputs, sample))
            for value, array in zip(wanted, results, strict=True):
                if value in segment.outputs:
                    self.spill.put(value.name, sample, array)
                if means is not None and watch is not None and value is watch.value:
                    means.add(array)
        return means

    def measure(self, step: int, count: int, watch: Watch) -> ChannelMeans:
        """The means of ``watch`` alone: nothing is stored."""
        segment = self.segments[step]
        nodes = needed_for(segment.nodes, watch.value)
        inputs = [v for v in segment.inputs if any(v in node.inputs for node in nodes)]
        region = FloatRegion(region_model(nodes, inputs, [watch.value]), self.threads)
        means = ChannelMeans(watch.axis)
        for sample in range(count):
            means.add(region.run(self.load(inputs, sample))[0])
        return means

    def forget(self, step: int) -> None:
        """Drop what no later step reads."""
        for value in self.dead[step]:
            self.spill.drop(value.name)


def needed_for(nodes: Sequence[Node], value: Value) -> list[Node]:
    """Those of ``nodes`` that ``value`` depends on, in the same order."""
    wanted: set[Value] = {value}
    found: list[Node] = []
    for node in reversed(nodes):
        if any(output in wanted for output in node.outputs):
            wanted.update(v for v in node.inputs if v is not None)
            found.append(node)
    found.reverse()
    return found


def real(value: Value, array: Array) -> Array:
    """An array of ``value`` as real numbers."""
    quant = value.type.quant if isinstance(value.type, TensorType) else None
    if quant is None:
        return array
    return numerics.dequantize(array, quant.scales, quant.zero_points, axis=quant.axis)


def stored(value: Value, array: Array) -> Array:
    """Real numbers as an array of ``value``."""
    quant = value.type.quant if isinstance(value.type, TensorType) else None
    if quant is None:
        return array
    low, high = quant.range
    return numerics.quantize(
        array,
        quant.scales,
        quant.zero_points,
        quant.storage,
        axis=quant.axis,
        low=low,
        high=high,
    )
