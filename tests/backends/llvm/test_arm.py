"""Kernels cross-compiled for AArch64, linked by its C compiler and run under qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet
from qcc.backends.llvm.kernels import READ_SLACK, Kernel
from tests.backends.llvm.conv_case import ConvCase, check_conv
from tests.backends.llvm.native import Bytes, build

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
ARM = INSTRUCTION_SETS["arm-dotprod"]

CASES = {
    "pointwise": ConvCase(channels=33, outputs=65, residual=True),
    "3x3": ConvCase(kernel=(3, 3), pads=(1, 1, 1, 1), channels=16, outputs=31, table=True),
    "taps": ConvCase(kernel=(3, 3), pads=(1, 1, 1, 1), channels=64, outputs=17, extreme=True),
    "float output": ConvCase(form="float32", outputs=10),
    "float clamp": ConvCase(scale=1e9),
    "depthwise": ConvCase(
        kernel=(3, 3), pads=(1, 1, 1, 1), channels=33, outputs=33, groups=33, depthwise=True
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

_DRIVER = """
#include <stdio.h>
#include <stdlib.h>
void kernel({parameters});
int main(int argc, char **argv) {{
  unsigned char *buffer[{count}];
  long size[] = {{{sizes}}};
  FILE *file = fopen(argv[1], "rb");
  for (int i = 0; i < {count}; i++) {{
    buffer[i] = aligned_alloc(64, (size[i] + {slack} + 63) / 64 * 64);
    if (fread(buffer[i], 1, size[i], file) != size[i]) return 1;
  }}
  fclose(file);
  for (int tid = 0; tid < {threads}; tid++) kernel({arguments}, tid, {threads});
  file = fopen(argv[2], "wb");
  fwrite(buffer[{count} - 1], 1, size[{count} - 1], file);
  return fclose(file);
}}
"""


@pytest.fixture
def emulator() -> None:
    missing = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if not missing:
        return
    if os.environ.get("QCC_REQUIRE_ARM") == "1":
        pytest.fail(f"QCC_REQUIRE_ARM=1, but {missing} are not installed")
    pytest.skip(f"{missing} are not installed")


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_arm_object_code_gives_the_bytes_of_the_contract(case: ConvCase, tmp_path: Path) -> None:
    def run_in_emulator(
        kernel: Kernel, isa: InstructionSet, operands: Mapping[str, Bytes], threads: int
    ) -> None:
        names = kernel.operands
        (tmp_path / "kernel.o").write_bytes(build(kernel, isa).object_code)
        source = _DRIVER.format(
            parameters=", ".join(["void *"] * len(names) + ["int", "int"]),
            arguments=", ".join(f"buffer[{i}]" for i in range(len(names))),
            count=len(names),
            sizes=", ".join(str(operands[name].size) for name in names),
            slack=READ_SLACK,
            threads=threads,
        )
        (tmp_path / "driver.c").write_text(source)
        (tmp_path / "in").write_bytes(b"".join(operands[name].tobytes() for name in names))
        link = [COMPILER, "-O1", "-static", "driver.c", "kernel.o", "-o", "program"]
        subprocess.run(link, cwd=tmp_path, check=True)
        subprocess.run([EMULATOR, "-cpu", "max", "program", "in", "out"], cwd=tmp_path, check=True)
        assert names[-1] == "output"
        operands["output"][:] = np.fromfile(tmp_path / "out", np.uint8)

    check_conv(case, ARM, threads=2, runner=run_in_emulator)


def test_the_inner_loop_uses_the_dot_product() -> None:
    from qcc.backends.llvm.kernels.activation import ActivationLayout
    from qcc.backends.llvm.kernels.conv import ConvKernel

    layout = ActivationLayout.plain(1, 8, 8, 64)
    text = build(ConvKernel(layout, layout), ARM).assembly
    assert "sdot" in text
    assert "fmla" not in text
