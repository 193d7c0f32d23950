"""Lookups by indices that are bounded first, from the graph to native code."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.ir.types import TensorType
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.ref.evaluate import evaluate
from qcc.runtime.program import Program
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


@pytest.mark.parametrize("element", ["int32", "int64"])
@pytest.mark.parametrize("bounds", [(-1, 7), (None, 3), (0, None)])
def test_indices_are_bounded_natively(element: str, bounds: tuple[int | None, ...]) -> None:
    b = Numbered()
    ids = b.graph.add_input("ids", TensorType((2, 9), element))
    limits = [None if v is None else b.constant(np.array(v, element)) for v in bounds]
    while limits[-1] is None:
        limits.pop()
    clip = b.graph.create_node("Clip", [ids, *limits], [TensorType((2, 9), element)], name="clip")
    table = b.constant(b.random.normal(size=(8, 5)).astype(np.float32))
    graph = b.done(b.q(b.op("Gather", [table, clip.output], (2, 9, 5))))
    data = np.arange(-3, 15).reshape(2, 9).astype(element)
    low, high = (-8 if bounds[0] is None else None), (7 if bounds[1] is None else None)
    feeds = {"ids": data if low is high else np.clip(data, low, high).astype(element)}
    wanted = evaluate(graph, feeds)
    report = lower(graph, PATTERNS)
    assert not outline_float(graph, report.refusals, has_native_kernel)
    lowered = evaluate(graph, feeds)
    convert_layout(graph)
    native = Program(compile_graph(graph, host_instruction_set()))
    for (name, array), found in zip(wanted.items(), native.run([feeds["ids"]]), strict=True):
        assert np.array_equal(array, lowered[name])
        assert np.array_equal(array, found)
