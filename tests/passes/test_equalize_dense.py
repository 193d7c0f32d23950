"""Channels in front of dense convolutions are stretched where that pays; the function stays."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.tensorrt.config import CONFIG as TENSORRT
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph
from qcc.ir.types import float32
from qcc.passes.equalize_dense import equalize_dense, stretchable
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.insert_observers import plan_observation
from qcc.passes.select_fusions import select_fusions
from qcc.pipeline import convert, prepare
from qcc.quant.qparams import QuantParams
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import feeds

SPREAD = np.geomspace(0.02, 1.0, 16).astype(np.float32)
"""How much the channels differ."""


def fire(*, joined: bool = False, pooled: bool = False, extra: bool = False) -> Graph:
    """A Conv with channels of very different ranges, and two Convs of 1 and 3 taps that read it.

    ``joined``: another Conv's channels come first; ``pooled``: a MaxPool is between; ``extra``: a
    Sigmoid reads it, too.
    """
    random = np.random.default_rng(0)

    def constant(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    b = GraphBuilder()
    x = b.input("x", float32(1, 16, 8, 8))
    w = constant(16, 16, 1, 1) * SPREAD[:, None, None, None]
    y = b.op.Relu(b.op.Conv(x, b.constant(w, "w"), b.constant(constant(16) * 0.1 * SPREAD, "b")))
    first = 0
    whole = y
    if joined:
        other = b.op.Relu(b.op.Conv(x, b.constant(constant(24, 16, 1, 1), "other")))
        whole, first = b.op.Concat(other, y, axis=1), 24
    if pooled:
        whole = b.op.MaxPool(whole, kernel_shape=[2, 2])
    inputs = first + 16
    left = b.op.Conv(whole, b.constant(constant(16, inputs, 1, 1), "left"))
    right = b.op.Conv(whole, b.constant(constant(16, inputs, 3, 3), "right"), pads=[1, 1, 1, 1])
    if extra:
        b.output(b.op.Sigmoid(y))
    return b.output(b.op.Concat(left, right, axis=1))


def planned(graph: Graph) -> FusionPlan:
    return select_fusions(graph, TENSORRT, TENSORRT.default_mapping)


def stretched(graph: Graph, step: float) -> int:
    """Equalize ``graph`` by extremes that make channel c of ``y`` reach ``SPREAD[c]``."""
    plan = planned(graph)
    observation = plan_observation(plan)
    names = list(stretchable(plan, observation))
    scales = {name: QuantParams.make(step, 0, "int8") for name in names}
    sizes = {value.name: value.tensor.static_shape[1] for value in plan.quantized_values()}
    extremes = {
        name: (
            np.zeros(sizes[name], np.float32),
            SPREAD if sizes[name] == 16 else np.ones(sizes[name], np.float32),
        )
        for name in names
    }
    return equalize_dense(plan, observation, scales, extremes)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_the_function_stays_the_same(joined: bool, pooled: bool) -> None:
    graph = fire(joined=joined, pooled=pooled)
    feed = feeds(graph, 1)[0]
    before = next(iter(evaluate(graph, feed).values()))
    weight = np.array(graph.constants["w"].constant)
    assert stretched(graph, 1 / 127) >= 1
    after = next(iter(evaluate(graph, feed).values()))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    factors = (np.asarray(graph.constants["w"].constant) / weight)[:, 0, 0, 0]
    assert factors[0] > 1.5
    assert factors[-1] == pytest.approx(1.0)
    assert np.all(np.diff(factors) <= 1e-5)


def test_a_fine_step_leaves_nothing_to_win() -> None:
    graph = fire()
    weight = np.array(graph.constants["w"].constant)
    assert stretched(graph, 1e-6) == 0
    np.testing.assert_array_equal(graph.constants["w"].constant, weight)


def test_a_value_that_a_float_node_reads_stays() -> None:
    graph = fire(extra=True)
    plan = planned(graph)
    assert stretchable(plan, plan_observation(plan)) == {}


def test_models_with_uneven_channels_gain() -> None:
    graph = fire()
    batches = feeds(graph, 8)
    prepared = prepare(graph, backend=TENSORRT).calibrate(batches)

    def noise(equalization: bool) -> float:
        quantized = convert(prepared, equalization=equalization, weight_rounding=False)
        total = 0.0
        for feed in batches:
            exact = next(iter(evaluate(graph, feed).values()))
            total += float(
                ((next(iter(evaluate(quantized.graph, feed).values())) - exact) ** 2).sum()
            )
        return total

    assert noise(True) < 0.9 * noise(False)
