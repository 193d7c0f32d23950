"""What can be replayed and reduced: a case of the fuzzer, or a folder that ``qcc`` left.

Both are a model with something that fails on it.  :func:`open_subject` tells them apart by what
lies in the folder (``case.json`` or ``command.txt``).
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from qcc.cli.crash import COMMAND, OUTPUT_OPTIONS, TRACEBACK, VERSIONS, WORDS, versions
from tests.fuzzing.cases import Case, Failure, failure_of, load_case, save_case

BUG = 3
"""The exit code of ``qcc`` that says: a bug in qcc."""


@dataclass(frozen=True)
class Command:
    """A command line of ``qcc`` and the files that it was given, by base name.

    Those of a folder have its name in front: ``photos/1.png``.
    """

    arguments: tuple[str, ...]
    files: tuple[tuple[str, bytes], ...]

    @property
    def model_name(self) -> str | None:
        """The base name of the float model among the files, if there is one."""
        return next((name for name, _ in self.files if name.endswith(".onnx")), None)

    def with_model(self, model: bytes) -> Command:
        """The same command on another model."""
        name = self.model_name
        return replace(self, files=tuple((n, model if n == name else d) for n, d in self.files))


Subject: TypeAlias = "Case | Command"


def open_subject(path: Path) -> Subject:
    """The subject in a folder, or in the folder of a file; ValueError in one sentence."""
    folder = path if path.is_dir() else path.parent
    if (folder / "case.json").is_file():
        return load_case(folder)
    if (folder / COMMAND).is_file():
        return _load_command(folder)
    raise ValueError(f"{folder} holds neither case.json (of fuzz) nor command.txt (of qcc)")


def fails(subject: Subject) -> Failure | None:
    """What goes wrong with the subject now, if anything."""
    return failure_of(subject) if isinstance(subject, Case) else _run_command(subject)


def save_subject(subject: Subject, folder: Path, failure: Failure) -> None:
    """Write the subject so that :func:`open_subject` reads it again."""
    if isinstance(subject, Case):
        save_case(subject, folder, failure)
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / COMMAND).write_text(shlex.join(["qcc", *subject.arguments]) + "\n")
    (folder / TRACEBACK).write_text(f"{failure.message}\n{failure.details}")
    (folder / VERSIONS).write_text(versions())
    _write_files(subject, folder)


# -- commands --------------------------------------------------------------------------------------


def _load_command(folder: Path) -> Command:
    words = shlex.split((folder / COMMAND).read_text())
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    names = sorted(name for name in found if name not in WORDS)
    return Command(tuple(words[1:]), tuple((name, found[name].read_bytes()) for name in names))


def _write_files(command: Command, folder: Path) -> None:
    for name, data in command.files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)


def _run_command(command: Command) -> Failure | None:
    """Run the command in an empty folder on its own files; a refusal is no failure."""
    with tempfile.TemporaryDirectory(prefix="qcc-replay-") as place:
        _write_files(command, Path(place))
        words = [sys.executable, "-m", "qcc.cli.main", *_moved(command)]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
        details = "".join(p.read_text() for p in Path(place).glob(f"qcc-crash-*/{TRACEBACK}"))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Failure(f"the command was killed by {name}", done.stderr)
    if done.returncode != BUG:
        return None
    return Failure(details.strip().rsplit("\n", 1)[-1] or "a bug in qcc", details or done.stderr)


def _moved(command: Command) -> list[str]:
    """The arguments with files taken from the current folder and outputs written there."""
    known = {name.partition("/")[0] for name, _ in command.files}
    moved: list[str] = []
    before = ""
    for word in command.arguments:
        option, equals, value = word.partition("=") if word.startswith("--") else (before, "", word)
        name, before = Path(value).name, word
        if name and (option in OUTPUT_OPTIONS or name in known):
            moved.append(f"{option}={name}" if equals else name)
        else:
            moved.append(word)
    return moved
