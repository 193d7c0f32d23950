"""The main job from the command line: compile, run, compare, time, look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import qcc as package
from tests.cli.conftest import Command

Capture = pytest.CaptureFixture[str]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(1) == labels).mean())


def test_artifact_keeps_the_accuracy(qcc: Command, digits: Path, artifact: Path) -> None:
    assert qcc("run", artifact, "--inputs", digits / "test.npz", "-o", "out.npz") == 0
    logits = np.load("out.npz")["logits"]
    labels = np.load(digits / "test.npz")["y"]
    assert accuracy(logits, labels) >= 0.985


def test_export_runs_in_onnxruntime_without_float_convolutions(qcc: Command, digits: Path) -> None:
    model, data = digits / "digits.onnx", digits / "calib.npz"
    assert qcc("compile", model, "--calib", data, "--samples", 32, "-o", "digits.int8.onnx") == 0
    options = ort.SessionOptions()
    options.optimized_model_filepath = "optimized.onnx"
    session = ort.InferenceSession("digits.int8.onnx", options)
    test = np.load(digits / "test.npz")
    (logits,) = session.run(None, {"x": test["x"]})
    assert accuracy(logits, test["y"]) >= 0.98
    left = {node.op_type for node in onnx.load("optimized.onnx").graph.node}
    assert not left & {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"}


def test_command_line_and_python_give_the_same_bytes(digits: Path, artifact: Path) -> None:
    samples = np.load(digits / "calib.npz")["x"]
    batches = ({"x": samples[i : i + 1]} for i in range(32))
    made = package.compile(digits / "digits.onnx", calibration=batches)
    assert isinstance(made, package.Executable)
    x = np.load(digits / "test.npz")["x"][:7]
    loaded = package.load(artifact)
    np.testing.assert_array_equal(made.run({"x": x})["logits"], loaded.run({"x": x})["logits"])
    np.testing.assert_array_equal(loaded(x), loaded.run({"x": x})["logits"])


def test_summary_goes_to_stderr_and_the_path_to_stdout(
    qcc: Command, digits: Path, capsys: Capture
) -> None:
    model, data = digits / "digits.onnx", digits / "calib.npz"
    assert qcc("compile", model, "--calib", data, "--samples", 8, "-o", "digits.qcc") == 0
    said = capsys.readouterr()
    assert said.out == "digits.qcc\n"
    assert "nodes int8" in said.err
    assert "SQNR" in said.err


def test_json_report_names_every_node(qcc: Command, digits: Path, capsys: Capture) -> None:
    model, data = digits / "digits.onnx", digits / "calib.npz"
    code = qcc("compile", model, "--calib", data, "--samples", 8, "-o", "digits.qcc", "--json")
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output"] == "digits.qcc"
    assert report["int8_nodes"] + report["float_nodes"] == len(report["nodes"])
    weighted = [node for node in report["nodes"] if node["op"] in ("Conv", "Gemm")]
    assert len(weighted) == 4
    assert all(node["dtype"] == "int8" and node["kernel"] for node in weighted)
    assert report["output_sqnr_db"]["logits"] > 20


@pytest.mark.parametrize(
    ("ending", "mark"),
    [
        (".ll", b"define "),
        (".s", b".text"),
        (".o", b"\x7fELF"),
        (".qir", b"q.quantize"),
    ],
)
def test_other_forms(qcc: Command, digits: Path, ending: str, mark: bytes) -> None:
    fixed = Path("fixed.onnx")
    model = onnx.load(digits / "digits.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, fixed)
    out = Path("digits" + ending)
    data = digits / "calib.npz"
    assert qcc("compile", fixed, "--calib", data, "--samples", 4, "-o", out) == 0
    assert mark in out.read_bytes()


def test_diff_and_bench(qcc: Command, digits: Path, artifact: Path, capsys: Capture) -> None:
    model = digits / "digits.onnx"
    assert qcc("diff", model, artifact, "--data", digits / "test.npz", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["name"] == "logits"
    assert row["sqnr_db"] > 20
    assert row["top1_agreement"] > 0.98
    assert qcc("bench", artifact, "--vs", model, "--runs", 5, "--json") == 0
    timing = json.loads(capsys.readouterr().out)
    assert [t["engine"] for t in timing["timings"]] == ["qcc", "onnxruntime"]
    assert timing["ratio"] > 0


def test_explain_says_what_fuses(qcc: Command, digits: Path, capsys: Capture) -> None:
    assert qcc("explain", digits / "digits.onnx", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {n["op"] for n in report["nodes"] if n["dtype"] == "int8"} >= {"Conv", "Gemm"}
    assert all(n["reason"] for n in report["nodes"] if n["dtype"] != "int8")


def test_opt_prints_a_graph_that_it_reads_again(
    qcc: Command, digits: Path, capsys: Capture
) -> None:
    passes = "fold-constants,canonicalize,fold-batchnorm{keep-names=true},eliminate-dead"
    assert qcc("opt", "-p", passes, digits / "digits.onnx", "--resources", "-o", "a.qir") == 0
    text = Path("a.qir").read_text()
    assert "BatchNormalization" not in text
    assert qcc("opt", "a.qir", "--resources") == 0
    assert capsys.readouterr().out == text


def test_listings(qcc: Command, capsys: Capture) -> None:
    assert qcc("targets", "--json") == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert names[0] == "host"
    assert {"x86-avx2", "x86-avxvnni", "x86-avx512vnni", "onnx"} <= set(names)
    assert qcc("passes", "--json") == 0
    passes = {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert {"canonicalize", "fold-constants", "fold-batchnorm", "eliminate-dead"} <= passes
    assert qcc("--version") == 0
    assert capsys.readouterr().out == f"qcc {package.__version__}\n"


def test_a_profile_has_every_kernel_and_adds_up(
    qcc: Command, artifact: Path, capsys: Capture
) -> None:
    assert qcc("bench", artifact, "--profile", "--runs", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(row["ms"] for row in found["rows"]) == pytest.approx(found["total_ms"])
    assert all(row["ms"] >= 0 for row in found["rows"])
    named = {part for row in package.load(artifact).report.nodes for part in row.kernel.split(", ")}
    used = {row["kernel"] for row in found["rows"]}
    assert any(row["macs"] > 0 for row in found["rows"])
    assert named - {""} <= used
    assert qcc("bench", artifact, "--profile", "--runs", 3) == 0
    assert "GMAC/s" in capsys.readouterr().out


def test_profiling_gives_the_bytes_of_running(artifact: Path, digits: Path) -> None:
    x = np.load(digits / "test.npz")["x"][:1]
    loaded = package.load(artifact)
    wanted = loaded(x)
    loaded.profile({"x": x}, runs=2)
    np.testing.assert_array_equal(loaded(x), wanted)


def test_only_artifacts_have_a_profile(qcc: Command, digits: Path) -> None:
    assert qcc("bench", digits / "digits.onnx", "--profile") == 1
    assert qcc("bench", digits / "digits.onnx", "--profile", "--threads", 2) == 2


def test_tuning_changes_no_byte_and_says_what_it_did(
    qcc: Command, digits: Path, artifact: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCC_CACHE", "cache")
    model, data = digits / "digits.onnx", digits / "calib.npz"
    arguments = ("--calib", data, "--samples", 32, "--tune", 30, "-o", "tuned.qcc")
    assert qcc("compile", model, *arguments) == 0
    assert "kernels were measured" in capsys.readouterr().err
    assert Path("cache/schedules.json").is_file()
    x = np.load(digits / "test.npz")["x"][:9]
    np.testing.assert_array_equal(package.load("tuned.qcc")(x), package.load(artifact)(x))


def test_float32_needs_no_samples_and_keeps_the_numbers(
    qcc: Command, digits: Path, capsys: Capture
) -> None:
    model, test = digits / "digits.onnx", np.load(digits / "test.npz")
    assert qcc("compile", model, "--precision", "float32", "-o", "d.qcc", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert {node["dtype"] for node in said["nodes"]} == {"float32"}
    assert any("float_conv" in node["kernel"] for node in said["nodes"])
    loaded = package.load("d.qcc")
    # The file was compiled for one image; others are compiled when they come.
    for count in (1, 7):
        x = test["x"][:count]
        (wanted,) = ort.InferenceSession(model).run(None, {"x": x})
        np.testing.assert_allclose(loaded(x), wanted, rtol=1e-4, atol=1e-5)
        made = package.compile(model, precision="float32")
        assert isinstance(made, package.Executable)
        np.testing.assert_array_equal(made(x), loaded(x))
    assert not any(variant.model.regions for variant in loaded.variants)


def test_float32_of_the_shapes_of_samples(qcc: Command, digits: Path) -> None:
    model, data = digits / "digits.onnx", digits / "calib.npz"
    assert qcc("compile", model, "--precision", "float32", "--calib", data, "-o", "d.qcc") == 0
    assert qcc("bench", "d.qcc", "--vs", model, "--runs", 3) == 0
    assert qcc("diff", model, "d.qcc", "--data", data, "--samples", 4) == 0
