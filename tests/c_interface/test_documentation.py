"""The commands of ``docs/c-interface.md`` do what the page says."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulation.programs import require_emulator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "c-interface.md"

_BLOCK = re.compile(r"(?:`(?P<name>\w+\.c)`[^\n]*\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)```\n", re.S)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def blocks() -> Iterator[tuple[str, str, str]]:
    """Kind, text and file name (for C) of the page's blocks."""
    for found in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        yield found["kind"], found["text"], found["name"] or ""


def alike(expected: str, found: str) -> bool:
    """Equal but for numbers, which calibration on another CPU may change a little."""
    numbers = [list(map(float, _NUMBER.findall(text))) for text in (expected, found)]
    words = [_NUMBER.sub("#", text).split() for text in (expected, found)]
    return words[0] == words[1] and all(
        abs(a - b) <= 0.3 + 0.05 * abs(a) for a, b in zip(*numbers, strict=True)
    )


def test_every_command_of_the_page_gives_what_it_shows(tmp_path: Path) -> None:
    require_emulator()
    for file in ("digits.onnx", "calib.npz", "test.npz"):
        shutil.copy(ROOT / "examples" / "digits" / file, tmp_path)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("python", ""), ("qcc", " -m qcc.cli.main")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n')
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    shown, ran = "", 0
    for kind, text, name in blocks():
        if kind == "c":
            assert name, text
            (tmp_path / name).write_text(text)
        elif kind == "text":
            assert alike(text, shown), f"{shown}\ninstead of\n{text}"
            ran += 1
        elif kind == "sh" or importlib.util.find_spec("ziglang") is not None:
            done = subprocess.run(
                ["bash", "-e", "-c", text],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}"
            shown = done.stdout
    assert ran == 7


@pytest.mark.parametrize(
    ("found", "same"),
    [("a 1.0 b", True), ("a 1.2 b", True), ("a 2.0 b", False), ("a 1.0 c", False)],
)
def test_numbers_may_differ_a_little(found: str, same: bool) -> None:
    assert alike("a 1.0 b", found) is same
