"""Element kernels on AArch64 under emulation, and the machine code of a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.kernels import Kernel
from qcc.backends.llvm.kernels.binary import BinaryKernel
from qcc.backends.llvm.kernels.boundary import DequantizeKernel, QuantizeKernel
from qcc.backends.llvm.kernels.copy import CopyKernel
from qcc.backends.llvm.kernels.elementwise import FloatBinaryKernel, FloatUnaryKernel
from qcc.backends.llvm.kernels.float_softmax import FloatSoftmaxKernel
from qcc.backends.llvm.kernels.formulas import Numbers
from qcc.backends.llvm.kernels.lut import LutKernel
from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.backends.llvm.kernels.pooling import AveragePoolKernel, MaxPoolKernel
from qcc.backends.llvm.kernels.reduce import ReduceMeanKernel
from qcc.backends.llvm.kernels.resize import ResizeLinearKernel
from qcc.backends.llvm.kernels.softmax import SoftmaxKernel
from qcc.backends.llvm.kernels.window import Window
from tests.backends.llvm.kernels.buffers import blank, bytes_of, constants, layout_of
from tests.backends.llvm.native import build, executable_form, run
from tests.emulation.programs import require_emulator

ARM, AVX2 = INSTRUCTION_SETS["arm-dotprod"], INSTRUCTION_SETS["x86-avx2"]
IMAGE = layout_of((1, 20, 9, 11))
POOLED = layout_of((1, 20, 5, 6))
COUNT = 20 * 9 * 11
WINDOW = Window((3, 3), (2, 2), (1, 1), (1, 1))
SCALES = {"input_scale": 0.021, "input_zero_point": 77, "output_scale": 0.019,
          "output_zero_point": 101}  # fmt: skip
CHEAP = Numbers((0.021, 130), (0.013, 101), (0.029, 140))
TIES = Numbers((0.3, 77), (0.3, 0), (0.6, 128))
DIVIDING = ("quantize by division", "float softmax", "float sigmoid")
ROWS, COLUMNS = np.arange(5), np.arange(6)
TABLE = np.random.default_rng(0).integers(0, 256, 256)

CASES: dict[str, tuple[Kernel, Mapping[str, Any], int]] = {
    "quantize": (QuantizeKernel.of(IMAGE, "nchw", 0.02), {"scale": 0.02, "zero_point": 99}, COUNT),
    "quantize by division": (
        QuantizeKernel(IMAGE, "nhwc"), {"scale": 0.02, "zero_point": 99}, COUNT
    ),
    "dequantize": (DequantizeKernel(IMAGE), {"scale": 0.02, "zero_point": 99}, 4 * COUNT),
    "add": (BinaryKernel.of("add", IMAGE, IMAGE, IMAGE, CHEAP), {"numbers": CHEAP}, COUNT),
    "exact add": (BinaryKernel.of("add", IMAGE, IMAGE, IMAGE, TIES), {"numbers": TIES}, COUNT),
    "lut": (LutKernel.between(IMAGE, IMAGE, TABLE), {"table": TABLE}, COUNT),
    "max pool": (MaxPoolKernel(IMAGE, POOLED, WINDOW), {}, 600),
    "average pool": (AveragePoolKernel(IMAGE, POOLED, WINDOW), SCALES, 600),
    "mean": (
        ReduceMeanKernel((99, 20), (0,), dense_view((99, 20), 1), View(0, (0, 1))), SCALES, 20
    ),
    "mean of rows": (
        ReduceMeanKernel((99, 20), (1,), dense_view((99, 20), 1), View(0, (1, 0))), SCALES, 99
    ),
    "linear resize": (
        ResizeLinearKernel.of(IMAGE, POOLED, 0.021, 0.019),
        {**SCALES, "rows": (ROWS, ROWS + 1, ROWS.astype(np.float32) / 9),
         "columns": (COLUMNS, COLUMNS + 2, COLUMNS.astype(np.float32) / 7)},
        600,
    ),
    "softmax": (
        SoftmaxKernel.of((99, 20), dense_view((99, 20), 1), dense_view((99, 20), 1), 1 / 255),
        {"input_scale": 0.04, "output_scale": 1 / 255},
        COUNT,
    ),
    "softmax to float": (
        SoftmaxKernel.of((99, 20), dense_view((99, 20), 1), dense_view((99, 20), 4)),
        {"input_scale": 0.04},
        4 * COUNT,
    ),
    "transpose": (
        CopyKernel((20, 99), View(0, (1, 20)), dense_view((20, 99), 1)), {}, COUNT
    ),
    "float softmax": (
        FloatSoftmaxKernel((99, 20), dense_view((99, 20), 4), dense_view((99, 20), 4)),
        {},
        4 * COUNT,
    ),
    "float sigmoid": (
        FloatUnaryKernel("sigmoid", (99, 20), dense_view((99, 20), 4), dense_view((99, 20), 4)),
        {},
        4 * COUNT,
    ),
    "float maximum": (
        FloatBinaryKernel("maximum", (99, 5), dense_view((99, 5), 4), dense_view((99, 5), 4),
                          dense_view((99, 5), 4)),
        {},
        COUNT,
    ),
}  # fmt: skip


def inputs(kernel: Kernel, packed: Mapping[str, Any]) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    special = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30], np.float32)
    floats = rng.normal(0, 2, COUNT).astype(np.float32)
    floats[:: COUNT // 50] = rng.choice(special, floats[:: COUNT // 50].shape)
    stored = rng.integers(0, 256, COUNT).astype(np.uint8)
    takes_floats = QuantizeKernel | FloatBinaryKernel | FloatUnaryKernel | FloatSoftmaxKernel
    real = isinstance(kernel, takes_floats)
    names = [name for name in kernel.operands[:-1] if name not in packed]
    return {name: bytes_of(np.roll(floats if real else stored, i)) for i, name in enumerate(names)}


@pytest.mark.parametrize("name", ["arm-neon", "arm-dotprod"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_arm_gives_the_bytes_of_x86(case: tuple[Kernel, Mapping[str, Any], int], name: str) -> None:
    require_emulator()
    kernel, arguments, size = case
    results = []
    for isa in (executable_form("x86-avx2"), INSTRUCTION_SETS[name]):
        packed = constants(kernel.pack(isa, **arguments))
        output = blank(size)
        operands = {**inputs(kernel, packed), **packed, kernel.operands[-1]: output}
        run(kernel, isa, operands, 2)
        results.append(output)
    np.testing.assert_array_equal(results[1], results[0])


def text_of(name: str) -> str:
    return build(CASES[name][0], AVX2).assembly


def test_proved_formulas_do_not_divide() -> None:
    for name in ("quantize", "add"):
        assert "vfmadd" in text_of(name)
        assert "vdivps" not in text_of(name)


@pytest.mark.parametrize(
    "name",
    [
        "quantize by division",
        "dequantize",
        "mean",
        "average pool",
        "float softmax",
        "float sigmoid",
    ],
)
def test_the_contract_is_never_contracted(name: str) -> None:
    assert "vfmadd" not in text_of(name)
    assert ("vdivps" in text_of(name)) == (name in DIVIDING)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_called(name: str) -> None:
    assert "callq" not in text_of(name)
    assert "\tbl\t" not in build(CASES[name][0], ARM).assembly
