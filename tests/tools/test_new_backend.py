"""The skeleton that ``tools/new_backend.py`` writes passes its own tests and the project's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.loading import TOOLS, load_tool

ROOT = TOOLS.parent
IGNORED = shutil.ignore_patterns("__pycache__", "zoo", "*.egg-info")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what makes the project importable."""
    for name in ("qcc", "passes", "backends", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=IGNORED)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def run(project: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_skeleton(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_tool("new_backend").main(["tiny", "--root", str(project)]) == 0
    assert "backends/tiny/config.py" in capsys.readouterr().out
    tests = ["tests/backends/tiny", "tests/test_packaging.py", "tests/quant/test_qconfig.py"]
    run(project, "pytest", "-q", "-p", "no:cacheprovider", *tests)
    run(project, "ruff", "check", "--no-cache", "backends/tiny", "tests/backends/tiny")
    run(project, "ruff", "format", "--check", "--no-cache", "backends/tiny", "tests/backends/tiny")
    assert "tiny" in run(project, "qcc.cli.main", "targets", "--json")


def test_names_are_checked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool("new_backend")
    for name in ("x86", "no-name", "class", "Tiny"):
        assert tool.main([name, "--root", str(project)]) == 1
    said = capsys.readouterr().err
    assert "is there already" in said
    assert "'no-name' is no name of a package" in said
    assert (project / "pyproject.toml").read_text() == (ROOT / "pyproject.toml").read_text()
