"""What is kept when qcc itself fails: a folder from which the failure can be repeated."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

COMMAND, TRACEBACK, VERSIONS = "command.txt", "traceback.txt", "versions.txt"
LEFT_OUT = "left-out.txt"
"""What the command read and the folder does not hold, a line each; only where there is something"""

WORDS = (COMMAND, TRACEBACK, VERSIONS, LEFT_OUT)
"""The files of such a folder that are no argument of the command."""

OUTPUT_OPTIONS = ("-o", "--output")

MIB = 2**20
LARGEST_FILE = 64 * MIB
LARGEST_FOLDER = 64 * MIB
MOST_FILES = 1000

_PACKAGES = ("qcc", "onnx", "onnxruntime", "numpy", "networkx", "llvmlite")


def write_reproducer(bug: BaseException, arguments: list[str]) -> Path:
    """Write ``qcc-crash-*/`` in the current folder (else the temporary one); gives its path.

    It holds ``command.txt``, ``traceback.txt``, ``versions.txt`` and copies of what the arguments
    name: files up to 64 MiB each, the first files of a folder up to 64 MiB and 1000 files together,
    and the file of ``module:function``.  ``left-out.txt`` says what was not copied, and why.  The
    folder appears under its name when it is whole.
    """
    partial = _make_folder()
    try:
        (partial / COMMAND).write_text(shlex.join(["qcc", *arguments]) + "\n")
        text = "".join(traceback.format_exception(type(bug), bug, bug.__traceback__))
        (partial / TRACEBACK).write_text(text)
        (partial / VERSIONS).write_text(versions())
        words = dict.fromkeys(_inputs(arguments))
        left_out = [line for word in words for line in _keep(word, partial)]
        if left_out:
            (partial / LEFT_OUT).write_text("\n".join(left_out) + "\n")
        return partial.rename(partial.with_name(partial.name.removeprefix(".")))
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _make_folder() -> Path:
    """A new folder; the dot says that it is not whole yet."""
    try:
        return Path(tempfile.mkdtemp(prefix=".qcc-crash-", dir=Path.cwd()))
    except OSError:
        return Path(tempfile.mkdtemp(prefix=".qcc-crash-"))


def _inputs(arguments: list[str]) -> Iterator[str]:
    """The words, and values of ``--option=value``, that may name something that was read."""
    before = ""
    for word in arguments:
        option, _, value = word.partition("=") if word.startswith("--") else (before, "", word)
        before = word
        if value and option not in OUTPUT_OPTIONS:
            yield value


def _keep(word: str, into: Path) -> Iterator[str]:
    """Copy what ``word`` names, if it names anything; gives a line for all that is left out."""
    source = Path(word)
    if source.is_dir():
        yield from _keep_folder(source, into)
    elif source.is_file():
        yield from _keep_file(source, into, word, LARGEST_FILE)
    elif ":" in word:
        yield from _keep_module(word, into)


def _keep_folder(source: Path, into: Path) -> Iterator[str]:
    """The files right inside, in name order, which are what qcc reads of a folder."""
    target = into / source.resolve().name
    try:
        files = sorted(path for path in source.iterdir() if path.is_file())
        target.mkdir()
    except FileExistsError:
        yield f"{source}: something else that is kept has the same name"
        return
    except OSError as error:
        yield f"{source}: {error.strerror}"
        return
    room = LARGEST_FOLDER
    for path in files[:MOST_FILES]:
        refused = list(_keep_file(path, target, str(path), room))
        yield from refused
        room -= 0 if refused else path.stat().st_size
    if len(files) > MOST_FILES:
        rest = f"{len(files) - MOST_FILES} of its {len(files)} files, from {files[MOST_FILES].name}"
        yield f"{source}: {rest} on: at most {MOST_FILES} files of a folder are kept"


def _keep_file(source: Path, into: Path, name: str, room: int) -> Iterator[str]:
    target = into / source.name
    try:
        size = source.stat().st_size
        if size > room:
            yield f"{name}: {size / MIB:.1f} MiB, and there was room for {room / MIB:.1f} MiB"
        elif target.exists():
            yield f"{name}: something else that is kept has the same name"
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        yield f"{name}: {error.strerror}"


def _keep_module(word: str, into: Path) -> Iterator[str]:
    """The file of ``module:function``, where the module is one file in the current folder."""
    module = word.partition(":")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        return
    source = Path.cwd() / f"{module}.py"
    if source.is_file():
        yield from _keep_file(source, into, word, LARGEST_FILE)
        yield f"{word}: what the function reads and imports (only {source.name} itself is kept)"
    else:
        yield f"{word}: the module is no file of its own in the current folder"


def versions() -> str:
    """Lines that name Python, the platform and the packages that qcc computes with."""
    lines = [f"python {sys.version.split()[0]} on {platform.platform()}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    return "\n".join(lines) + "\n"
