"""``tools/check_fusion.py`` and ``tools/compare_exports.py``: their lines and exit codes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from tests.runtime.qdq_models import QdqModel
from tests.tools.loading import load_tool

check = load_tool("check_fusion")
compare = load_tool("compare_exports")
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


def outcome(monkeypatch: Patch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["check_fusion.py", *arguments])
    code: int = check.main()
    return code


def test_the_example_is_fused(monkeypatch: Patch, capsys: Capture) -> None:
    assert outcome(monkeypatch, "digits") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["digits", *"777", "100.0%"]


def test_a_file_that_is_not_fused_says_why(
    monkeypatch: Patch, capsys: Capture, tmp_path: Path
) -> None:
    m = QdqModel()
    y = m.node("Conv", m.both("x"), m.weight(4, 4, 1, 1))
    path = tmp_path / "bare.onnx"
    onnx.save(m.model(y), str(path))
    assert outcome(monkeypatch, str(path)) == 1
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.split() == ["bare", "1", "1", "0", "0.0%"]
    assert second.strip().startswith("1 Conv: its result … is an output of the graph")


def test_profiles_of_a_file_take_turns_in_every_runtime_that_is_there(
    monkeypatch: Patch, capsys: Capture, tmp_path: Path
) -> None:
    model = str(Path(__file__).parents[2] / "examples" / "digits" / "digits.onnx")
    options = ["--seconds", "0.05", "--batches", "2", "--keep", str(tmp_path / "kept")]
    monkeypatch.setattr("sys.argv", ["compare_exports.py", *options, model])
    assert compare.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == compare.installed()
    assert all(profile in lines[0] for profile in ("float32", *compare.PROFILES))
    assert len(list((tmp_path / "kept").iterdir())) == len(compare.PROFILES)


def test_files_have_no_score(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr("sys.argv", ["compare_exports.py", "--score", "model.onnx"])
    with pytest.raises(SystemExit):
        compare.main()
    assert "only zoo models have a score" in capsys.readouterr().err
