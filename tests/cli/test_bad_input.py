"""Bad input gets one clear sentence, exit code 1, and leaves no half-written file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from qcc.cli.main import run
from tests.cli.conftest import Command

Capture = pytest.CaptureFixture[str]


def refused(code: int, capsys: Capture, *parts: str) -> None:
    """Exit code 1, nothing on stdout, one line on stderr that holds every part."""
    said = capsys.readouterr()
    assert code == 1, said.err
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    for part in parts:
        assert part.lower() in lines[0].lower(), lines[0]


@pytest.mark.parametrize("content", [b"", b"hello, I am no model", b"\x08\x08\x12\xff\xff\xff"])
def test_not_an_onnx_file(qcc: Command, digits: Path, capsys: Capture, content: bytes) -> None:
    Path("model.onnx").write_bytes(content)
    code = qcc("compile", "model.onnx", "--calib", digits / "calib.npz", "-o", "out.qcc")
    refused(code, capsys, "model.onnx")
    assert not Path("out.qcc").exists()


def test_truncated_model(qcc: Command, digits: Path, capsys: Capture) -> None:
    whole = (digits / "digits.onnx").read_bytes()
    Path("model.onnx").write_bytes(whole[: len(whole) // 2])
    code = qcc("compile", "model.onnx", "--calib", digits / "calib.npz", "-o", "out.qcc")
    refused(code, capsys, "model.onnx")


def test_missing_model(qcc: Command, capsys: Capture) -> None:
    refused(qcc("compile", "no.onnx", "--calib", "c.npz", "-o", "o.qcc"), capsys, "no.onnx")


def test_missing_external_data(qcc: Command, digits: Path, capsys: Capture) -> None:
    model = onnx.load(digits / "digits.onnx")
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    Path("m.data").unlink()
    code = qcc("compile", "m.onnx", "--calib", digits / "calib.npz", "-o", "out.qcc")
    refused(code, capsys, "m.data")


def test_unknown_opset(qcc: Command, digits: Path, capsys: Capture) -> None:
    model = onnx.load(digits / "digits.onnx")
    model.opset_import[0].version = 999
    onnx.save(model, "m.onnx")
    code = qcc("compile", "m.onnx", "--calib", digits / "calib.npz", "-o", "out.qcc")
    refused(code, capsys, "opset 999")


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"z": np.zeros((4, 1, 8, 8), np.float32)}, ("x",)),
        ({"x": np.zeros((4, 8), np.float32)}, ("x", "dimension")),
        ({"x": np.zeros((4, 1, 8, 9), np.float32)}, ("x", "9")),
        ({"x": np.zeros((4, 1, 8, 8), np.int64)}, ("x", "int64")),
        ({"x": np.full((4, 1, 8, 8), np.nan, np.float32)}, ("x", "nan")),
        ({"x": np.full((4, 1, 8, 8), np.inf, np.float32)}, ("x", "inf")),
        ({"x": np.zeros((0, 1, 8, 8), np.float32)}, ("sample",)),
    ],
)
def test_calibration_arrays_that_do_not_fit(
    qcc: Command,
    digits: Path,
    capsys: Capture,
    arrays: dict[str, np.ndarray],
    parts: tuple[str, ...],
) -> None:
    np.savez("data.npz", **arrays)  # type: ignore[arg-type]
    code = qcc("compile", digits / "digits.onnx", "--calib", "data.npz", "-o", "out.qcc")
    refused(code, capsys, *parts)
    assert not Path("out.qcc").exists()


def test_wrong_declared_shapes_are_no_obstacle(qcc: Command, digits: Path, capsys: Capture) -> None:
    """onnxruntime runs such a model too; the shapes that the nodes give are used, in words."""
    model = onnx.load(digits / "digits.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 77
    onnx.save(model, "m.onnx")
    data = ("--calib", digits / "calib.npz", "--samples", "8")
    for output in ("out.qcc", "out.onnx"):
        assert qcc("compile", "m.onnx", *data, "-o", output) == 0
        said = " ".join(capsys.readouterr().err.split())
        assert f"declares '{model.graph.output[0].name}' as" in said
    assert qcc("run", "out.qcc", "--inputs", digits / "test.npz", "-o", "y.npz") == 0
    with np.load("y.npz") as found:
        assert found[model.graph.output[0].name].shape[1:] == (10,)


def test_no_calibration(qcc: Command, digits: Path, capsys: Capture) -> None:
    refused(qcc("compile", digits / "digits.onnx", "-o", "out.qcc"), capsys, "--calib")


def test_output_that_cannot_be_written(qcc: Command, digits: Path, capsys: Capture) -> None:
    arguments = ("compile", digits / "digits.onnx", "--calib", digits / "calib.npz", "-o")
    refused(qcc(*arguments, "no/such/folder/out.qcc"), capsys, "no/such/folder")
    Path("folder.qcc").mkdir()
    refused(qcc(*arguments, "folder.qcc"), capsys, "folder")
    refused(qcc(*arguments, "out.txt"), capsys, ".qcc")


def test_failure_leaves_an_existing_file_as_it_was(
    qcc: Command, digits: Path, capsys: Capture
) -> None:
    Path("out.qcc").write_bytes(b"precious")
    np.savez("data.npz", x=np.full((4, 1, 8, 8), np.nan, np.float32))
    code = qcc("compile", digits / "digits.onnx", "--calib", "data.npz", "-o", "out.qcc")
    refused(code, capsys, "nan")
    assert Path("out.qcc").read_bytes() == b"precious"
    assert [p.name for p in Path().iterdir() if p.name.startswith(".")] == []


def test_damaged_artifacts(qcc: Command, digits: Path, artifact: Path, capsys: Capture) -> None:
    whole = bytearray(artifact.read_bytes())
    inputs = digits / "test.npz"
    for position in (3, 9, 100, len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        Path("bad.qcc").write_bytes(damaged)
        code = qcc("run", "bad.qcc", "--inputs", inputs, "-o", "out.npz")
        refused(code, capsys, "bad.qcc")
    Path("bad.qcc").write_bytes(whole[:1000])
    refused(qcc("run", "bad.qcc", "--inputs", inputs, "-o", "out.npz"), capsys, "bad.qcc")
    assert not Path("out.npz").exists()


def test_inputs_that_do_not_fit(qcc: Command, artifact: Path, capsys: Capture) -> None:
    np.savez("in.npz", x=np.zeros((1, 1, 8, 7), np.float32))
    refused(qcc("run", artifact, "--inputs", "in.npz", "-o", "out.npz"), capsys, "x")
    refused(qcc("run", artifact, "--inputs", "none.npz", "-o", "out.npz"), capsys, "none.npz")


def test_unknown_names(qcc: Command, digits: Path, capsys: Capture) -> None:
    model, data = digits / "digits.onnx", digits / "calib.npz"
    base = ("compile", model, "--calib", data, "-o", "out.qcc")
    refused(qcc(*base, "--target", "z80"), capsys, "z80", "x86-avx2")
    refused(qcc(*base, "--observer", "guess"), capsys, "guess", "minmax")
    refused(qcc("opt", "-p", "fold-constantz", model), capsys, "fold-constants")
    Path("mapping.json").write_text("{")
    refused(qcc(*base, "--qconfig", "mapping.json"), capsys, "json")


def test_usage_errors_give_2(capsys: Capture) -> None:
    assert run(["compile"]) == 2
    assert run(["no-such-command"]) == 2
    assert run(["compile", "a.onnx", "--no-such-option"]) == 2
    assert capsys.readouterr().out == ""


def test_bug_gives_3_and_a_folder_that_reproduces_it(
    qcc: Command, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("qcc.compiler.list_targets", broken)
    assert qcc("targets") == 3
    assert "planted" in capsys.readouterr().err
    (folder,) = Path().glob("qcc-crash-*")
    assert (folder / "command.txt").read_text() == "qcc targets\n"
    assert "ZeroDivisionError: planted" in (folder / "traceback.txt").read_text()
    assert "onnxruntime" in (folder / "versions.txt").read_text()


def test_a_machine_without_onnxruntime_is_told_what_needs_it(
    qcc: Command, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent() -> None:
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr("qcc.compiler.list_targets", absent)
    refused(qcc("targets"), capsys, "onnxruntime is not installed", "pip install onnxruntime")
    assert list(Path().glob("qcc-crash-*")) == []


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--precision", "half"], ["half", "int8", "float32"]),
        (["--precision", "float32", "--target", "onnx"], ["onnx", "native target"]),
        (["--precision", "float32", "--tune", "2"], ["not tuned", "tune"]),
        (["--precision", "float32", "--observer", "minmax"], ["observer"]),
    ],
)
def test_float32_refuses_what_makes_no_sense(
    qcc: Command, digits: Path, capsys: Capture, options: list[str], parts: list[str]
) -> None:
    code = qcc("compile", digits / "digits.onnx", *options, "-o", "out.qir")
    refused(code, capsys, *parts)
    assert not Path("out.qir").exists()


def test_float32_refuses_a_quantized_model(qcc: Command, digits: Path, capsys: Capture) -> None:
    data = ["--calib", digits / "calib.npz", "--samples", 4]
    assert qcc("compile", digits / "digits.onnx", *data, "-o", "int8.onnx") == 0
    capsys.readouterr()
    code = qcc("compile", "int8.onnx", "--precision", "float32", "-o", "out.qcc")
    refused(code, capsys, "quantized already", "float model")


def test_float32_asks_for_shapes_that_it_cannot_know(
    qcc: Command, digits: Path, capsys: Capture
) -> None:
    model = onnx.load(digits / "digits.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "rows"
    onnx.save(model, "m.onnx")
    code = qcc("compile", "m.onnx", "--precision", "float32", "-o", "out.qcc")
    refused(code, capsys, "free dimensions", "--calib")
