"""Shared libraries from object code, by whatever C compiler there is.

Candidates are tried in order: ``$CC``, the system's compilers (for this machine) or cross
compilers (for another one), and zig, which links for every target and comes from PyPI
(``qcc[cross]``).  Each must link an empty library for the right machine before it is believed in: a
cross compiler may be installed without a C library.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcc.backends.llvm.machine import ELF_MACHINES, host_architecture
from qcc.errors import ConfigError

_LINK = ("-shared", "-Wl,-z,noexecstack", "-Wl,-z,defs")
"""A library without an executable stack and without unknown symbols."""

_ZIG_LIBRARY = "gnu.2.17"
"""The C library that zig links for: the oldest of AArch64, so that all systems have it."""


@dataclass(frozen=True)
class Linker:
    """A C compiler, as words of a command line, that links for one architecture."""

    command: tuple[str, ...]
    architecture: str

    def link(self, object_code: bytes, name: str) -> bytes:
        """The shared library ``name`` (its soname) of an object; ConfigError where that fails."""
        with tempfile.TemporaryDirectory(prefix="qcc-link-") as folder:
            Path(folder, "model.o").write_bytes(object_code)
            done = self._run([*_LINK, f"-Wl,-soname,{name}", "model.o", "-o", "library"], folder)
            if done.returncode != 0:
                reason = done.stderr.strip().replace("\n", "; ")
                raise ConfigError(f"{shlex.join(self.command)} cannot link {name}: {reason}")
            return Path(folder, "library").read_bytes()

    @property
    def works(self) -> bool:
        """Whether an empty library for the architecture can be linked."""
        with tempfile.TemporaryDirectory(prefix="qcc-link-") as folder:
            Path(folder, "empty.c").write_text("")
            try:
                done = self._run([*_LINK, "empty.c", "-o", "library"], folder)
                head = Path(folder, "library").read_bytes()[:20]
            except OSError:
                return False
        machine = int.from_bytes(head[18:20], "little")
        is_elf = done.returncode == 0 and head[:4] == b"\x7fELF"
        return is_elf and machine == ELF_MACHINES[self.architecture]

    def _run(self, words: Sequence[str], folder: str) -> subprocess.CompletedProcess[str]:
        command = [*self.command, *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def find_linker(architecture: str) -> Linker:
    """A linker for ``x86_64`` or ``aarch64`` (Linux); ConfigError where there is none."""
    for command in _candidates(architecture):
        if shutil.which(command[0]) is None:
            continue
        linker = Linker(command, architecture)
        if linker.works:
            return linker
    packages = "gcc" if architecture == host_architecture() else f"gcc-{architecture}-linux-gnu"
    raise ConfigError(
        f"nothing here links a shared library for {architecture} Linux: install a C compiler (such "
        f"as Debian's {packages.replace('_', '-')}), or zig (pip install 'qcc[cross]'), or write a "
        ".o or .a, which needs neither"
    )


def _candidates(architecture: str) -> Iterator[tuple[str, ...]]:
    chosen = os.environ.get("CC", "").split()
    if chosen:
        yield tuple(chosen)
    if architecture == host_architecture():
        yield from (("cc",), ("gcc",), ("clang",))
    for vendor in ("", "unknown-", "redhat-"):
        yield (f"{architecture}-{vendor}linux-gnu-gcc",)
    zig = ("cc", "-target", f"{architecture}-linux-{_ZIG_LIBRARY}", "-s")
    if importlib.util.find_spec("ziglang") is not None:
        yield (sys.executable, "-m", "ziglang", *zig)
    yield ("zig", *zig)
