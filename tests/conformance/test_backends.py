"""What a BackendConfig claims, native code delivers: the reference's bytes for every entry."""

from __future__ import annotations

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.x86.config import CONFIG
from qcc.quant.backend_config import BackendPatternConfig
from qcc.runtime import program
from tests.conformance.claims import check_claim

ENTRIES = [config for config in CONFIG.patterns if config.lowering is not None]


@pytest.fixture(autouse=True)
def _threads_for_small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "LEAST_MACS", 0)


@pytest.mark.parametrize("config", ENTRIES, ids=lambda config: config.name)
def test_entry(config: BackendPatternConfig) -> None:
    check_claim(CONFIG, config, host_instruction_set(), threads=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x86-avxvnni", "x86-avx512vnni"])
@pytest.mark.parametrize("config", ENTRIES, ids=lambda config: config.name)
def test_entry_emulated(config: BackendPatternConfig, name: str) -> None:
    check_claim(CONFIG, config, INSTRUCTION_SETS[name].for_emulation())
