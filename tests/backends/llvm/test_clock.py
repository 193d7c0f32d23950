"""The form of a segment that counts ticks reads a counter that every process may read."""

from __future__ import annotations

import pytest

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.model import NativeStep
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.runtime.build import backend_of
from tests.runtime.models import small_net

READS = {"x86_64": "rdtsc", "aarch64": "cntvct_el0"}


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_the_counter_is_read_before_and_after_every_call(name: str) -> None:
    isa = INSTRUCTION_SETS[name]
    graph, _ = small_net()
    lower(graph, backend_of(isa).patterns)
    convert_layout(graph)
    model = compile_graph(graph, isa)
    calls = [len(step.calls) for step in model.steps if isinstance(step, NativeStep)]
    assert model.assembly.lower().count(READS[isa.architecture]) == sum(calls) + len(calls)
