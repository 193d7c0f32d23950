"""Channels in front of depthwise convolutions are stretched, and the function stays the same."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.x86.config import CONFIG as X86
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph
from qcc.ir.types import float32
from qcc.passes.equalize_channels import SHARE, equalizable, equalize_channels, stretch
from qcc.passes.insert_observers import plan_observation
from qcc.passes.select_fusions import select_fusions
from qcc.pipeline import convert, prepare
from qcc.quant.qconfig_mapping import get_default_qconfig_mapping
from qcc.quant.qparams import QuantParams, affine_qparams
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import feeds

SPREAD = np.geomspace(0.02, 1.0, 8).astype(np.float32)
"""How much the channels differ."""


def separable(
    activation: str | None = "Relu", *, multiplier: int = 1, extra: bool = False
) -> Graph:
    """1x1 Conv with channels of very different ranges, depthwise Conv, 1x1 Conv."""
    random = np.random.default_rng(0)

    def constant(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 10, 10))
    w1 = constant(8, 3, 1, 1) * SPREAD[:, None, None, None]
    y = b.op.Conv(x, b.constant(w1, "w1"), b.constant(constant(8) * 0.1 * SPREAD, "b1"))
    if activation == "Clip":
        y = b.op.Clip(y, b.constant(np.float32(0), "lo"), b.constant(np.float32(6), "hi"))
    elif activation is not None:
        y = getattr(b.op, activation)(y)
    w2 = constant(8 * multiplier, 1, 3, 3) / np.repeat(SPREAD, multiplier)[:, None, None, None]
    z = b.op.Conv(y, b.constant(w2, "w2"), group=8, pads=[1, 1, 1, 1])
    out = b.op.Conv(z, b.constant(constant(4, 8 * multiplier, 1, 1), "w3"))
    return (
        b.output(b.op.Add(out, b.op.Conv(y, b.constant(constant(4, 8, 1, 1), "w4"))))
        if extra
        else b.output(out)
    )


def stretched(graph: Graph) -> tuple[Graph, int]:
    """``graph`` equalized by extremes that make channel c reach ``SPREAD[c]``."""
    plan = select_fusions(graph, X86, get_default_qconfig_mapping("x86"))
    observation = plan_observation(plan)
    names = list(equalizable(plan, observation))
    extremes = {name: (np.zeros(8, np.float32), SPREAD) for name in names}
    scales = {name: affine_qparams(0.0, 1.0, "uint8") for name in names}
    return graph, equalize_channels(plan, observation, scales, extremes)


@pytest.mark.parametrize("activation", ["Relu", None])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_the_function_stays_the_same(activation: str | None, multiplier: int) -> None:
    graph = separable(activation, multiplier=multiplier)
    feed = feeds(graph, 1)[0]
    before = next(iter(evaluate(graph, feed).values()))
    weight = np.array(graph.constants["w1"].constant)
    graph, count = stretched(graph)
    assert count == 1
    after = next(iter(evaluate(graph, feed).values()))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    ratio = np.asarray(graph.constants["w1"].constant) / weight
    np.testing.assert_allclose(ratio[:, 0, 0, 0], (1 / SPREAD) ** SHARE, rtol=1e-2)


def test_a_value_that_others_read_stays() -> None:
    graph = separable(extra=True)
    plan = select_fusions(graph, X86, get_default_qconfig_mapping("x86"))
    assert equalizable(plan, plan_observation(plan)) == {}


def test_a_value_that_is_added_to_its_own_convolution_stays() -> None:
    random = np.random.default_rng(0)
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 10, 10))
    w1 = random.normal(size=(8, 3, 1, 1)).astype(np.float32) * SPREAD[:, None, None, None]
    y = b.op.Relu(b.op.Conv(x, b.constant(w1, "w1")))
    w2 = random.normal(size=(8, 1, 3, 3)).astype(np.float32)
    z = b.op.Add(b.op.Conv(y, b.constant(w2, "w2"), group=8, pads=[1, 1, 1, 1]), y)
    w3 = random.normal(size=(4, 8, 1, 1)).astype(np.float32)
    graph = b.output(b.op.Conv(z, b.constant(w3, "w3")))
    plan = select_fusions(graph, X86, get_default_qconfig_mapping("x86"))
    assert any(len(group.nodes) > 1 and group.root.op == "Add" for group in plan.groups)
    assert equalizable(plan, plan_observation(plan)) == {}


def test_an_activation_that_is_not_homogeneous_stays() -> None:
    graph = separable("Sigmoid")
    plan = select_fusions(graph, X86, get_default_qconfig_mapping("x86"))
    assert equalizable(plan, plan_observation(plan)) == {}


@pytest.mark.parametrize("activation", ["Relu", "Clip", None])
def test_the_quantized_model_errs_much_less(activation: str | None) -> None:
    graph = separable(activation)
    prepared = prepare(graph).calibrate(feeds(graph, 24))
    fresh = feeds(graph, 60)[24:]

    def error(on: bool) -> float:
        quantized = convert(prepared, equalization=on).graph
        total = 0.0
        for feed in fresh:
            (a,), (c,) = evaluate(graph, feed).values(), evaluate(quantized, feed).values()
            total += float(((a - c) ** 2).sum())
        return total

    assert error(True) < 0.5 * error(False)


def test_factors() -> None:
    params: QuantParams = affine_qparams(-1.0, 3.0, "uint8")
    low = np.asarray([-1.0, -0.25, 0.0, 0.0, -2.0, 0.0], np.float32)
    high = np.asarray([3.0, 0.75, 0.5, 6.0, 0.1, 0.0], np.float32)
    wanted = np.asarray([1.0, 4.0, 6.0, 1.0, 1.0, 1.0]) ** SHARE
    np.testing.assert_allclose(stretch(low, high, params), wanted, rtol=0.02)
