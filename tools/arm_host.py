"""Unpack an AArch64 Debian Python with what qcc needs, so that qcc itself runs as an ARM host.

    python tools/arm_host.py FOLDER
    FOLDER/bin/qcc targets                                  # qcc on an emulated ARM machine
    QEMU_CPU=cortex-a53 FOLDER/bin/qcc run model.qcc --inputs in.npz -o out.npz

``FOLDER/bin/python3`` is Debian's Python under ``qemu-aarch64``; ``QEMU_CPU`` names the CPU, which
is ``max`` otherwise.  Nothing of this system changes: apt gets lists and a package state of its
own, and packages are unpacked, not installed.  Needed are Debian (the Python is that of its
release), qemu-user, and the package mirrors that apt and pip are configured for.  A complete folder
is used again.  onnxruntime is left out: its AArch64 wheel crashes when qemu 7.2 imports it, and
compiled models without float regions run without it.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKER = "arm-host.json"
"""Written last: a folder with it is complete, and was made from the recipe that it names."""

EMULATOR = "qemu-aarch64"
DEBIAN = Path("/etc/debian_version")
DEBIAN_PACKAGES = ("python3", "libstdc++6")
LEFT_OUT = ("onnxruntime",)
PLATFORMS = tuple(f"manylinux_2_{minor}_aarch64" for minor in (34, 31, 28, 27, 26, 24, 17))
MODULES = ("llvmlite.binding", "numpy", "onnx", "networkx", "ml_dtypes", "typer", "rich")
"""What must import in the end."""
OLDEST_PYTHON = 10

FROM_MIRRORS = 900
"""Seconds that apt or pip may take."""


class ArmHostError(Exception):
    """The ARM host cannot be made; one sentence says why and what to do."""


@dataclass(frozen=True)
class ArmHost:
    """A complete folder: Debian's ``python`` version in it, and the commands."""

    folder: Path
    python: str

    def command(self, *arguments: str) -> list[str]:
        """The Python of the folder with these arguments."""
        return [str(self.folder / "bin" / "python3"), *arguments]

    def environment(self, cpu: str = "max") -> dict[str, str]:
        """This process's environment with ``cpu`` and without what is meant for its own Python."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LD_"))}
        # Every thread of a library costs more to start under emulation than it saves.
        return {**kept, "QEMU_CPU": cpu, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


def default_folder() -> Path:
    """``QCC_ARM_HOST``, else ``qcc/arm-host`` in the user's folder of caches."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("QCC_ARM_HOST") or Path(base) / "qcc" / "arm-host")


def prepare(folder: Path) -> ArmHost:
    """The ARM host in ``folder``, made where it is not complete yet (1 to 2 minutes).

    A new one appears whole or not at all.  Raises :class:`ArmHostError`.
    """
    folder = folder.resolve()
    if shutil.which(EMULATOR) is None:
        raise ArmHostError(f"{EMULATOR} is missing: apt-get install qemu-user.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(f".{folder.name}.lock")):
            host = _complete(folder) or _replaced(folder)
            _write_commands(host)
            return host
    except OSError as error:
        raise ArmHostError(f"{folder} cannot be written: {error.strerror or error}.") from None


def requirements() -> list[str]:
    """The project's own, without what does not run under emulation."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = (\[.*?^\])", text, re.MULTILINE | re.DOTALL)
    assert listed is not None, "pyproject.toml has no dependencies"
    return [line for line in ast.literal_eval(listed.group(1)) if not line.startswith(LEFT_OUT)]


def _recipe() -> str:
    """Changes when the folder would become another one."""
    parts = (*DEBIAN_PACKAGES, *PLATFORMS, *requirements())
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _complete(folder: Path) -> ArmHost | None:
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return ArmHost(folder, str(found["python"])) if found["recipe"] == _recipe() else None


def _check_debian() -> None:
    absent = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if absent or not DEBIAN.exists():
        raise ArmHostError(
            "An ARM host is unpacked from Debian's packages, and this system is not Debian"
            f"{' (' + ' and '.join(absent) + ' missing)' if absent else ''}: run this on Debian 12 "
            "or newer, or in a container of it."
        )


def _check_free(folder: Path) -> None:
    """Only an absent or empty folder, or an older ARM host, may be replaced."""
    if folder.exists() and not (folder / MARKER).exists() and any(folder.iterdir()):
        raise ArmHostError(
            f"{folder} holds something else than an ARM host: name another folder, or empty it."
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time makes a folder."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replaced(folder: Path) -> ArmHost:
    _check_debian()
    _check_free(folder)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
    try:
        partial.chmod(0o755)
        python = _fill(partial)
        (partial / MARKER).write_text(json.dumps({"recipe": _recipe(), "python": python}))
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ArmHost(folder, python)


def _fill(folder: Path) -> str:
    """Everything but the marker; gives the version of Python, such as ``3.11``."""
    root = folder / "root"
    with tempfile.TemporaryDirectory(dir=folder, prefix="downloads-") as downloads:
        for package in _fetch_packages(Path(downloads)):
            _run(["dpkg-deb", "-x", str(package), str(root)], "dpkg-deb cannot unpack a package")
    # Where Debian has merged /lib into /usr/lib, no package brings the link.
    for name in ("lib", "bin", "sbin"):
        if not (root / name).exists() and (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")
    python = _python_version(root)
    _fetch_wheels(folder / "packages", python)
    host = ArmHost(folder, python)
    _write_commands(host)
    imports = f"import {', '.join(MODULES)}"
    _run(host.command("-c", imports), "the unpacked Python does not run", host.environment())
    return python


# -- Debian's packages ---------------------------------------------------------------------------


def _fetch_packages(folder: Path) -> list[Path]:
    """Debian's Python for arm64 with all that it depends on, from this system's own mirrors."""
    for name in ("lists/partial", "cache/archives/partial", "log"):
        (folder / name).mkdir(parents=True)
    # With an empty package state everything counts as missing, so apt downloads whole chains.
    (folder / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "30",
        "Debug::NoLocking": "true",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::State::extended_states": folder / "extended_states",
        "Dir::Cache": folder / "cache",
        "Dir::Cache::Archives": folder / "cache" / "archives",
        "Dir::Log": folder / "log",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in settings.items())]
    failed = "Debian's arm64 packages cannot be fetched (look at the network and at apt's sources)"
    words = _run([*apt, "update"], failed)
    install = [*apt, "install", "--yes", "--no-install-recommends", "--download-only"]
    _run([*install, *DEBIAN_PACKAGES], failed, hint=words)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def _python_version(root: Path) -> str:
    names = [path.name for path in (root / "usr" / "bin").glob("python3.*")]
    versions = [name[6:] for name in names if re.fullmatch(r"python3\.\d+", name)]
    if not versions:
        raise ArmHostError("Debian's package python3 brings no Python; run this on Debian 12.")
    found = max(versions, key=lambda version: int(version.split(".")[1]))
    if int(found.split(".")[1]) < OLDEST_PYTHON:
        raise ArmHostError(
            f"This Debian's Python {found} is older than 3.{OLDEST_PYTHON}, which qcc needs: run "
            "this on Debian 12 or newer."
        )
    return found


# -- wheels --------------------------------------------------------------------------------------


def _fetch_wheels(folder: Path, python: str) -> None:
    """The project's dependencies for AArch64, from the index that pip is configured for."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-input"]
    pip += ["--disable-pip-version-check", "--root-user-action=ignore", "--target", str(folder)]
    pip += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    pip += [f"--platform={platform}" for platform in PLATFORMS]
    failed = (
        f"pip cannot fetch the AArch64 wheels of Python {python} (look at the network and at pip's "
        "configuration)"
    )
    _run([*pip, *requirements()], failed)


# -- commands ------------------------------------------------------------------------------------

_COMMAND = """#!/bin/sh
# {what} for AArch64 under {emulator}; QEMU_CPU names the CPU.
here=$(cd "$(dirname "$0")/.." && pwd) || exit 1
PYTHONHOME=$here/root/usr
PYTHONPATH=${{PYTHONPATH:-{source}}}:$here/packages
PYTHONNOUSERSITE=1
QEMU_CPU=${{QEMU_CPU:-max}}
export PYTHONHOME PYTHONPATH PYTHONNOUSERSITE QEMU_CPU
# Processes that Python starts are told this script, since the kernel runs no AArch64 programs.
exec {emulator} -L "$here/root" -0 "$here/bin/python3" "$here/root/usr/bin/python{python}" {rest}
"""


def _write_commands(host: ArmHost) -> None:
    """``bin/python3`` and ``bin/qcc``, which take qcc from here unless PYTHONPATH says where."""
    (host.folder / "bin").mkdir(exist_ok=True)
    commands = {"python3": ("Python", '"$@"'), "qcc": ("qcc", '-m qcc.cli.main "$@"')}
    given = {"emulator": EMULATOR, "python": host.python, "source": shlex.quote(str(ROOT))}
    for name, (what, rest) in commands.items():
        path = host.folder / "bin" / name
        text = _COMMAND.format(what=what, rest=rest, **given)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        fresh = path.with_name(f".{name}")
        fresh.write_text(text, encoding="utf-8")
        fresh.chmod(0o755)
        fresh.rename(path)


def _run(
    command: Sequence[str],
    failed: str,
    environment: Mapping[str, str] | None = None,
    hint: str = "",
) -> str:
    """Run a command; gives what it says on stderr.  Its first error ends the sentence."""
    try:
        done = subprocess.run(
            command,
            env=None if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FROM_MIRRORS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ArmHostError(f"{failed}: {error}.") from None
    said = hint + done.stderr
    if done.returncode:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[EW]:|ERROR:", line)]
        reason = (errors or lines[-1:] or [f"exit code {done.returncode}"])[0]
        raise ArmHostError(f"{failed}: {reason}")
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare the folder; 0 when it is complete, 1 with one sentence otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=default_folder(), help="default: %(default)s"
    )
    chosen = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        host = prepare(chosen.folder)
    except ArmHostError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = time.monotonic() - start
    print(f"{host.folder}/bin/python3 is Python {host.python} for AArch64 ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
