"""Object code with the functions of a compiled model, linked for AArch64 and run under qemu.

One driver (``driver.c``) is compiled once; every program is a shared library that it loads, so a
start of the emulator serves any number of programs and calls.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.isa import InstructionSet
from tests.required import skip_unless_required

Bytes = NDArray[np.uint8]

COMPILER, LINKER, EMULATOR = "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-ld", "qemu-aarch64"
LIBRARIES = "/usr/aarch64-linux-gnu"
"""Where Debian's cross compiler has the C library that programs are linked with."""

LEAST_CPU = {"arm-neon": "cortex-a53", "arm-dotprod": "neoverse-n1", "arm-i8mm": "max"}
"""An emulated CPU that has what a row needs and, where there is one, nothing better."""

_FAULT = np.dtype((np.int64, 2))


class EmulationError(AssertionError):
    """The emulated process did not end well: a forbidden access, an unknown instruction, ..."""


@dataclass(frozen=True)
class EmulatedProgram:
    """What the driver needs: code, memory, and the bytes of the inputs of every call.

    ``symbols`` are the functions of the steps, as :class:`qcc.backends.llvm.model.NativeStep` says;
    ``output_bytes`` the sizes of the outputs, None where no step writes one.  Every input and
    output lies directly before a page that must not be touched.
    """

    object_code: bytes
    symbols: tuple[str, ...]
    calls: Sequence[Sequence[Bytes]]
    output_bytes: tuple[int | None, ...]
    weights: Bytes
    arena_bytes: int
    threads: int = 1


@dataclass(frozen=True)
class EmulatedCall:
    """What a call gave: the two words of its fault (0, 0) and the bytes of every output."""

    fault: tuple[int, int]
    outputs: tuple[Bytes | None, ...]


@functools.cache
def missing_tools() -> list[str]:
    """Names of the tools that are not installed."""
    return [tool for tool in (COMPILER, LINKER, EMULATOR) if shutil.which(tool) is None]


def require_emulator() -> None:
    """Skip the test where the tools are missing; fail it where a row of AArch64 is required."""
    missing = missing_tools()
    if missing:
        skip_unless_required(LEAST_CPU, f"{missing} are not installed")


@functools.cache
def _driver() -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    """The driver, compiled, and the folder that holds it until this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="qcc-emulation-")
    program = Path(folder.name) / "driver"
    source = Path(__file__).with_name("driver.c")
    command = [COMPILER, "-O2", "-pthread", str(source), "-o", str(program)]
    # What kernels call of the C library has to be there when they are loaded.
    subprocess.run([*command, "-Wl,--no-as-needed", "-lm"], check=True)
    return program, folder


def run_programs(
    programs: Sequence[EmulatedProgram],
    isa: InstructionSet,
    cpu: str | None = None,
    seconds: float | None = 300,
) -> list[list[EmulatedCall]]:
    """All calls of all programs, in order, in one process on the least CPU that has ``isa``.

    ``cpu`` names another one; the process gets ``seconds``.  Raises :class:`EmulationError`.
    """
    driver, _ = _driver()
    with tempfile.TemporaryDirectory(prefix="qcc-emulated-") as name:
        folder = Path(name)
        words = [str(len(programs))]
        for index, program in enumerate(programs):
            words += _written(program, index, folder)
        (folder / "job").write_text("\n".join(words))
        command = [EMULATOR, "-cpu", cpu or LEAST_CPU[isa.name], "-L", LIBRARIES, str(driver)]
        try:
            done = subprocess.run(
                [*command, "job"], cwd=folder, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise EmulationError(f"{isa.name}: no end after {seconds} s") from error
        if done.returncode != 0:
            raise EmulationError(f"{isa.name}: exit code {done.returncode}: {done.stderr.strip()}")
        return [_read(program, folder / f"out{i}") for i, program in enumerate(programs)]


def _written(program: EmulatedProgram, index: int, folder: Path) -> list[str]:
    """Put a program's files into ``folder``; the words that describe it."""
    names = [f"{kind}{index}" for kind in ("object", "library", "weights", "in", "out")]
    code, library, weights, source, target = names
    (folder / code).write_bytes(program.object_code)
    subprocess.run([LINKER, "-shared", code, "-o", library], cwd=folder, check=True)
    (folder / weights).write_bytes(program.weights.tobytes())
    with (folder / source).open("wb") as file:
        for call in program.calls:
            for array in call:
                file.write(array.tobytes())
    sizes = [array.size for array in program.calls[0]] if program.calls else []
    outputs = [-1 if size is None else size for size in program.output_bytes]
    words = (
        *(f"./{library}", weights, program.weights.size, program.arena_bytes),
        *(program.threads, len(program.calls)),
        *(len(program.symbols), *program.symbols),
        *(len(sizes), *sizes),
        *(len(outputs), *outputs),
        *(source, target),
    )
    return list(map(str, words))


def _read(program: EmulatedProgram, path: Path) -> list[EmulatedCall]:
    found = np.fromfile(path, np.uint8)
    calls, at = [], 0
    for _ in program.calls:
        rows, index = found[at : at + _FAULT.itemsize].view(np.int64)
        at += _FAULT.itemsize
        outputs: list[Bytes | None] = []
        for size in program.output_bytes:
            outputs.append(None if size is None else found[at : at + size])
            at += size or 0
        calls.append(EmulatedCall((int(rows), int(index)), tuple(outputs)))
    if at != found.size:
        raise EmulationError(f"{found.size} bytes of outputs instead of {at}")
    return calls
