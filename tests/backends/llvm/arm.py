"""Run kernels for AArch64 on this machine: linked by a cross compiler, executed by qemu."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import READ_SLACK, Kernel
from tests.backends.llvm.native import Bytes, build

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"

LEAST_CPU = {"arm-neon": "cortex-a53", "arm-dotprod": "neoverse-n1", "arm-i8mm": "max"}
"""An emulated CPU that has what a row needs and, where there is one, nothing better."""

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


def require_emulator() -> None:
    """Skip the test where the tools are missing; fail it where ``QCC_REQUIRE_ARM=1``."""
    missing = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if not missing:
        return
    if os.environ.get("QCC_REQUIRE_ARM") == "1":
        pytest.fail(f"QCC_REQUIRE_ARM=1, but {missing} are not installed")
    pytest.skip(f"{missing} are not installed")


def run_in_emulator(
    kernel: Kernel,
    isa: InstructionSet,
    operands: Mapping[str, Bytes],
    threads: int,
    folder: Path,
) -> None:
    """Call ``kernel`` once a thread, one after the other; its last operand is its output."""
    names = kernel.operands
    (folder / "kernel.o").write_bytes(build(kernel, isa).object_code)
    source = _DRIVER.format(
        parameters=", ".join(["void *"] * len(names) + ["int", "int"]),
        arguments=", ".join(f"buffer[{i}]" for i in range(len(names))),
        count=len(names),
        sizes=", ".join(str(operands[name].size) for name in names),
        slack=READ_SLACK,
        threads=threads,
    )
    (folder / "driver.c").write_text(source)
    (folder / "in").write_bytes(b"".join(operands[name].tobytes() for name in names))
    link = [COMPILER, "-O1", "-static", "driver.c", "kernel.o", "-o", "program"]
    subprocess.run(link, cwd=folder, check=True)
    emulate = [EMULATOR, "-cpu", LEAST_CPU[isa.name], "program", "in", "out"]
    subprocess.run(emulate, cwd=folder, check=True)
    operands[names[-1]][:] = np.fromfile(folder / "out", np.uint8)
