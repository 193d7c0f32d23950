"""What is kept when qcc itself fails: a folder from which the failure can be repeated."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

_LARGEST_COPY = 64 * 2**20
_PACKAGES = ("qcc", "onnx", "onnxruntime", "numpy", "networkx", "llvmlite")


def write_reproducer(bug: BaseException, arguments: list[str]) -> Path:
    """Write ``qcc-crash-*/`` in the current folder (else the temporary one).

    It holds ``command.txt``, ``traceback.txt``, ``versions.txt`` and copies of the argument files
    up to 64 MiB each; larger files are named but not copied.
    """
    folder = _make_folder()
    (folder / "command.txt").write_text(shlex.join(["qcc", *arguments]) + "\n")
    text = "".join(traceback.format_exception(type(bug), bug, bug.__traceback__))
    (folder / "traceback.txt").write_text(text)
    (folder / "versions.txt").write_text(versions())
    for argument in arguments:
        path = Path(argument)
        if path.is_file() and path.stat().st_size <= _LARGEST_COPY:
            shutil.copy(path, folder / path.name)
    return folder


def _make_folder() -> Path:
    try:
        return Path(tempfile.mkdtemp(prefix="qcc-crash-", dir=Path.cwd()))
    except OSError:
        return Path(tempfile.mkdtemp(prefix="qcc-crash-"))


def versions() -> str:
    """Lines that name Python, the platform and the packages that qcc computes with."""
    lines = [f"python {sys.version.split()[0]} on {platform.platform()}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return "\n".join(lines) + "\n"
