"""How fast the inner loops of AArch64 kernels can run, by LLVM's models of CPU cores.

The loops of a matrix product and of a 3x3 convolution are compiled for an instruction set, cut out
of the assembly and given to llvm-mca, which simulates the pipelines of a core (without caches).
The share is that of the multiply instructions' greatest rate on that core, which llvm-mca says of
independent ones.  Cores that issue in order retire in order in its model, too, so that nothing
issues beside a multiplication there: such cores cannot pass ``multiplies / instructions``.

Needs llvm-mca (Debian: llvm-19; older ones know fewer cores).

Example: python tools/arm_throughput.py --out docs/arm_throughput.md
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llvmlite import ir

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel, conv_kernel
from qcc.backends.llvm.kernels.window import Window

CORES = {
    "arm-neon": ("cortex-a53", "cortex-a72"),
    "arm-dotprod": (
        *("cortex-a55", "cortex-a76", "cortex-x1"),
        *("neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2", "apple-m1"),
    ),
    "arm-i8mm": (
        *("cortex-a510", "cortex-a710", "neoverse-n2", "neoverse-v1", "neoverse-v2"),
        *("apple-m2", "ampere1"),
    ),
}
"""Cores that have an instruction set and that LLVM models."""

MULTIPLIES = {
    "arm-neon": ("smull", "smull2", "smlal", "smlal2", "sadalp"),
    "arm-dotprod": ("sdot",),
    "arm-i8mm": ("usmmla",),
}
"""The instructions whose greatest rate bounds the inner loop."""

ALONE = {
    "arm-neon": (
        "smull v{0}.8h, v30.8b, v31.8b",
        "smlal2 v{0}.8h, v30.16b, v31.16b",
        "sadalp v{0}.4s, v30.8h",
    ),
    "arm-dotprod": ("sdot v{0}.4s, v30.16b, v31.4b[0]",),
    "arm-i8mm": ("usmmla v{0}.4s, v30.16b, v31.16b",),
}
"""The same instructions in the proportion in which they are needed, all independent."""

SHAPES = {
    "1x1": (14, 256, 256, 1),
    "3x3": (14, 128, 128, 3),
}
"""Kernel: height and width, input channels, output channels, taps a side."""

ITERATIONS = 400


@dataclass(frozen=True)
class Loop:
    """The instructions of one turn of an inner loop."""

    lines: tuple[str, ...]

    def count(self, names: tuple[str, ...]) -> int:
        """How many of the instructions called ``names`` there are."""
        return sum(line.split()[0] in names for line in self.lines)

    @property
    def spills(self) -> int:
        """Instructions that reach the stack."""
        return sum("[sp" in line for line in self.lines)


def kernel(name: str, isa: InstructionSet) -> ConvKernel:
    """The convolution ``name`` of :data:`SHAPES` with random weights."""
    size, channels, outputs, taps = SHAPES[name]
    pad = taps // 2
    source = ActivationLayout(1, size, size, channels, channels, pad, pad, pad, pad)
    target = ActivationLayout.plain(1, size, size, outputs)
    weight = np.random.default_rng(0).integers(-127, 128, (outputs, channels, taps, taps))
    return conv_kernel(
        source,
        target,
        weight,
        multiplier=1e-4,
        input_zero_point=3,
        window=Window((taps, taps), pads=(pad, pad)),
        least_weight=isa.least_weight,
    )


def inner_loop(assembly: str, names: tuple[str, ...]) -> Loop:
    """The loop with most of the instructions ``names`` whose body is one basic block."""
    found = list(_loops(assembly))
    if not any(loop.count(names) for loop in found):
        raise SystemExit(f"there is no loop with {' or '.join(names)}")
    return max(found, key=lambda loop: loop.count(names))


def _loops(assembly: str) -> Iterator[Loop]:
    blocks = re.split(r"^(\.LBB\d+_\d+):.*", assembly, flags=re.MULTILINE)
    for label, body in zip(blocks[1::2], blocks[2::2], strict=True):
        lines = [line.strip().replace("\t", " ") for line in body.splitlines()]
        lines = [line for line in lines if line and not line.startswith((".", "//"))]
        for end, line in enumerate(lines):
            if line.split()[0].startswith("b") and line.endswith(label):
                # The branch itself is predicted and names a label that the simulator lacks.
                yield Loop(tuple(lines[:end]))
                break


def cycles(tool: str, core: str, isa: InstructionSet, lines: tuple[str, ...]) -> float:
    """Cycles of one turn of a loop on ``core``."""
    command = [tool, f"-mtriple={isa.triple}", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    command.append("-mattr=+dotprod,+i8mm")
    text = "\n".join(lines) + "\n"
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if total is None:
        raise SystemExit(f"llvm-mca refuses the loop for {core}: {done.stderr.strip()[:200]}")
    return int(total.group(1)) / ITERATIONS


def peak(tool: str, core: str, isa: InstructionSet) -> float:
    """Multiply instructions a cycle, by themselves."""
    kinds = ALONE[isa.name]
    lines = tuple(kinds[i % len(kinds)].format(i) for i in range(24))
    return len(lines) / cycles(tool, core, isa, lines)


def assembly(spec: ConvKernel, isa: InstructionSet) -> str:
    """The machine code of one kernel."""
    module = ir.Module(spec.name)
    spec.emit(module, isa, "kernel")
    return machine.compile_module(module, isa).assembly


def table(tool: str, names: list[str]) -> list[str]:
    """A Markdown table: a row for each instruction set, kernel and core."""
    rows = [
        "| instruction set | kernel | multiplies a turn | instructions | spills | core | peak "
        "a cycle | reached a cycle | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        isa, multiplies = INSTRUCTION_SETS[name], MULTIPLIES[name]
        for shape in SHAPES:
            loop = inner_loop(assembly(kernel(shape, isa), isa), multiplies)
            count = loop.count(multiplies)
            about = f"| {name} | {shape} | {count} | {len(loop.lines)} | {loop.spills} "
            for core in CORES[name]:
                best = peak(tool, core, isa)
                reached = count / cycles(tool, core, isa, loop.lines)
                rows.append(
                    f"{about}| {core} | {best:.2f} | {reached:.2f} | {reached / best:.0%} |"
                )
    return rows


def main() -> int:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--isa", action="append", choices=sorted(CORES))
    parser.add_argument("--mca", help="the llvm-mca to use; default: llvm-mca-19, or llvm-mca")
    parser.add_argument("--out", type=Path, help="write the table here instead of printing it")
    arguments = parser.parse_args()
    tool = arguments.mca or shutil.which("llvm-mca-19") or shutil.which("llvm-mca")
    if tool is None:
        raise SystemExit("llvm-mca is not installed: apt-get install llvm-19")
    rows = "\n".join(table(tool, arguments.isa or list(CORES)))
    if arguments.out is None:
        print(rows)
    else:
        arguments.out.write_text(rows + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
