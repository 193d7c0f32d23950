"""Random networks: native code gives the reference's bytes, with any number of threads."""

from __future__ import annotations

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet, host_instruction_set
from qcc.backends.x86.config import CONFIG
from qcc.runtime import program
from tests.conformance.random_graphs import RandomNetwork, prepared_network
from tests.conformance.shared_channels import BranchyNetwork


@pytest.fixture(autouse=True)
def _threads_for_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LEAST_MACS", 0)


def check(network: RandomNetwork, steps: int, isa: InstructionSet, threads: int) -> None:
    prepared_network(network, steps, CONFIG).check_here(isa, threads, calls=2)


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
