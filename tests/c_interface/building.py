"""Building C programs around compiled models and running them, here or in an emulator."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcc.ir.core import Array
from qcc.runtime.executable import Executable
from tests.emulation.programs import COMPILER, EMULATOR, LEAST_CPU

DRIVER = Path(__file__).with_name("driver.c")
STRICT = ("-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True)
class Machine:
    """How to build and run for one instruction set: natively, or by a cross compiler and qemu."""

    compiler: str
    flags: tuple[str, ...]
    emulator: tuple[str, ...]

    @staticmethod
    def of(target: str) -> Machine:
        """For the name of an instruction set."""
        if not target.startswith("arm-"):
            return Machine("cc", (), ())
        return Machine(COMPILER, ("-static",), (EMULATOR, "-cpu", LEAST_CPU[target]))

    def build(self, folder: Path, sources: Sequence[str], output: str, *flags: str) -> None:
        """Compile and link ``sources`` in ``folder``."""
        command = [self.compiler, *self.flags, "-O1", "-g", *flags, *sources, "-o", output]
        done = subprocess.run(
            [*command, "-pthread"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def run(self, folder: Path, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a program in ``folder``, which must end with ``code``."""
        done = subprocess.run(
            [*self.emulator, *command],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done


def write_feeds(executable: Executable, feeds: Mapping[str, Array], folder: Path) -> list[str]:
    """Files of the inputs in order; their names."""
    names = []
    for index, spec in enumerate(executable.inputs):
        names.append(f"input{index}.bin")
        np.ascontiguousarray(feeds[spec.name]).tofile(folder / names[-1])
    return names


def output_names(executable: Executable) -> list[str]:
    """Names of the files that outputs are written to."""
    return [f"output{index}.bin" for index in range(len(executable.outputs))]


def assert_outputs(executable: Executable, wanted: Mapping[str, Array], folder: Path) -> None:
    """The files hold the very bytes of ``wanted``."""
    for name, spec in zip(output_names(executable), executable.outputs, strict=True):
        assert (folder / name).read_bytes() == wanted[spec.name].tobytes(), spec.name


def build_driver(machine: Machine, folder: Path, stem: str = "model", *flags: str) -> None:
    """The program ``driver`` around ``stem.o`` with its header."""
    names = [f"-DNAME={stem}", f"-DCAPITALS={stem.upper()}", f'-DHEADER="{stem}.h"', "-I."]
    if (folder / f"{stem}.weights").exists():
        names.append(f'-DWEIGHTS="{stem}.weights"')
    machine.build(folder, [str(DRIVER), f"{stem}.o"], "driver", *STRICT, *names, *flags)


@dataclass(frozen=True)
class Driving:
    """Arguments of the driver."""

    side: str = "end"
    fill: int = 0xA5
    threads: int = 1
    repeats: int = 1
    workspaces: int = 1
    align: int = 0

    @property
    def words(self) -> list[str]:
        """As the command line takes them."""
        numbers = (self.fill, self.threads, self.repeats, self.workspaces, self.align)
        return [self.side, *map(str, numbers)]


def drive(
    machine: Machine,
    executable: Executable,
    feeds: Mapping[str, Array],
    wanted: Mapping[str, Array],
    folder: Path,
    how: Driving,
) -> None:
    """Run the driver on ``feeds`` and hold its outputs against ``wanted``."""
    files = [*write_feeds(executable, feeds, folder), *output_names(executable)]
    machine.run(folder, "./driver", *how.words, *files)
    assert_outputs(executable, wanted, folder)
