"""Float32 graphs for AArch64 under qemu: every bit is the reference's and this machine's."""

from __future__ import annotations

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.ir.core import Graph
from qcc.onnxio import read_onnx
from qcc.pipeline import keep_float
from tests.differential.models import DIGITS, Feeds, sample
from tests.differential.test_float_graphs import Network
from tests.emulation.comparison import compare_emulated, expectations, region_reasons
from tests.emulation.programs import require_emulator

ROWS = ["arm-neon", "arm-dotprod"]


def check(graph: Graph, feeds: list[Feeds], row: str, threads: int) -> None:
    require_emulator()
    assert not region_reasons(graph, feeds[0], floats=True)
    expected = expectations(graph, feeds, floats=True)
    found = compare_emulated(graph, INSTRUCTION_SETS[row], expected, threads, floats=True)
    assert found.elements > 0
    assert (found.differing_bytes, found.differing_from_host) == (0, 0)


@pytest.mark.parametrize("row", ROWS)
def test_a_model_in_float32(row: str) -> None:
    model = sample(DIGITS, batches=2)
    check(keep_float(read_onnx(model.path)), list(model.feeds), row, threads=2)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("seed", range(4))
def test_random_float_networks(seed: int, row: str) -> None:
    network = Network(seed)
    graph = network.grow(9)
    check(graph, [network.feeds(1.0)], row, threads=1 + seed % 3)
