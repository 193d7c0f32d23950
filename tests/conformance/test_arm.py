"""What the AArch64 BackendConfigs claim, their kernels deliver under qemu, and random networks."""

from __future__ import annotations

import pytest

from qcc.backends.arm import config as arm
from qcc.backends.arm import qnnpack, xnnpack
from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet
from qcc.quant.backend_config import BackendConfig, BackendPatternConfig
from tests.conformance.claims import prepared_claim
from tests.conformance.random_graphs import RandomNetwork, prepared_network
from tests.conformance.shared_channels import BranchyNetwork
from tests.emulation.programs import require_emulator

ROWS = [row for row in INSTRUCTION_SETS.values() if row.architecture == "aarch64"]
ENTRIES = [config for config in arm.CONFIG.patterns if config.lowering is not None]
OTHERS = [
    (backend, config, ROWS[index % len(ROWS)])
    for backend in (qnnpack.CONFIG, xnnpack.CONFIG)
    for index, config in enumerate(backend.patterns)
    if config.weight_role is not None
]
"""Entries whose constraints are stricter than ``arm``'s on what kernels see: their weights.

Each is checked on one row; ``tools/check_emulated.py --patterns`` checks all on all.
"""


@pytest.fixture(autouse=True)
def _emulator() -> None:
    require_emulator()


@pytest.mark.parametrize("config", ENTRIES, ids=lambda config: config.name)
def test_entry(config: BackendPatternConfig) -> None:
    prepared = prepared_claim(arm.CONFIG, config)
    for isa in ROWS:
        prepared.check_emulated(isa, threads=2)


@pytest.mark.parametrize(("backend", "config", "isa"), OTHERS, ids=lambda argument: argument.name)
def test_entry_of_other_numbers(
    backend: BackendConfig, config: BackendPatternConfig, isa: InstructionSet
) -> None:
    prepared_claim(backend, config).check_emulated(isa, threads=1)


@pytest.mark.parametrize("isa", ROWS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("seed", [3, 5, 8])
def test_random_network(seed: int, isa: InstructionSet) -> None:
    networks = (RandomNetwork(seed), BranchyNetwork(seed))
    for network in networks:
        prepared = prepared_network(network, 10, arm.CONFIG)
        prepared.check_emulated(isa, threads=1 + seed % 3, calls=2)
