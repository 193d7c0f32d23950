"""What the inner loops of AArch64 look like: the right instructions, and nothing spilled."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel
from qcc.backends.llvm.kernels.conv_plan import ConvPlan
from qcc.backends.llvm.kernels.depthwise import DepthwiseKernel
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.schedule import Inner, candidates
from tests.backends.llvm.native import build

INSTRUCTIONS = {
    "arm-neon": ("smull", "smlal2", "sadalp"),
    "arm-dotprod": ("sdot",),
    "arm-i8mm": ("usmmla",),
}
MOST_LOADED = 30
"""Registers from which on a tile is worth a look."""


def loops(assembly: str, instructions: tuple[str, ...]) -> list[str]:
    """Basic blocks that branch back to their own beginning and contain all ``instructions``."""
    blocks = re.split(r"^(\.LBB\d+_\d+):", assembly, flags=re.MULTILINE)
    found = []
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        back = re.search(rf"^\tb\.\w+\t{re.escape(label)}$", body, re.MULTILINE)
        inside = "" if back is None else body[: back.start()]
        if back and all(f"\t{name}\t" in inside for name in instructions):
            found.append(inside)
    return found


def kernel(taps: int, channels: int = 64, outputs: int = 96) -> ConvKernel:
    """A convolution of ``taps`` by ``taps`` over 14 by 14 pixels."""
    pad = taps // 2
    source = ActivationLayout(1, 14, 14, channels, channels, pad, pad, pad, pad)
    target = ActivationLayout.plain(1, 14, 14, outputs)
    return ConvKernel(source, target, Window((taps, taps), pads=(pad, pad)))


def with_tile(kernel: ConvKernel, isa: InstructionSet, tile: tuple[int, int]) -> ConvKernel:
    """The same with another tile."""
    cut = ConvPlan.of(kernel, isa).schedule
    return replace(kernel, schedule=replace(cut, rows=tile[0], vectors=tile[1]))


def full_tiles(isa: InstructionSet, inner: Inner) -> list[tuple[int, int]]:
    """Tiles to which no row and no vector can be added."""
    tiles = set(candidates(isa, inner))
    wider = {1: 2, 2: 3, 3: 4, 4: 6, 6: 8, 8: 0}
    return sorted(t for t in tiles if not {(t[0] + 1, t[1]), (t[0], wider[t[1]])} & tiles)


@pytest.mark.parametrize("name", INSTRUCTIONS)
@pytest.mark.parametrize("taps", [1, 3])
def test_inner_loops_keep_everything_in_registers(name: str, taps: int) -> None:
    isa, spec = INSTRUCTION_SETS[name], kernel(taps)
    inner = ConvPlan.of(spec, isa).inner
    tiles = [t for t in full_tiles(isa, inner) if 14 * 14 % t[0] == 0 or t[0] > 2]
    assert tiles
    for tile in tiles:
        found = loops(build(with_tile(spec, isa, tile), isa).assembly, INSTRUCTIONS[name])
        assert found, tile
        for body in found:
            assert "[sp" not in body, tile


@pytest.mark.parametrize("name", ["arm-dotprod", "arm-i8mm"])
def test_most_of_what_an_inner_loop_does_is_multiply(name: str) -> None:
    isa = INSTRUCTION_SETS[name]
    instruction = INSTRUCTIONS[name][0]
    bodies = loops(build(kernel(1, 256, 256), isa).assembly, (instruction,))
    shares = []
    for body in bodies:
        lines = [line for line in body.splitlines() if re.match(r"\t\w", line)]
        shares.append(sum(instruction in line for line in lines) / len(lines))
    assert max(shares) > 0.6


def test_a_product_of_one_row_takes_no_pairs_of_rows() -> None:
    isa = INSTRUCTION_SETS["arm-i8mm"]
    row, result = ActivationLayout.plain(1, 1, 1, 256), ActivationLayout.plain(1, 1, 1, 64)
    text = build(ConvKernel(row, result), isa).assembly
    assert "usmmla" not in text
    assert re.search(r"(usdot|sudot)\t", text)


def test_two_weights_of_minus_128_never_meet_in_16_bits() -> None:
    isa = INSTRUCTION_SETS["arm-neon"]
    assert isa.least_weight == -127
    assert all(row.least_weight == -128 for row in INSTRUCTION_SETS.values() if row is not isa)
    assert 2 * 128 * -isa.least_weight <= np.iinfo(np.int16).max


@pytest.mark.parametrize("name", INSTRUCTIONS)
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_tiles_spill_next_to_nothing(name: str, taps: int, stride: int) -> None:
    pad = taps // 2
    source = ActivationLayout(1, 28, 28, 64, 64, pad, pad, pad, pad)
    target = ActivationLayout.plain(1, 28 // stride, 28 // stride, 64)
    window = Window((taps, taps), (stride, stride), pads=(pad, pad))
    text = build(DepthwiseKernel(source, target, window), INSTRUCTION_SETS[name]).assembly
    spilled = [line for line in text.splitlines() if re.search(r"\tq\d+.*\[sp", line)]
    assert len(spilled) <= (8 if taps == 3 and name != "arm-neon" else 40)
