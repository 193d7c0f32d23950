"""Weights rounded for the least error of the layer's output."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph, Node
from qcc.ir.types import float32
from qcc.passes import round_weights
from qcc.passes.operand_rows import Float32, linear_form
from qcc.passes.quantize_weights import quantize_weight
from qcc.passes.round_weights import round_by_rows, rows_worth
from qcc.passes.weight_pairs import Pairs
from qcc.pipeline import convert, prepare
from qcc.quant.observers import PerChannelMinMaxObserver
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import conv, feeds

LIMITS = (-127, 127)


def one_conv(seed: int, **attributes: Any) -> tuple[Graph, Node, Array]:
    random = np.random.default_rng(seed)
    group = int(attributes.get("group", 1))
    b = GraphBuilder()
    x = b.input("x", float32(2, 4, 9, 8))
    weight = random.normal(size=(8, 4 // group, 3, 2)).astype(np.float32)
    y = b.op.Conv(x, b.constant(weight, "w"), kernel_shape=[3, 2], **attributes)
    graph = b.output(y)
    return graph, next(n for n in graph.nodes if n.op == "Conv"), weight


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 0, 2, 1]},
        {"strides": [2, 1], "pads": [1, 1, 1, 1]},
        {"dilations": [2, 3], "pads": [0, 2, 0, 1]},
        {"group": 2},
        {"group": 4, "strides": [1, 2], "pads": [1, 1, 1, 0]},
    ],
)
def test_rows_times_matrices_is_the_conv(attributes: dict[str, Any]) -> None:
    graph, node, weight = one_conv(3, **attributes)
    x = np.random.default_rng(4).normal(size=(2, 4, 9, 8)).astype(np.float32)
    form = linear_form(node, weight)
    assert form is not None
    rows = form.rows(x, 10**6, np.random.default_rng(0))
    (wanted,) = evaluate(graph, {"x": x}).values()
    found = np.matmul(rows, form.matrices(weight).transpose(0, 2, 1))  # [groups, places, outputs]
    places = np.moveaxis(wanted, 1, -1).reshape(-1, wanted.shape[1])
    np.testing.assert_allclose(np.concatenate(list(found), axis=1), places, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(form.weight(form.matrices(weight)), weight)
    assert form.rows(x, 5, np.random.default_rng(0)).shape[1] == 5
    sums, count = form.sum_of_rows(x)
    assert count == rows.shape[1]
    np.testing.assert_allclose(sums, rows.sum(axis=1), rtol=1e-4, atol=1e-4)
    stored = np.arange(x.size, dtype=np.uint8).reshape(x.shape)
    shifted = form.rows(stored, 10**6, np.random.default_rng(0), 7).astype(np.float32) - 7
    real = form.rows(stored.astype(np.float32) - 7, 10**6, np.random.default_rng(0))
    np.testing.assert_array_equal(shifted, real)


@pytest.mark.parametrize(("op", "kind"), [("MatMul", {}), ("Gemm", {}), ("Gemm", {"transB": 1})])
def test_rows_of_matrix_products(op: str, kind: dict[str, int]) -> None:
    random = np.random.default_rng(5)
    weight = random.normal(size=(6, 5) if kind else (5, 6)).astype(np.float32)
    b = GraphBuilder()
    x = b.input("x", float32(7, 5))
    graph = b.output(getattr(b.op, op)(x, b.constant(weight, "w"), **kind))
    node = next(n for n in graph.nodes if n.op == op)
    form = linear_form(node, weight)
    assert form is not None
    feed = random.normal(size=(7, 5)).astype(np.float32)
    (wanted,) = evaluate(graph, {"x": feed}).values()
    found = form.rows(feed, 100, random)[0] @ form.matrices(weight)[0].T
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(form.weight(form.matrices(weight)), weight)
    sums, count = form.sum_of_rows(feed)
    assert count == 7
    np.testing.assert_allclose(sums[0], feed.sum(axis=0), rtol=1e-5, atol=1e-5)


def correlated(random: np.random.Generator, rows: int, inputs: int) -> Array:
    hidden = random.normal(size=(rows, max(2, inputs // 4)))
    mixed = hidden @ random.normal(size=(hidden.shape[1], inputs))
    return (mixed + 0.05 * random.normal(size=(rows, inputs)) + 3.0).astype(np.float32)


def centred(rows: Array) -> Array:
    return np.asarray(rows - rows.mean(axis=-2, keepdims=True))


def output_error(stored: Float32, steps: Float32, weight: Float32, rows: Array) -> float:
    error = rows @ (stored * steps[..., None] - weight)[0].T
    return float(((error - error.mean(axis=0)) ** 2).mean())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 150), st.integers(1, 9))
def test_the_output_error_shrinks_and_weights_stay_in_range(
    seed: int, inputs: int, outputs: int
) -> None:
    random = np.random.default_rng(seed)
    mixed = correlated(random, 4000, inputs)
    weight = random.normal(size=(1, outputs, inputs)).astype(np.float32)
    steps = np.asarray(np.abs(weight).max(axis=2) / 127, np.float32)
    nearest = np.clip(np.rint(weight / steps[..., None]), *LIMITS)
    stored = round_by_rows(
        weight, steps, LIMITS, centred(mixed[None, :2000]), centred(mixed[None, 2000:3000])
    )
    if stored is None:
        return
    assert np.array_equal(stored, np.rint(stored))
    assert np.abs(stored).max() <= 127
    held = mixed[2000:3000]
    assert output_error(stored, steps, weight, held) < 1.05 * output_error(
        nearest, steps, weight, held
    )


def test_correlated_operands_gain_much() -> None:
    random = np.random.default_rng(1)
    mixed = correlated(random, 4000, 64)
    weight = random.normal(size=(1, 16, 64)).astype(np.float32)
    steps = np.asarray(np.abs(weight).max(axis=2) / 127, np.float32)
    stored = round_by_rows(
        weight, steps, LIMITS, centred(mixed[None, :2000]), centred(mixed[None, 2000:3000])
    )
    assert stored is not None
    nearest = np.rint(weight / steps[..., None])
    fresh = mixed[3000:]
    assert output_error(stored, steps, weight, fresh) < 0.3 * output_error(
        nearest, steps, weight, fresh
    )


def test_many_inputs_of_several_groups_gain_as_much() -> None:
    random = np.random.default_rng(6)
    parts = [correlated(random, 3000, 300) for _ in range(2)]
    rows = np.stack(parts)
    weight = random.normal(size=(2, 5, 300)).astype(np.float32)
    steps = np.asarray(np.abs(weight).max(axis=2) / 127, np.float32)
    stored = round_by_rows(
        weight, steps, LIMITS, centred(rows[:, :2000]), centred(rows[:, 2000:2500])
    )
    assert stored is not None
    nearest = np.rint(weight / steps[..., None])
    for group, fresh in enumerate(parts):
        chosen = slice(group, group + 1)
        found = output_error(stored[chosen], steps[chosen], weight[chosen], fresh[2500:])
        least = output_error(nearest[chosen], steps[chosen], weight[chosen], fresh[2500:])
        assert found < 0.3 * least


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(20, 200), st.integers(1, 3), st.booleans())
def test_few_rows_give_what_their_moments_give(
    seed: int, inputs: int, groups: int, limited: bool
) -> None:
    """Two ways of computing the same: but for ties in float32, all weights are equal."""
    random = np.random.default_rng(seed)
    rows = np.stack([correlated(random, inputs // 2 + 40, inputs) for _ in range(groups)])
    fit, held = centred(rows[:, : inputs // 2]), centred(rows[:, inputs // 2 :])
    weight = random.normal(size=(groups, 7, inputs)).astype(np.float32)
    steps = np.asarray(np.abs(weight).max(axis=2) / 127, np.float32)
    pairs = Pairs(np.arange(0, inputs - 1, 2), np.arange(1, inputs, 2), 128) if limited else None

    def rounded(few: float) -> Float32 | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(round_weights, "FEW", few)
            return round_by_rows(weight, steps, LIMITS, fit, held, pairs)

    by_rows, by_moments = rounded(1e9), rounded(0)
    assert (by_rows is None) == (by_moments is None)
    if by_rows is not None and by_moments is not None:
        assert (by_rows != by_moments).mean() < 0.02


def test_wide_operands_ask_for_fewer_rows() -> None:
    assert rows_worth(1, 9) == rows_worth(1, 512) == round_weights.MOST_ROWS
    wide = [rows_worth(1, inputs) / inputs for inputs in (1024, 2048, 4096)]
    assert wide == sorted(wide, reverse=True)
    assert wide[-1] >= 1
    for groups, inputs in ((2048, 9), (1, 100_000), (64, 4608)):
        assert rows_worth(groups, inputs) * groups * inputs <= round_weights.MOST_ELEMENTS


def test_what_is_stored_exactly_is_left_alone() -> None:
    random = np.random.default_rng(2)
    mixed = centred(correlated(random, 400, 8))
    steps = np.full((1, 3), 0.25, np.float32)
    weight = np.asarray(random.integers(-127, 128, (1, 3, 8)) * 0.25, np.float32)
    assert round_by_rows(weight, steps, LIMITS, mixed[None], mixed[None]) is None
    weight[0, 1, 2] += 0.1
    stored = round_by_rows(weight, steps, LIMITS, mixed[None], mixed[None])
    if stored is not None:
        np.testing.assert_array_equal(stored[0, [0, 2]] * 0.25, weight[0, [0, 2]])


def test_the_converted_model_errs_less() -> None:
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    for index in range(4):
        x = b.op.Relu(conv(b, x, 8, name=f"c{index}"))
    graph = b.output(conv(b, x, 4, name="last"))
    prepared = prepare(graph).calibrate(feeds(graph, 16))
    fresh = feeds(graph, 40)[16:]

    def error(rounding: bool) -> float:
        quantized = convert(prepared, weight_rounding=rounding).graph
        total = 0.0
        for feed in fresh:
            (a,), (c,) = evaluate(graph, feed).values(), evaluate(quantized, feed).values()
            total += float(((a - c) ** 2).sum())
        return total

    assert error(True) < error(False)


def test_weights_on_a_grid_keep_it() -> None:
    random = np.random.default_rng(3)
    codes = random.integers(-60, 61, (4, 50))
    codes[2] *= 3  # this channel passes int8 and is quantized anew
    codes[2, 0] = 170
    weight = (codes * np.float32(0.013)).astype(np.float32)
    found = quantize_weight(
        "w",
        weight,
        0,
        PerChannelMinMaxObserver.with_args(
            dtype="int8", qscheme="per_channel_symmetric", ch_axis=0, quant_min=-127, quant_max=127
        ),
        0.1,
        None,
    )
    for channel in (0, 1, 3):
        np.testing.assert_array_equal(found.stored[channel], codes[channel])
        assert found.quant.scale[channel] == pytest.approx(0.013, rel=1e-5)
    assert found.quant.scale[2] == pytest.approx(np.abs(weight[2]).max() / 127, rel=1e-5)
