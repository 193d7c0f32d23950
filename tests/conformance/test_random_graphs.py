"""Random networks: native code gives the reference's bytes, with any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet, host_instruction_set
from qcc.backends.x86.config import CONFIG
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.ref.evaluate import evaluate
from qcc.runtime import program
from tests.conformance.random_graphs import RandomNetwork
from tests.conformance.shared_channels import BranchyNetwork


@pytest.fixture(autouse=True)
def _threads_for_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LEAST_MACS", 0)


def check(network: RandomNetwork, steps: int, isa: InstructionSet, threads: int) -> None:
    graph = network.grow(steps)
    feeds = network.b.feeds()
    report = lower(graph, CONFIG.patterns)
    outline_float(graph, report.refusals)
    assert "q.region" not in {node.op for node in graph.nodes}, report.refusals
    wanted = evaluate(graph, feeds)
    convert_layout(graph)
    native = program.Program(compile_graph(graph, isa), threads)
    for _ in range(2):
        found = native.run([feeds[value.name] for value in graph.inputs])
        for value, array in zip(graph.outputs, found, strict=True):
            assert np.array_equal(wanted[value.name], array), value.name
    native.close()


@pytest.mark.parametrize("seed", range(12))
def test_random_network(seed: int) -> None:
    check(RandomNetwork(seed), 10, host_instruction_set(), 1 + seed % 3)


@pytest.mark.parametrize("seed", range(12))
def test_network_of_branches(seed: int) -> None:
    check(BranchyNetwork(seed), 12, host_instruction_set(), 1 + seed % 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_networks_of_branches(seed: int) -> None:
    names = [name for name in INSTRUCTION_SETS if name.startswith("x86")]
    isa = INSTRUCTION_SETS[names[seed % len(names)]]
    check(BranchyNetwork(seed), 16, isa.for_emulation(), 1 + seed % 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many_random_networks(seed: int) -> None:
    names = [name for name in INSTRUCTION_SETS if name.startswith("x86")]
    isa = INSTRUCTION_SETS[names[seed % len(names)]]
    check(RandomNetwork(seed), 14, isa.for_emulation(), 1 + seed % 2)
