"""What a BackendConfig claims, native code delivers: the reference's bytes for every entry."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet, host_instruction_set
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.backends.x86.config import CONFIG
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.quant.backend_config import BackendPatternConfig
from qcc.ref.evaluate import evaluate
from qcc.runtime import program
from qcc.runtime.program import Program
from tests.conformance.instances import dtype_name, graph_of

ENTRIES = [config for config in CONFIG.patterns if config.lowering is not None]


@pytest.fixture(autouse=True)
def _threads_for_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LEAST_MACS", 0)


def check(config: BackendPatternConfig, isa: InstructionSet, threads: int = 1) -> None:
    graph, builder = graph_of(config)
    feeds = builder.feeds()
    report = lower(graph, CONFIG.patterns)
    assert not report.refusals
    outline_float(graph, report.refusals, has_native_kernel)
    # What follows a float result may stay float; everything else is integer.
    floats = any(dtype_name(d.output) == "float32" for d in config.dtype_configs)
    allowed = {"Add", "Relu", "Clip"} if floats else set()
    assert {node.op for node in graph.nodes if node.domain != "q"} <= allowed
    assert "q.region" not in {node.op for node in graph.nodes}
    wanted = evaluate(graph, feeds)
    convert_layout(graph)
    native = Program(compile_graph(graph, isa), threads)
    found = native.run([feeds[value.name] for value in graph.inputs])
    native.close()
    for value, array in zip(graph.outputs, found, strict=True):
        assert np.array_equal(wanted[value.name], array, equal_nan=True), value.name


@pytest.mark.parametrize("config", ENTRIES, ids=lambda config: config.name)
def test_entry(config: BackendPatternConfig) -> None:
    check(config, host_instruction_set(), threads=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-avxvnni", "x86-avx512vnni"])
@pytest.mark.parametrize("config", ENTRIES, ids=lambda config: config.name)
def test_entry_emulated(config: BackendPatternConfig, name: str) -> None:
    check(config, INSTRUCTION_SETS[name].for_emulation())
