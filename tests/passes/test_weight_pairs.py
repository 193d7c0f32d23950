"""Weights whose neighbours' products fit 16 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.kernels.conv import has_safe_pairs
from qcc.backends.registry import backend_config
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph, Value
from qcc.ir.types import float32
from qcc.passes.operand_rows import LinearForm, linear_form
from qcc.passes.round_weights import round_by_rows
from qcc.passes.weight_pairs import GROWTHS, MANY_INPUTS, MOST_SPREAD, Pairs
from qcc.pipeline import convert, prepare
from qcc.ref.evaluate import evaluate
from qcc.runtime.build import native_backend_name
from tests.passes.flow_models import feeds

LIMIT = 128


def layers(seed: int) -> Graph:
    """A convolution, a grouped one with an odd number of inputs, a depthwise one, two products."""
    random = np.random.default_rng(seed)
    b = GraphBuilder()
    x = b.input("x", float32(1, 5, 7, 7))

    def conv(value: Value, outputs: int, inputs: int, group: int, name: str) -> Value:
        weight = random.normal(size=(outputs, inputs, 3, 3)).astype(np.float32)
        found = b.op.Conv(value, b.constant(weight, name), group=group, pads=[1, 1, 1, 1])
        relu: Value = b.op.Relu(found)
        return relu

    x = conv(conv(conv(x, 12, 5, 1, "a"), 8, 3, 4, "b"), 8, 1, 8, "c")
    x = b.op.Reshape(x, b.constant(np.asarray([1, 392]), "s"))
    first = b.constant(random.normal(size=(392, 21)).astype(np.float32), "d")
    second = b.constant(random.normal(size=(6, 21)).astype(np.float32), "e")
    x = b.op.Relu(b.op.MatMul(x, first))
    return b.output(b.op.Gemm(x, second, transB=1))


def forms(graph: Graph) -> dict[str, LinearForm]:
    found = {}
    for node in graph.nodes:
        if node.op in ("Conv", "MatMul", "Gemm"):
            weight = node.operand(1).constant
            assert weight is not None
            form = linear_form(node, weight)
            assert form is not None
            found[node.operand(1).name] = form
    return found


def test_pairs_are_neighbouring_channels_of_one_tap() -> None:
    found = forms(layers(0))
    grouped = Pairs.of(found["b"], LIMIT)
    assert grouped is not None
    assert grouped.first.tolist() == list(range(9))
    assert grouped.second.tolist() == list(range(9, 18))
    few = Pairs.of(found["a"], LIMIT)
    assert few is not None
    line = np.arange(45).reshape(5, 9).T.reshape(-1)
    assert few.first.tolist() == line[:44:2].tolist()
    assert few.second.tolist() == line[1::2].tolist()
    assert Pairs.of(found["c"], LIMIT) is None  # depthwise: one input channel
    assert Pairs.of(found["a"], None) is None
    for name, inputs in (("d", 392), ("e", 21)):
        product = Pairs.of(found[name], LIMIT)
        assert product is not None
        assert product.partners(inputs)[:4].tolist() == [1, 0, 3, 2]
        assert (product.partners(inputs) < 0).sum() == inputs % 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(5, 80))
def test_the_nearest_weights_keep_the_limit_and_move_no_others(seed: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    steps = random.normal(size=(2, 3, 8)).astype(np.float32) * np.float32(spread)
    pairs = Pairs(np.arange(0, 8, 2), np.arange(1, 8, 2), LIMIT)
    found = pairs.nearest(steps, 127)
    plain = np.clip(np.rint(steps), -127, 127)
    assert not pairs.broken(found).any()
    assert np.abs(found).max() <= 127
    kept = np.repeat(~pairs.broken(plain), 2, axis=-1)
    np.testing.assert_array_equal(found[kept], plain[kept])
    # No other pair of whole numbers that keeps the limit is nearer.
    all_pairs = [(a, LIMIT - a) for a in range(1, 128)]
    for x, y, a, b in zip(
        *(v[..., i::2].reshape(-1) for v in (np.abs(steps), np.abs(found)) for i in (0, 1)),
        strict=True,
    ):
        if a + b == LIMIT and min(x, y) > 1:
            best = min((x - p) ** 2 + (y - q) ** 2 for p, q in all_pairs)
            nearest = (min(x, 127) - np.rint(x)) ** 2
            assert (x - a) ** 2 + (y - b) ** 2 <= best + 1e-3 or nearest == 0


def test_scales_grow_no_further_than_they_must() -> None:
    random = np.random.default_rng(1)
    steps = random.normal(size=(1, 40, 62)).astype(np.float32)
    steps *= 127 / np.abs(steps).max(axis=-1, keepdims=True)
    pairs = Pairs(np.arange(0, 62, 2), np.arange(1, 62, 2), LIMIT)
    growth = pairs.growth(steps, 127)
    assert growth.shape == (1, 40)
    assert set(np.unique(growth)) <= set(np.asarray(GROWTHS, np.float32))
    small = steps / 2
    np.testing.assert_array_equal(pairs.growth(small, 127), 1)

    def error(factor: np.ndarray) -> np.ndarray:
        scaled = steps / factor[..., None]
        moved = pairs.nearest(scaled, 127) * factor[..., None]
        return np.asarray(np.square(moved - steps).sum(axis=-1))

    assert (error(growth) <= error(np.ones_like(growth)) + 1e-3).all()
    assert (error(growth) <= error(np.full_like(growth, 2)) + 1e-3).all()


def test_channels_of_many_inputs_keep_the_spread() -> None:
    random = np.random.default_rng(1)
    steps = random.normal(size=(1, 40, MANY_INPUTS)).astype(np.float32)
    steps *= 127 / np.abs(steps).max(axis=-1, keepdims=True)
    steps[0, 0] /= 4
    pairs = Pairs(np.arange(0, MANY_INPUTS, 2), np.arange(1, MANY_INPUTS, 2), LIMIT)
    growth = pairs.growth(steps, 127)
    spread = np.sqrt(np.square(steps / growth[..., None]).mean(axis=-1))
    assert spread.max() <= MOST_SPREAD * 1.0001
    assert growth[0, 0] == 1
    assert (growth[0, 1:] > 1).all()
    assert growth.max() < 2.5


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(20, 90), st.integers(1, 40))
def test_no_growth_has_much_less_error_than_the_chosen_one(
    seed: int, spread: float, channels: int
) -> None:
    random = np.random.default_rng(seed)
    steps = random.uniform(-1, 1, size=(2, channels, 50)).astype(np.float32) * np.float32(spread)
    steps[..., 0] = 127
    pairs = Pairs(np.arange(0, 50, 2), np.arange(1, 50, 2), LIMIT)
    growth = pairs.growth(steps, 127)
    errors = np.stack(
        [
            np.square(pairs.nearest(steps / f, 127) * f - steps).sum(axis=-1)
            for f in map(np.float32, GROWTHS)
        ]
    )
    places = np.searchsorted(GROWTHS, growth - 1e-6)
    chosen = np.take_along_axis(errors, places[None], axis=0)[0]
    whole = ~pairs.broken(np.rint(steps)).any(axis=-1)
    np.testing.assert_array_equal(growth[whole], 1)
    # Rounding errors grow with the step but for chance: the search stops where they pass the least.
    assert (chosen[~whole] <= 1.2 * errors.min(axis=0)[~whole]).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_rounding_for_the_output_keeps_the_limit(groups: int) -> None:
    random = np.random.default_rng(groups)
    hidden = random.normal(size=(groups, 3000, 9)) @ random.normal(size=(groups, 9, 40))
    rows = np.asarray(hidden + 0.1 * random.normal(size=hidden.shape), np.float32)
    weight = random.normal(size=(groups, 6, 40)).astype(np.float32)
    steps = np.asarray(np.abs(weight).max(axis=2) / 127, np.float32)
    pairs = Pairs(np.arange(0, 40, 2), np.arange(1, 40, 2), LIMIT)
    fit, held = (
        part - part.mean(axis=1, keepdims=True) for part in (rows[:, :2000], rows[:, 2000:])
    )
    found = round_by_rows(weight, steps, (-127, 127), fit, held, pairs)
    assert found is not None
    assert not pairs.broken(found).any()
    nearest = pairs.nearest(np.asarray(weight / steps[..., None]), 127)

    def error(stored: np.ndarray) -> float:
        outputs = rows @ (stored * steps[..., None] - weight).transpose(0, 2, 1)
        return float(outputs.var(axis=1).sum())

    assert error(found) < 0.5 * error(nearest)


@pytest.mark.parametrize("rounding", [False, True])
def test_a_converted_model_keeps_the_limit_for_avx2_only(rounding: bool) -> None:
    graph = layers(2)
    batches = feeds(graph, 8)

    def stored(backend: str) -> dict[str, np.ndarray]:
        prepared = prepare(graph, None, backend_config(backend)).calibrate(batches)
        made = convert(prepared, weight_rounding=rounding, least_local_db=-100).graph
        return {
            value.name: np.asarray(value.constant)
            for value in made.values()
            if value.constant is not None and value.constant.dtype == np.int8
        }

    limited, free = stored("x86-avx2"), stored("x86")
    assert len(limited) == len(free) == 5
    assert all(is_safe(weight) for weight in limited.values())
    assert not all(is_safe(weight) for weight in free.values())


def is_safe(weight: np.ndarray) -> bool:
    return has_safe_pairs(as_conv(weight), tight=weight.shape[1:] == (5, 3, 3))


def as_conv(weight: np.ndarray) -> np.ndarray:
    """A stored weight as [outputs, inputs, ...]; a MatMul's is [inputs, outputs]."""
    if weight.ndim == 4:
        return weight if weight.shape[1] > 1 else np.zeros((1, 2, 1, 1), np.int8)
    weight = weight.T if weight.shape[0] == 392 else weight
    return weight[:, :, None, None]


@pytest.mark.parametrize("keeps", [True, False])
def test_a_grid_gives_way_to_the_limit_only_where_kernels_rely_on_it(keeps: bool) -> None:
    """A kernel of qcc looks first; one of another runtime saturates."""
    random = np.random.default_rng(7)
    whole = random.integers(-60, 61, (3, 8, 1, 1))
    whole[0, 0] = whole[1, 0] = whole[2, 0] = 127
    whole[0, 1] = 100  # passes the limit
    whole[1:, 1] = -1
    b = GraphBuilder()
    x = b.input("x", float32(1, 8, 4, 4))
    made = b.op.Conv(x, (whole * 0.01).astype(np.float32), kernel_shape=[1, 1])
    graph = b.output(made)
    backend = replace(backend_config("x86-avx2"), keeps_grids=keeps)
    prepared = prepare(graph, None, backend).calibrate(feeds(graph, 4))
    numbered = convert(prepared, weight_rounding=False).graph
    (stored,) = (np.asarray(v.constant) for v in numbered.values() if v.tensor.storage == "int8")
    assert has_safe_pairs(stored) is not keeps
    np.testing.assert_array_equal(stored[1:], whole[1:])
    assert np.array_equal(stored[0], whole[0]) is keeps


def test_accuracy_hardly_suffers() -> None:
    graph = layers(3)
    batches, fresh = feeds(graph, 32), feeds(graph, 48)[32:]

    def error(backend: str) -> float:
        made = convert(prepare(graph, None, backend_config(backend)).calibrate(batches)).graph
        pairs = [(*evaluate(graph, x).values(), *evaluate(made, x).values()) for x in fresh]
        return sum(float(((a - b) ** 2).sum()) for a, b in pairs)

    assert error("x86-avx2") < 2 * error("x86")


def test_targets_without_vnni_want_the_limit() -> None:
    assert native_backend_name("x86-avx2") == "x86-avx2"
    assert native_backend_name("x86-avx512vnni") == "x86"
    assert native_backend_name("x86-avx512vnni,x86-avx2") == "x86-avx2"
    assert backend_config("x86-avx2").weight_pair_limit == LIMIT
    assert replace(backend_config("x86-avx2"), weight_pair_limit=None).weight_pair_limit is None
