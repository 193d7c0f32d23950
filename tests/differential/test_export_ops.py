"""Exported Q/DQ models, op by op in onnxruntime, give what the reference gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcc.backends.onnx.config import CONFIG
from qcc.passes.lower import lower
from qcc.passes.specialize import specialize_graph
from qcc.ref.evaluate import evaluate
from qcc.runtime.op_by_op import Comparison, OpGroup, compare_export, op_groups
from tests.differential.models import DIGITS, sample
from tests.passes.numbered import Numbered

ZOO_SAMPLE = ("resnet20_cifar10", "kws_dscnn", "sww_wakeword", "mobilenet_v1_025_128_imagenet")


def check(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = sample(name, batches=4)
    comparison = compare_export(model.numbered("onnx"), CONFIG.patterns, model.feeds[:1])
    with capsys.disabled():
        print(f"\n{name:32} {comparison.summary}")
    assert comparison.stored
    assert not comparison.refused


def test_digits(capsys: pytest.CaptureFixture[str]) -> None:
    check(DIGITS, capsys)


@pytest.mark.shared
@pytest.mark.parametrize("name", ZOO_SAMPLE)
def test_zoo(name: str, zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, capsys)


def test_the_walk_over_groups_is_the_reference() -> None:
    """Group by group, the reference gives what it gives for the whole lowered model."""
    model = sample(DIGITS, batches=4)
    graph = model.numbered("onnx")
    feed = model.feeds[0]
    (walked,) = compare_export(graph, CONFIG.patterns, [feed]).outputs
    whole = specialize_graph(graph, {name: array.shape for name, array in feed.items()})
    lower(whole, CONFIG.patterns)
    wanted = evaluate(whole, feed)
    assert set(walked) == set(wanted)
    for name, array in wanted.items():
        assert np.array_equal(walked[name], array), name


def branched() -> Numbered:
    """A sum that a Relu (stored) and the caller (float) both read."""
    built = Numbered()
    x = built.input("x", 2, 3)
    left, right = built.q(x), built.q(built.op("Neg", [x], (2, 3)), scale=0.1)
    total = built.op("Add", [left, right], (2, 3))
    result = built.q(built.op("Relu", [total], (2, 3)))
    built.graph.set_outputs([result, total])
    return built


def test_groups_cover_every_node_once_in_order() -> None:
    graph = branched().graph
    made = set(graph.inputs)
    seen: list[str] = []
    for group in op_groups(graph):
        assert set(group.inputs) <= made
        made |= set(group.outputs)
        seen += [node.label for node in group.nodes if node.op != "q.dequantize"]
    assert sorted(seen) == sorted(n.label for n in graph.nodes if n.op != "q.dequantize")
    assert made >= set(graph.outputs)


def test_shared_floats_end_a_group() -> None:
    ops = [tuple(node.op for node in group.nodes) for group in op_groups(branched().graph)]
    assert ("q.dequantize", "q.dequantize", "Add") in ops
    assert ("Relu",) not in ops


def compare_with_wrong_reference(
    monkeypatch: pytest.MonkeyPatch, step: int, error: float
) -> Comparison:
    from qcc.runtime import op_by_op

    right = op_by_op._in_onnxruntime

    def wrong(group: OpGroup, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [
            array + np.float32(error) if array.dtype.kind == "f" else (array + step).astype("uint8")
            for array in right(group, arrays)
        ]

    monkeypatch.setattr(op_by_op, "_in_onnxruntime", wrong)
    feed = {"x": np.linspace(0.5, 1, 6, dtype=np.float32).reshape(2, 3)}
    return compare_export(branched().graph, CONFIG.patterns, [feed])


def test_one_step_is_allowed_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_with_wrong_reference(monkeypatch, 1, 0.0)
    assert comparison.share == 1.0
    assert comparison.worst_steps == 1
    assert not comparison.refused


def test_two_steps_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_with_wrong_reference(monkeypatch, 2, 0.0)
    assert comparison.worst_steps == 2
    assert all(item.is_stored for item in comparison.refused)
    assert len(comparison.refused) == len(comparison.stored)


def test_wrong_floats_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compare_with_wrong_reference(monkeypatch, 0, 1e-3)
    assert [item.is_stored for item in comparison.refused] == [False] * 2
