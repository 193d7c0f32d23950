"""Real models for AArch64 under qemu: every stored value is the reference's and this machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from tests.differential.models import DIGITS, sample
from tests.differential.native import with_stored_outputs
from tests.emulation.comparison import compare_emulated, expectations, region_reasons
from tests.emulation.programs import require_emulator

ROWS = [row for row in INSTRUCTION_SETS.values() if row.architecture == "aarch64"]
NAMES = ("kws_dscnn", "mnist_gru", "silero_vad_16k")
"""Convolutions and a softmax, a GRU, and an LSTM; ``tools/check_emulated.py`` runs all models."""


def check(name: str, feeds: int, threads: int) -> None:
    require_emulator()
    model = sample(name, batches=2)
    graph = with_stored_outputs(model.numbered("arm"))
    compared = model.feeds[:feeds]
    assert not region_reasons(graph, compared[0])
    expected = expectations(graph, compared)
    for isa in ROWS:
        found = compare_emulated(graph, isa, expected, threads)
        assert found.outputs == len(graph.outputs)
        assert found.elements > 0
        assert (found.differing_bytes, found.differing_from_host) == (0, 0), isa.name


def test_digits() -> None:
    check(DIGITS, feeds=2, threads=2)


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_zoo_model(name: str, zoo: Path) -> None:
    check(name, feeds=1, threads=1)
