"""Kernels cross-compiled for AArch64, linked by its C compiler and run under qemu."""

from __future__ import annotations

import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet
from tests.backends.llvm.conv_case import ConvCase, check_conv
from tests.backends.llvm.native import build
from tests.emulation.kernels import run_in_emulator
from tests.emulation.programs import require_emulator

ROWS = [row for row in INSTRUCTION_SETS.values() if row.architecture == "aarch64"]

CASES = {
    "pointwise": ConvCase(channels=33, outputs=65, residual=True),
    "3x3": ConvCase(kernel=(3, 3), pads=(1, 1, 1, 1), channels=16, outputs=31, table=True),
    "taps": ConvCase(kernel=(3, 3), pads=(1, 1, 1, 1), channels=64, outputs=17, extreme=True),
    "least weights": ConvCase(weights=(-128, -128), channels=16, outputs=8, activations=(0, 0)),
    "wide weights": ConvCase(weights=(-255, 255), channels=19, outputs=12, extreme=True),
    "float output": ConvCase(form="float32", outputs=10),
    "float clamp": ConvCase(scale=1e9),
    "depthwise": ConvCase(
        kernel=(3, 3), pads=(1, 1, 1, 1), channels=33, outputs=33, groups=33, depthwise=True
    ),
    "depthwise rows of columns": ConvCase(
        height=7,
        width=8,
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        channels=21,
        outputs=21,
        groups=21,
        depthwise=True,
        residual=True,
        output_zero_point=0,
    ),
    "depthwise wide weights": ConvCase(
        kernel=(3, 3),
        channels=20,
        outputs=20,
        groups=20,
        depthwise=True,
        weights=(-255, 255),
        extreme=True,
    ),
    "depthwise 5x5": ConvCase(
        kernel=(5, 5),
        pads=(2, 2, 2, 2),
        strides=(2, 2),
        channels=16,
        outputs=16,
        groups=16,
        depthwise=True,
    ),
}


@pytest.mark.parametrize("isa", ROWS, ids=[row.name for row in ROWS])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_arm_object_code_gives_the_bytes_of_the_contract(
    case: ConvCase, isa: InstructionSet
) -> None:
    require_emulator()
    check_conv(case, isa, threads=2, runner=run_in_emulator)


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("arm-neon", "sadalp"), ("arm-dotprod", "sdot"), ("arm-i8mm", "usmmla")],
)
def test_the_inner_loop_uses_the_instruction_of_the_row(name: str, instruction: str) -> None:
    from qcc.backends.llvm.kernels.activation import ActivationLayout
    from qcc.backends.llvm.kernels.conv import ConvKernel

    layout = ActivationLayout.plain(1, 8, 8, 64)
    text = build(ConvKernel(layout, layout), INSTRUCTION_SETS[name]).assembly
    assert instruction in text
    assert "fmla" not in text
