"""What gets packaged is what lies in the folders, and importing it stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qcc

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"qcc": ROOT / "qcc", "qcc.passes": ROOT / "passes", "qcc.backends": ROOT / "backends"}
"""Where each tree of packages lies: two of them are mapped into ``qcc``."""

DISTRIBUTIONS = {"PIL": "pillow", "google": "protobuf"}
"""What provides an import of another name."""

MOST_LINES = 500

EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common"}
"""Module names that say nothing about what is inside."""


def _project_table(header: str) -> str:
    """One table of pyproject.toml as text (Python 3.10 has no TOML reader)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, rest = text.partition(f"\n[{header}]\n")
    return re.split(r"\n\[", rest, maxsplit=1)[0]


def _declared(key: str, header: str) -> list[str]:
    """The texts in the list ``key`` of a table."""
    found = re.search(rf"^{key} = \[(.*?)\]", _project_table(header), re.DOTALL | re.MULTILINE)
    assert found is not None, f"pyproject.toml has no list '{key}' in [{header}]"
    return re.findall(r'"([^"]+)"', found.group(1))


def _modules() -> Iterator[tuple[str, Path]]:
    """Every module's import name and file, each file once whatever links to it."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder)
            if package == "qcc" and inside.parts[0] in ("passes", "backends"):
                continue
            parts = [package, *inside.with_suffix("").parts]
            yield ".".join(parts).removesuffix(".__init__"), path


def _packages() -> set[str]:
    return {name for name, path in _modules() if path.name == "__init__.py"}


def test_every_package_is_declared() -> None:
    declared = _declared("packages", "tool.setuptools")
    assert declared == sorted(declared)
    assert len(declared) == len(set(declared))
    missing = sorted(_packages() - set(declared))
    gone = sorted(set(declared) - _packages())
    assert not missing, f"add to packages in pyproject.toml: {', '.join(missing)}"
    assert not gone, f"remove from packages in pyproject.toml: {', '.join(gone)}"


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {name.rpartition(".")[0] for name, path in _modules() if path.name != "__init__.py"}
    bare = sorted(folders - _packages())
    assert not bare, f"folders without __init__.py: {', '.join(bare)}"


@pytest.mark.parametrize("name", ["passes", "backends"])
def test_folders_are_mapped_and_linked(name: str) -> None:
    mapping = _project_table("tool.setuptools.package-dir")
    assert f'"qcc.{name}" = "{name}"' in mapping
    link = ROOT / "qcc" / name
    assert link.is_symlink()
    assert link.resolve() == ROOT / name


def test_version_is_that_of_the_project() -> None:
    assert f'\nversion = "{qcc.__version__}"\n' in _project_table("project")


def test_every_public_name_resolves() -> None:
    assert list(qcc.__all__) == sorted(qcc.__all__)
    for name in qcc.__all__:
        assert getattr(qcc, name) is not None
        assert name in dir(qcc)
    with pytest.raises(AttributeError, match="no attribute 'missing_name'"):
        qcc.missing_name  # noqa: B018


def test_import_loads_nothing_else() -> None:
    code = (
        "import importlib, typing, sys; before = set(sys.modules); import qcc;"
        "print(*sorted(set(sys.modules) - before - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["qcc"]


def _imported(path: Path) -> Iterator[str]:
    """The top-level names that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_third_party_imports_are_declared() -> None:
    required = _declared("dependencies", "project")
    required += _declared("images", "project.optional-dependencies")
    peers = _declared("bench", "project.optional-dependencies")
    known, optional = ({re.split(r"[<>=\[]", i)[0] for i in items} for items in (required, peers))
    used: dict[str, str] = {}
    for module, path in _modules():
        for name in _imported(path):
            if name not in sys.stdlib_module_names and name != "qcc":
                used.setdefault(DISTRIBUTIONS.get(name, name), module)
    undeclared = {name: module for name, module in used.items() if name not in known | optional}
    assert not undeclared, f"add to dependencies in pyproject.toml: {undeclared}"
    unused = sorted(known - set(used))
    assert not unused, f"nothing imports {', '.join(unused)}: take it off dependencies"


def test_files_stay_short() -> None:
    longer = {
        path.relative_to(ROOT).as_posix()
        for _, path in _modules()
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert not longer, f"over {MOST_LINES} lines: {sorted(longer)}"


def test_module_names_say_what_is_inside() -> None:
    parts = {name: set(name.split(".")) for name, _ in _modules()}
    empty = sorted(name for name, words in parts.items() if words & EMPTY_NAMES)
    assert not empty, f"name these after what they do: {', '.join(empty)}"
