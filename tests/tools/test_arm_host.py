"""``tools/arm_host.py`` without a network: what it asks for, what it leaves behind, its sentences.

The emulator, apt and dpkg are small scripts here; ``tests/arm_host`` uses a real ARM host.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tools.loading import load_tool

tool = load_tool("arm_host")
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

APT = """for word in "$@"; do case $word in
  -oDir::Cache::Archives=*) archives=${word#*=};;
  install) touch "$archives/python3.deb";;
esac; done"""
DPKG = 'mkdir -p "$3/usr/bin" "$3/usr/lib"; touch "$3/usr/bin/python3.12" "$3/usr/bin/python3"'


@pytest.fixture(name="commands")
def _commands(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The only folder of PATH beside the shell's: scripts in place of the tools."""
    folder = tmp_path / "commands"
    folder.mkdir()
    for name, body in {"qemu-aarch64": "exit 0", "apt-get": APT, "dpkg-deb": DPKG}.items():
        command(folder, name, body)
    version = tmp_path / "debian_version"
    version.write_text("12.1\n")
    monkeypatch.setattr(tool, "DEBIAN", version)
    monkeypatch.setattr(tool, "_fetch_wheels", lambda folder, python: folder.mkdir())
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def command(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def left(folder: Path) -> list[str]:
    """What is beside ``folder`` but the lock and the tests' own."""
    own = {"commands", "debian_version", f".{folder.name}.lock"}
    return sorted(path.name for path in folder.parent.iterdir() if path.name not in own)


def test_it_needs_what_the_project_needs_but_onnxruntime() -> None:
    names = [line.split(">")[0] for line in tool.requirements()]
    assert {"llvmlite", "numpy", "onnx", "networkx", "typer"} <= set(names)
    assert "onnxruntime" not in names


@pytest.mark.usefixtures("commands")
def test_a_folder_appears_whole_and_is_used_again(tmp_path: Path, monkeypatch: Patch) -> None:
    folder = tmp_path / "host"
    host = tool.prepare(folder)
    assert (host.folder, host.python) == (folder, "3.12")
    assert json.loads((folder / tool.MARKER).read_text())["python"] == "3.12"
    assert (folder / "root" / "lib").resolve() == folder / "root" / "usr" / "lib"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [tool.MARKER, "bin", "packages", "root"]
    )
    assert left(folder) == ["host"]
    monkeypatch.setattr(tool, "_replaced", None)
    assert tool.prepare(folder) == host


@pytest.mark.usefixtures("commands")
def test_a_folder_from_another_recipe_is_made_again(tmp_path: Path, monkeypatch: Patch) -> None:
    folder = tmp_path / "host"
    tool.prepare(folder)
    (folder / "old").touch()
    monkeypatch.setattr(tool, "DEBIAN_PACKAGES", ("python3", "something-new"))
    tool.prepare(folder)
    assert not (folder / "old").exists()
    assert left(folder) == ["host"]


@pytest.mark.usefixtures("commands")
def test_commands_take_qcc_from_the_repository_that_asked_last(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    folder = tmp_path / "host"
    tool.prepare(folder)
    assert f"PYTHONPATH:-{tool.ROOT}" in (folder / "bin" / "qcc").read_text()
    recipe = tool._recipe()
    monkeypatch.setattr(tool, "_recipe", lambda: recipe)
    monkeypatch.setattr(tool, "ROOT", tmp_path / "another place")
    tool.prepare(folder)
    assert f"PYTHONPATH:-'{tmp_path}/another place'" in (folder / "bin" / "python3").read_text()
    assert (folder / "bin" / "qcc").stat().st_mode & 0o111 == 0o111


def test_tools_that_are_missing_are_named(
    tmp_path: Path, commands: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("PATH", str(commands))
    (commands / "apt-get").unlink()
    with pytest.raises(tool.ArmHostError, match=r"not Debian \(apt-get missing\): run this on"):
        tool.prepare(tmp_path / "host")
    (commands / "qemu-aarch64").unlink()
    with pytest.raises(tool.ArmHostError, match="apt-get install qemu-user"):
        tool.prepare(tmp_path / "host")
    assert left(tmp_path / "host") == []


@pytest.mark.parametrize(
    ("name", "body", "sentence"),
    [
        (
            "apt-get",
            "echo 'W: Failed to fetch http://x' >&2; [ $# -lt 20 ] || exit 100",
            "cannot be fetched .look at the network .*Failed to fetch http://x",
        ),
        ("apt-get", "exit 100", "cannot be fetched .*exit code 100"),
        ("dpkg-deb", "echo 'tar: short' >&2; exit 2", "cannot unpack a package: tar: short"),
        ("dpkg-deb", "mkdir -p $3/usr/bin", "brings no Python"),
        ("dpkg-deb", "mkdir -p $3/usr/bin; touch $3/usr/bin/python3.9", "3.9 is older than 3.10"),
        ("qemu-aarch64", "echo 'ImportError: x' >&2; exit 1", "does not run: ImportError: x"),
    ],
)
def test_a_failure_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, commands: Path, name: str, body: str, sentence: str
) -> None:
    command(commands, name, body)
    with pytest.raises(tool.ArmHostError, match=sentence):
        tool.prepare(tmp_path / "host")
    assert left(tmp_path / "host") == []


@pytest.mark.usefixtures("commands")
def test_other_folders_are_left_alone(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "thesis.txt").write_text("done")
    assert tool.main([str(folder)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {folder} holds something else than an ARM host")
    assert (folder / "thesis.txt").read_text() == "done"


def test_wheels_that_cannot_be_had_are_a_sentence(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(tool.ArmHostError, match=r"wheels of Python 3\.12 .*: ERROR: "):
        tool._fetch_wheels(tmp_path / "packages", "3.12")


def test_the_folder_is_named_by_the_environment(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("QCC_ARM_HOST", str(tmp_path / "mine"))
    assert tool.default_folder() == tmp_path / "mine"
    monkeypatch.delenv("QCC_ARM_HOST")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert tool.default_folder() == tmp_path / "qcc" / "arm-host"
