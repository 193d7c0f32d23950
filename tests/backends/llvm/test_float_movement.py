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
