"""Backend patterns inside small float nets, quantized for an export target.

What an export target claims is where it quantizes, so an instance is a float graph: convolutions
give the pattern's operands, and something reads its result in 8 bits or in float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.ir.core import Array, Graph, Stage, Value
from qcc.ir.pattern import NodeTerm, Variable
from qcc.passes.insert_observers import plan_observation
from qcc.passes.select_fusions import select_fusions
from qcc.pipeline import PreparedModel, convert
from qcc.quant.backend_config import BackendConfig, BackendPatternConfig
from qcc.quant.calibration.calibrator import Calibrator
from tests.conformance.instances import Instance, Recipe, Shapes, binary
from tests.passes.numbered import Numbered

SHAPES = (Shapes(2, 16, 8, 6, 16), Shapes(3, 24, 5, 7, 32))
STEM = 16
"""Input channels of the convolutions that give operands."""

READER = 16
"""Output channels of the product that reads a result in 8 bits."""


@dataclass(frozen=True)
class Claim:
    """One instance: its result in the float graph, and whether that is read in float."""

    result: Value
    in_float: bool


class FloatInstance(Instance):
    """A pattern among float ops."""

    name = ""

    def build(self, config: BackendPatternConfig) -> None:
        """Add the pattern and a reader of its result, which is an output."""
        self.made(config)

    def made(self, config: BackendPatternConfig) -> Claim:
        """As :meth:`build`; what was built."""
        self.name = config.name
        value = self.node(config.pattern.term)
        in_float = self.result == "float32"
        if in_float:
            read = self.emit("Softmax", [value], {"axis": -1})
        else:
            weight = self.weight((value.tensor.static_shape[-1], READER), 1)
            read = self.emit("MatMul", [value, weight], {})
        self.b.graph.set_outputs([*self.b.graph.outputs, read])
        return Claim(value, in_float)

    def activation(self, shape: tuple[int, ...]) -> Value:
        """What a convolution (or, for another rank than 4, a product) and Relu give."""
        name = self.b.graph.fresh_name("x")
        if len(shape) == 4:
            x = self.b.input(name, shape[0], STEM, *shape[2:])
            weight = self.weight((shape[1], STEM, 3, 3), 0)
            value = self.emit("Conv", [x, weight], {"pads": [1, 1, 1, 1]})
        else:
            x = self.b.input(name, *shape[:-1], STEM)
            value = self.emit("MatMul", [x, self.weight((STEM, shape[-1]), 1)], {})
        return self.emit("Relu", [value], {})

    def weight(self, shape: tuple[int, ...], axis: int) -> Value:
        """A float weight that keeps the size of what it multiplies."""
        products = np.prod(shape) / shape[axis]
        data = self.b.random.normal(scale=products**-0.5, size=shape)
        return self.b.constant(data.astype(np.float32))

    def recipe(self, op: str) -> Recipe:
        """Products of images and what is smaller, and a Resize that only moves values."""
        if self.name == "sum_of_stored":
            return sum_of_stored
        return {"Mul": product, "Resize": nearest}.get(op) or super().recipe(op)


def product(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """An image and a factor for each of its channels: computed, or constant behind a Concat."""
    s = i.shapes
    if any(isinstance(operand, NodeTerm) for operand in term.operands):
        return binary(i, term)
    if "b" in {operand.name for operand in term.operands if isinstance(operand, Variable)}:
        return [i.activation(s.image), i.activation((s.batch, s.channels, 1, 1))], {}
    joined = i.emit("Concat", [i.activation(s.image), i.activation(s.image)], {"axis": 1})
    factors = i.b.random.normal(size=(2 * s.channels, 1, 1)).astype(np.float32)
    return [joined, i.b.constant(factors)], {}


def sum_of_stored(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """An image that a convolution reads, too, and what a pool gives of it."""
    del term
    image = i.activation(i.shapes.image)
    channels = i.shapes.channels
    other = i.emit("Conv", [image, i.weight((channels, channels, 1, 1), 0)], {})
    i.b.graph.set_outputs([*i.b.graph.outputs, other])
    pooled = i.emit("MaxPool", [image], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})
    return [image, pooled], {}


def nearest(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """Twice the size."""
    x = i.operand(term.operands[0], lambda: i.activation(i.shapes.image))
    return [x, None, i.b.constant(np.array([1, 1, 2, 2], np.float32))], {"mode": b"nearest"}


@dataclass(frozen=True)
class Exported:
    """A quantized graph of instances.

    ``wrong`` says of instances that became something else than the pattern's group what they
    became; ``weighted`` names the layers with weights; ``feeds`` are inputs.
    """

    graph: Graph
    wrong: tuple[str, ...]
    weighted: tuple[str, ...]
    feeds: tuple[dict[str, Array], ...]


def exported_claim(backend: BackendConfig, config: BackendPatternConfig, seed: int = 0) -> Exported:
    """Every dtype combination of an entry, in two sizes, side by side in one quantized graph.

    The float passes do not run, for they may write a pattern in another way.
    """
    builder = Numbered(seed)
    graph = builder.graph
    graph.stage = Stage.FLOAT
    claims = [
        FloatInstance(builder, dtypes, shapes).made(config)
        for dtypes in config.dtype_configs
        for shapes in SHAPES
    ]
    plan = select_fusions(graph, backend, backend.default_mapping)
    observation = plan_observation(plan)
    calibrator = Calibrator(graph, observation.observed)
    mapping = backend.default_mapping
    prepared = PreparedModel(graph, backend, mapping, plan, observation, calibrator)
    feeds = tuple(builder.feeds(1.0) for _ in range(2))
    quantized = convert(
        prepared.calibrate(feeds), least_local_db=-np.inf, least_arithmetic_db=-np.inf
    )
    producers = plan.producers()
    wrong = []
    for claim in claims:
        group = producers.get(claim.result)
        if group is None or (group.config.name, group.float_output) != (
            config.name,
            claim.in_float,
        ):
            became = "no group" if group is None else f"{group.config.name}, {group.float_output=}"
            wrong.append(f"%{claim.result.name}: {became}")
    weighted = tuple(group.anchor.name for group in plan.groups if group.is_weighted)
    return Exported(quantized.graph, tuple(wrong), weighted, feeds)
