"""Outlier channels in front of matrix products move into the weights."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.x86.config import CONFIG as X86
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph, Stage
from qcc.ir.types import float32
from qcc.ir.verify import verify
from qcc.passes.insert_observers import plan_observation
from qcc.passes.migrate_outliers import Migrated, migratable, migrate_outliers
from qcc.passes.select_fusions import select_fusions
from qcc.pipeline import convert, prepare
from qcc.quant.qparams import affine_qparams
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import feeds

CHANNELS = 16


def gain(outliers: bool) -> Array:
    found = np.ones(CHANNELS, np.float32)
    if outliers:
        found[[2, 9]] = 60.0
    return found


def normalized(outliers: bool = True, *, residual: bool = False, gemm: bool = False) -> Graph:
    """LayerNormalization with a few strong channels, read by two matrix products."""
    random = np.random.default_rng(0)

    def constant(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    b = GraphBuilder()
    x = b.input("x", float32(6, CHANNELS) if gemm else float32(2, 6, CHANNELS))
    v = b.op.LayerNormalization(x, b.constant(gain(outliers), "gamma"), axis=-1)
    if gemm:
        y = b.op.Gemm(v, b.constant(constant(5, CHANNELS), "w"), transB=1)
        z = b.op.Gemm(v, b.constant(constant(CHANNELS, 5), "u"))
    else:
        y = b.op.MatMul(v, b.constant(constant(CHANNELS, 5), "w"))
        z = b.op.MatMul(v, b.constant(constant(CHANNELS, 5), "u"))
    out = b.op.Concat(y, z, b.op.Neg(v), axis=-1) if residual else b.op.Concat(y, z, axis=-1)
    return b.output(out)


def migrated(graph: Graph) -> Migrated:
    plan = select_fusions(graph, X86, X86.default_mapping)
    observation = plan_observation(plan)
    bound = 3 * gain(True)
    extremes = dict.fromkeys(migratable(plan, observation), (-bound, bound))
    scales = {name: affine_qparams(-180.0, 180.0, "uint8") for name in observation.slots}
    return migrate_outliers(graph, plan, observation, scales, extremes)


@pytest.mark.parametrize("gemm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_function_stays_the_same(gemm: bool, residual: bool) -> None:
    graph = normalized(residual=residual, gemm=gemm)
    feed = feeds(graph, 1)[0]
    before = next(iter(evaluate(graph, feed).values()))
    found = migrated(graph)
    assert found.count == 1
    verify(graph, Stage.FLOAT)
    after = next(iter(evaluate(graph, feed).values()))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)
    (divided,) = {value.name for group in found.plan.groups for value in group.inputs}
    assert divided in found.scales
    assert divided in found.observation.slots
    assert [node.op for node in graph.nodes].count("Mul") == 1


def test_even_channels_stay_as_they_are() -> None:
    graph = normalized(outliers=False)
    plan = select_fusions(graph, X86, X86.default_mapping)
    observation = plan_observation(plan)
    even = np.full(CHANNELS, 3, np.float32)
    extremes = dict.fromkeys(migratable(plan, observation), (-even, even))
    scales = {name: affine_qparams(-3.0, 3.0, "uint8") for name in observation.slots}
    assert migrate_outliers(graph, plan, observation, scales, extremes).count == 0
    assert all(node.op != "Mul" for node in graph.nodes)


def test_what_a_quantized_group_gives_is_not_divided() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(4, 8))
    random = np.random.default_rng(1)
    w = b.constant(random.normal(size=(8, 8)).astype(np.float32), "w")
    u = b.constant(random.normal(size=(8, 8)).astype(np.float32), "u")
    hidden = b.op.Relu(b.op.MatMul(x, w))
    graph = b.output(b.op.MatMul(hidden, u))
    plan = select_fusions(graph, X86, X86.default_mapping)
    observation = plan_observation(plan)
    assert list(migratable(plan, observation)) == ["x"]
    assert len(migratable(plan, observation, quantized=True)) == 2


def test_a_value_that_is_added_to_its_own_product_keeps_the_function() -> None:
    random = np.random.default_rng(2)
    b = GraphBuilder()
    x = b.input("x", float32(4, CHANNELS))
    v = b.op.LayerNormalization(x, b.constant(gain(True), "gamma"), axis=-1)
    w = b.constant(random.normal(size=(CHANNELS, CHANNELS)).astype(np.float32), "w")
    u = b.constant(random.normal(size=(CHANNELS, 4)).astype(np.float32), "u")
    graph = b.output(b.op.MatMul(b.op.Add(b.op.MatMul(v, w), v), u))
    prepared = prepare(graph).calibrate(feeds(graph, 24))
    signal, noise = 0.0, 0.0
    for feed in feeds(graph, 24):
        (a,) = evaluate(graph, feed).values()
        (c,) = evaluate(convert(prepared).graph, feed).values()
        signal, noise = signal + float((a**2).sum()), noise + float(((a - c) ** 2).sum())
    assert noise < 0.01 * signal


@pytest.mark.parametrize("gemm", [False, True])
def test_the_quantized_model_errs_much_less(gemm: bool) -> None:
    graph = normalized(gemm=gemm)
    samples = feeds(graph, 24)
    prepared = prepare(graph).calibrate(samples)

    def error(on: bool) -> float:
        quantized = convert(prepared, equalization=on).graph
        verify(quantized, Stage.NUMBERED)
        total = 0.0
        for feed in samples:
            (a,), (c,) = evaluate(graph, feed).values(), evaluate(quantized, feed).values()
            total += float(((a - c) ** 2).sum())
        return total

    assert error(True) < 0.5 * error(False)
    notes = convert(prepared).report.notes
    assert any("was moved into the weights" in note for note in notes)
