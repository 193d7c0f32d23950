"""Native code of real models gives the reference's bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.runtime.build import native_backend_name
from tests.differential.models import DIGITS, ZOO, sample, zoo_names
from tests.differential.native import compare_native, runnable_row, with_stored_outputs

SEED = 20261122
SAMPLED = 5
"""How many zoo models each run compares; ``tools/check_native.py`` compares all."""

EMULATED = ("kws_dscnn", "resnet8_cifar10_nhwc")

ABSENT = [pytest.param("none", id="absent")]
NAMES = random.Random(SEED).sample(sorted(zoo_names()), SAMPLED) if ZOO.is_dir() else ABSENT


def check(name: str, row: str, threads: int) -> None:
    model = sample(name, batches=2)
    isa = runnable_row(INSTRUCTION_SETS[row])
    graph = model.numbered(native_backend_name(row))
    for compared in (graph, with_stored_outputs(graph)):
        found = compare_native(compared, isa, model.feeds[:1], threads)
        assert found.outputs == len(compared.outputs)
        assert found.elements > 0
        assert found.differing_bytes == 0


@pytest.mark.parametrize("row", ["x86-avx2", "x86-avxvnni", "x86-avx512vnni"])
def test_digits(row: str) -> None:
    check(DIGITS, row, threads=2)


@pytest.mark.shared
@pytest.mark.parametrize("name", NAMES)
def test_avx2(name: str, zoo: Path) -> None:
    check(name, "x86-avx2", threads=1)


@pytest.mark.shared
@pytest.mark.parametrize("name", EMULATED)
def test_avx512vnni(name: str, zoo: Path) -> None:
    check(name, "x86-avx512vnni", threads=1)
