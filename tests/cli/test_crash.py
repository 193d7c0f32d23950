"""The folder that is left when qcc fails: what it holds, and what it says is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcc.cli import crash
from qcc.cli.crash import write_reproducer
from tests.fuzzing import subjects
from tests.fuzzing.subjects import Command, open_subject

BUG = RuntimeError("planted")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder beside one of data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


def names(folder: Path) -> list[str]:
    """The kept files, without those that are about the command."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name not in crash.WORDS)


def left_out(folder: Path) -> list[str]:
    path = folder / crash.LEFT_OUT
    return path.read_text().splitlines() if path.exists() else []


def fill(folder: Path, **sizes: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in sizes.items():
        (folder / f"{name}.npy").write_bytes(bytes(size))
    return folder


def test_a_folder_is_kept(place: Path) -> None:
    photos = fill(place / "data" / "photos", b=3, a=2)
    fill(photos / "deeper", c=1)
    model = place / "data" / "m.onnx"
    model.write_bytes(b"model")
    folder = write_reproducer(BUG, ["compile", str(model), "--calib", f"{photos}/", "-o", "x.qcc"])
    assert folder.parent == Path.cwd()
    assert names(folder) == ["m.onnx", "photos/a.npy", "photos/b.npy"]
    assert (folder / "photos" / "b.npy").read_bytes() == bytes(3)
    assert left_out(folder) == []


def test_the_size_of_a_folder_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "LARGEST_FOLDER", 100)
    photos = fill(place / "data" / "photos", a=60, b=60, c=40)
    folder = write_reproducer(BUG, ["compile", "--calib", str(photos)])
    assert names(folder) == ["photos/a.npy", "photos/c.npy"]
    (line,) = left_out(folder)
    assert line.startswith(f"{photos / 'b.npy'}: ")
    assert "room" in line


def test_the_number_of_files_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "MOST_FILES", 2)
    photos = fill(place / "data" / "photos", a=1, b=1, c=1, d=1)
    folder = write_reproducer(BUG, ["compile", "--calib", str(photos)])
    assert names(folder) == ["photos/a.npy", "photos/b.npy"]
    assert left_out(folder) == [
        f"{photos}: 2 of its 4 files, from c.npy on: at most 2 files of a folder are kept"
    ]


def test_large_files_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "LARGEST_FILE", 10)
    data = fill(place / "data", big=11, small=10)
    folder = write_reproducer(BUG, ["run", str(data / "big.npy"), str(data / "small.npy")])
    assert names(folder) == ["small.npy"]
    assert [line.split(": ")[0] for line in left_out(folder)] == [str(data / "big.npy")]


def test_equal_names_do_not_replace_each_other(place: Path) -> None:
    first, second = place / "data" / "m.onnx", place / "data" / "other" / "m.onnx"
    words = place / "data" / "command.txt"
    second.parent.mkdir()
    for path in (first, second, words):
        path.write_text(str(path))
    arguments = ["compare", str(first), str(second), str(words), str(first)]
    folder = write_reproducer(BUG, arguments)
    assert (folder / "m.onnx").read_text() == str(first)
    assert (folder / "command.txt").read_text().startswith("qcc compare ")
    assert [line.split(": ")[0] for line in left_out(folder)] == [str(second), str(words)]


def test_outputs_are_not_kept_and_values_of_options_are(place: Path) -> None:
    data = fill(place / "data", calib=4)
    Path("old.qcc").write_bytes(b"old")
    folder = write_reproducer(BUG, [f"--calib={data / 'calib.npy'}", "-o", "old.qcc"])
    assert names(folder) == ["calib.npy"]
    assert left_out(folder) == []


def test_the_module_of_a_function(place: Path) -> None:
    Path("loader.py").write_text("def batches(): ...\n")
    folder = write_reproducer(BUG, ["compile", "--calib", "loader:batches"])
    assert names(folder) == ["loader.py"]
    assert "only loader.py itself" in left_out(folder)[0]
    folder = write_reproducer(BUG, ["compile", "--calib", "elsewhere.loader:batches"])
    assert names(folder) == []
    assert left_out(folder)[0].startswith("elsewhere.loader:batches: ")


def test_it_appears_whole_or_not_at_all(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("shutil.copyfile", full)
    data = fill(place / "data", a=1)
    with pytest.raises(MemoryError):
        write_reproducer(BUG, ["run", str(data / "a.npy")])
    assert list(Path.cwd().iterdir()) == []


def test_what_cannot_be_read_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.copyfile", denied)
    data = fill(place / "data", a=1)
    folder = write_reproducer(BUG, ["run", str(data / "a.npy")])
    assert left_out(folder) == [f"{data / 'a.npy'}: Permission denied"]


def test_a_kept_folder_is_given_to_the_command_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = fill(place / "data" / "photos", a=2, b=3)
    kept = write_reproducer(BUG, ["compile", f"--calib={photos}", "-o", "/none/x.qcc"])
    command = open_subject(kept)
    assert isinstance(command, Command)
    seen: list[tuple[list[str], list[str]]] = []

    class Done:
        returncode, stderr = 0, ""

    def run(words: list[str], cwd: str, **_: object) -> type[Done]:
        seen.append((words[3:], names(Path(cwd))))
        return Done

    monkeypatch.setattr("subprocess.run", run)
    assert subjects.fails(command) is None
    assert seen == [
        (["compile", "--calib=photos", "-o", "x.qcc"], ["photos/a.npy", "photos/b.npy"])
    ]
