"""convert: groups that are too noisy go back to float, without work that nobody uses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qcc import pipeline
from qcc.backends.x86.config import CONFIG as X86
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph
from qcc.ir.types import float32
from qcc.passes import refine as refine_module
from qcc.passes.refine import Measured, Twin, refine
from qcc.passes.walk import Side
from qcc.pipeline import PreparedModel, convert, prepare
from qcc.quant.calibration.calibrator import Calibrator
from qcc.quant.qparams import QuantParams
from qcc.ref.evaluate import evaluate
from tests.passes.flow_models import conv, feeds, weights


def chain(depth: int) -> Graph:
    """Convs one after the other, all of them easy to quantize."""
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    for index in range(depth):
        x = b.op.Relu(conv(b, x, 6, name=f"c{index}"))
    return b.output(conv(b, x, 4, name="last"))


def loud_in_the_middle() -> Graph:
    """``quiet`` reads 15 channels whose scale a 16th one, thousands of times louder, spoils."""
    b = GraphBuilder()
    first = b.op.Relu(conv(b, b.input("x", float32(1, 3, 8, 8)), 3, name="first"))
    w, mute = weights(16, 3, 1, 1), np.ones((1, 16, 1, 1), np.float32)
    w[0] *= 3000
    mute[0, 0] = 0
    loud = b.op.Conv(first, w, _name="loud")
    quiet = b.op.Relu(b.op.Conv(loud, weights(6, 16, 1, 1) * mute, _name="quiet"))
    return b.output(conv(b, quiet, 4, name="last"))


def calibrated(graph: Graph, count: int = 6) -> PreparedModel:
    return prepare(graph, None, X86).calibrate(feeds(graph, count))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Twin, Measured]]:
    """What every walk of convert was given and found."""
    seen: list[tuple[Twin, Measured]] = []
    original = refine

    def watched(twin: Twin, *args: Any, **kwargs: Any) -> Measured:
        measured = original(twin, *args, **kwargs)
        seen.append((twin, measured))
        return measured

    monkeypatch.setattr(pipeline, "refine", watched)
    return seen


def test_one_walk_where_all_groups_are_good(walks: list[tuple[Twin, Measured]]) -> None:
    quantized = convert(calibrated(chain(3)))
    ((_, measured),) = walks
    assert not measured.failed
    assert quantized.report.float_nodes == 0


def test_the_report_holds_what_the_last_walk_measured(walks: list[tuple[Twin, Measured]]) -> None:
    quantized = convert(calibrated(loud_in_the_middle()))
    (_, first), (twin, last) = walks
    assert first.failed
    assert not last.failed
    assert set(last.sqnr) == set(last.local) == {group.key for group in twin.plan.groups}
    rows = {row.name: row for row in quantized.report.nodes}
    assert not rows["quiet"].is_int8
    assert "signal-to-noise" in rows["quiet"].reason
    found = [row.sqnr_db for row in rows.values() if row.is_int8]
    assert set(found) == set(last.sqnr.values())


def test_after_a_failure_nothing_is_refined(walks: list[tuple[Twin, Measured]]) -> None:
    """The rest of a walk whose numbers are thrown away takes the local ratios alone."""
    prepared = calibrated(chain(4))
    convert(prepared)
    ((_, good),) = walks
    walks.clear()
    strict = {"c1": 1000.0}
    ((twin, measured), *_) = _convert_strictly(prepared, strict, walks)
    keys = [group.key for group in twin.plan.groups]
    assert measured.local == pytest.approx(good.local)
    assert measured.failed == {keys[1]}
    assert list(measured.sqnr) == keys[:1]


def _convert_strictly(
    prepared: PreparedModel, least: dict[str, float], walks: list[tuple[Twin, Measured]]
) -> list[tuple[Twin, Measured]]:
    """Convert with a least ratio of groups by label."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline,
            "_least_ratios",
            lambda plan, *_: {g.key: least.get(g.label, 0.0) for g in plan.groups},
        )
        convert(prepared)
    return walks


def test_a_failed_walk_runs_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine_module, "COMPARED_SAMPLES", 2)
    runs: Counter[tuple[bool, int]] = Counter()
    original = Side.run

    def watched(side: Any, step: int, count: int, watch: Any = None) -> Any:
        floats = not any(node.op == "q.quantize" for node in side.graph.nodes)
        runs[floats, count] += side.segments[step].group is not None
        return original(side, step, count, watch)

    monkeypatch.setattr(Side, "run", watched)
    convert(calibrated(chain(4), count=6), least_local_db=1000.0)
    # Five groups fail at once: the first one at its own step, the others after it.
    assert runs[True, 6] == 1
    assert runs[True, 2] == 4
    assert runs[False, 6] == 0


def test_it_is_repeated_until_no_group_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that fail one after the other, in ever other rounds, all end as float."""
    rounds: list[int] = []
    original = refine

    def one_by_one(twin: Twin, *args: Any, **kwargs: Any) -> Measured:
        measured = original(twin, *args, **kwargs)
        groups = twin.plan.groups
        rounds.append(len(groups))
        return replace(measured, failed={groups[0].key} if groups else set())

    monkeypatch.setattr(pipeline, "refine", one_by_one)
    graph = chain(6)
    prepared = calibrated(graph)
    quantized = convert(prepared)
    assert rounds == [7, 6, 5, 4, 3, 2, 1, 0]
    assert quantized.report.int8_nodes == 0
    feed = feeds(graph, 1)[0]
    (exact,), (found,) = _outputs(graph, feed), _outputs(quantized.graph, feed)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5)


def _outputs(graph: Graph, feed: dict[str, Array]) -> list[Array]:
    return list(evaluate(graph, feed).values())


def test_ranges_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: Counter[str] = Counter()
    original = Calibrator.parameters

    def watched(self: Calibrator, name: str) -> QuantParams:
        searched[name] += 1
        return original(self, name)

    monkeypatch.setattr(Calibrator, "parameters", watched)
    prepared = calibrated(loud_in_the_middle())
    convert(prepared)
    assert set(searched.values()) == {1}
    convert(prepared.calibrate(feeds(prepared.graph, 2)))
    assert set(searched.values()) == {2}
