"""The small trained model of the README, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qcc.cli.main import run

DIGITS = Path(__file__).parents[2] / "examples" / "digits"

Command = Callable[..., int]


@pytest.fixture
def digits() -> Path:
    """The folder with ``digits.onnx``, ``calib.npz`` and ``test.npz``."""
    return DIGITS


@pytest.fixture
def qcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """``qcc(*arguments)`` runs the command line in an empty folder and gives its exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run([str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``digits.qcc``, compiled once for the whole session."""
    path = tmp_path_factory.mktemp("artifact") / "digits.qcc"
    data = ["--calib", str(DIGITS / "calib.npz"), "--samples", "32"]
    assert run(["compile", str(DIGITS / "digits.onnx"), *data, "-o", str(path)]) == 0
    return path
