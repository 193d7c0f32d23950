"""What the machine code looks like: the right instructions, nothing spilled, nothing fused."""

from __future__ import annotations

import re

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel
from qcc.backends.llvm.kernels.depthwise import DepthwiseKernel
from qcc.backends.llvm.kernels.epilogue import Epilogue
from qcc.backends.llvm.kernels.window import Window
from tests.backends.llvm.native import build

LAYOUT = ActivationLayout.plain(1, 8, 9, 64)


def loops(assembly: str, instruction: str) -> list[str]:
    """Basic blocks that jump back to their own beginning and contain ``instruction``."""
    blocks = re.split(r"^(\.LBB\d+_\d+):", assembly, flags=re.MULTILINE)
    found = []
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        back = re.search(rf"^\tj\w+\t{re.escape(label)}$", body, re.MULTILINE)
        if back and instruction in body[: back.start()]:
            found.append(body[: back.start()])
    return found


@pytest.mark.parametrize(
    ("isa", "instruction", "safe_pairs"),
    [
        ("x86-avx2", "vpmaddwd", False),
        ("x86-avx2", "vpmaddubsw", True),
        ("x86-avxvnni", "vpdpbusd", False),
        ("x86-avx512vnni", "vpdpbusd", False),
    ],
)
def test_inner_loops_keep_their_accumulators_in_registers(
    isa: str, instruction: str, safe_pairs: bool
) -> None:
    kernel = ConvKernel(LAYOUT, LAYOUT, safe_pairs=safe_pairs)
    found = loops(build(kernel, INSTRUCTION_SETS[isa]).assembly, instruction)
    assert found
    for body in found:
        assert "sp)" not in body


def test_the_avx512_row_works_on_whole_vectors() -> None:
    text = build(ConvKernel(LAYOUT, LAYOUT), INSTRUCTION_SETS["x86-avx512vnni"]).assembly
    assert re.search(r"vpdpbusd\t.*%zmm", text)
    assert re.search(r"vpdpbusd\t.*%ymm", text) is None


@pytest.mark.parametrize("isa", ["x86-avx2", "x86-avx512vnni"])
def test_multiplications_and_additions_are_never_fused(isa: str) -> None:
    kernel = ConvKernel(LAYOUT, LAYOUT, epilogue=Epilogue(residual=LAYOUT))
    text = build(kernel, INSTRUCTION_SETS[isa]).assembly
    assert "vaddps" in text
    assert "vmulps" in text
    assert "vfm" not in text


def test_depthwise_on_avx2_spills_next_to_nothing() -> None:
    layout = ActivationLayout(1, 14, 14, 64, 64, 1, 1, 1, 1)
    kernel = DepthwiseKernel(layout, layout, Window((3, 3), pads=(1, 1)))
    found = loops(build(kernel, INSTRUCTION_SETS["x86-avx2"]).assembly, "vpmaddwd")
    assert found
    for body in found:
        spilled = [line for line in body.splitlines() if "sp)" in line and "ymm" in line]
        assert len(spilled) <= 4, "two of the eight accumulators may pass through memory"


def test_equal_modules_give_equal_object_code() -> None:
    isa = INSTRUCTION_SETS["x86-avx2"]
    first, second = (build(ConvKernel(LAYOUT, LAYOUT), isa).object_code for _ in range(2))
    assert first == second


def test_generated_code_calls_nothing() -> None:
    text = build(ConvKernel(LAYOUT, LAYOUT), INSTRUCTION_SETS["x86-avx2"]).assembly
    assert re.search(r"^\tcall", text, re.MULTILINE) is None
