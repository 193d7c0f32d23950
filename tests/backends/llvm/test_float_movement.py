"""Floats that only move: what stands behind the last convolutions of a detector needs no region."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.ir.core import Graph, Value
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.lower.movement import movement_of
from qcc.passes.outline_float import outline_float
from qcc.ref.evaluate import evaluate
from qcc.runtime import program
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


def run(b: Numbered, graph: Graph, threads: int) -> set[str]:
    """Hold native code against the reference; gives the ops that were left before the layout."""
    feeds = b.feeds()
    report = lower(graph, PATTERNS)
    outline_float(graph, report.refusals, has_native_kernel)
    ops = {node.op for node in graph.nodes}
    wanted = evaluate(graph, feeds)
    convert_layout(graph)
    native = program.Program(compile_graph(graph, host_instruction_set()), threads)
    found = native.run([feeds[value.name] for value in graph.inputs])
    native.close()
    for value, array in zip(graph.outputs, found, strict=True):
        assert np.array_equal(wanted[value.name], array), value.name
    return ops


def head(b: Numbered, x: Value, size: int, classes: int) -> Value:
    """Boxes and probabilities of one scale: ``[1, 4 + classes, size * size]``."""
    boxes = b.op("Conv", [x, b.weight((4, 8, 1, 1))], (1, 4, size, size))
    scores = b.op("Conv", [x, b.weight((classes, 8, 1, 1))], (1, classes, size, size))
    chances = b.op("Sigmoid", [scores], (1, classes, size, size))
    both = b.op("Concat", [boxes, chances], (1, 4 + classes, size, size), axis=1)
    shape = (1, 4 + classes, size * size)
    return b.op("Reshape", [both, b.constant(np.array([1, 4 + classes, -1]))], shape)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("classes", [3, 16])
def test_heads_of_a_detector_are_joined_natively(
    classes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "LEAST_MACS", 0)
    b = Numbered()
    sizes = (6, 3)
    heads = [head(b, b.q(b.input(f"x{n}", 1, 8, n, n)), n, classes) for n in sizes]
    boxes = sum(n * n for n in sizes)
    joined = b.op("Concat", heads, (1, 4 + classes, boxes), axis=2)
    turned = b.op("Transpose", [joined], (1, boxes, 4 + classes), perm=[0, 2, 1])
    ops = run(b, b.done(turned), threads)
    assert "q.region" not in ops
    assert "Concat" not in ops


def test_constants_and_dequantized_values_are_joined_natively() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 3, 4, 5))
    token = b.constant(np.arange(40, dtype=np.float32).reshape(2, 1, 4, 5))
    ops = run(b, b.done(b.op("Concat", [token, x, x], (2, 7, 4, 5), axis=-3)), 1)
    assert "q.region" not in ops


def test_a_concat_that_reads_a_region_stays_in_it() -> None:
    b = Numbered()
    x = b.q(b.input("x", 1, 3, 4, 4))
    y = b.op("Erf", [x], (1, 3, 4, 4))
    z = b.op("Concat", [y, x], (1, 6, 4, 4), axis=1)
    graph = b.done(b.op("Erf", [z], (1, 6, 4, 4)))
    ops = run(b, graph, 1)
    assert "q.region" in ops
    assert "q.concat" not in ops


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("quantized", [False, True])
def test_padding_with_elements_is_a_lookup(mode: str, quantized: bool) -> None:
    b = Numbered()
    x = b.input("x", 2, 3, 4, 5)
    y = b.q(x) if quantized else b.op("Relu", [x], (2, 3, 4, 5))
    pads = b.constant(np.array([0, 0, 1, 3, 0, 0, 2, 4]))
    y = b.op("Pad", [y, pads], (2, 3, 7, 12), mode=mode)
    graph = b.done(y if quantized else b.q(y))
    feeds, moved = b.feeds(), graph.clone()
    lower(moved, PATTERNS)
    outline_float(moved)
    for wanted, found in zip(
        evaluate(graph, feeds).values(), evaluate(moved, feeds).values(), strict=True
    ):
        assert np.array_equal(wanted, found)
    ops = run(b, graph, 1)
    assert "q.region" not in ops
    assert "q.gather" in ops


@pytest.mark.parametrize(("mode", "pads"), [("reflect", [0, 4, 0, 0]), ("edge", [0, -1, 0, 2])])
def test_padding_that_no_lookup_gives_stays_float(mode: str, pads: list[int]) -> None:
    b = Numbered()
    x = b.q(b.input("x", 3, 4))
    wide = 4 + pads[1] + pads[3]
    y = b.op("Pad", [x, b.constant(np.array(pads))], (3, wide), mode=mode)
    moves = movement_of(y.producer, y) if y.producer is not None else ()
    assert isinstance(moves, str)
    assert "no integer form" in moves
