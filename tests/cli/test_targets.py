"""Targets on the command line: other machines, several at once, and what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import qcc as package
from qcc.backends.llvm.isa import host_instruction_set
from tests.backends.llvm.native import native_or_skip
from tests.cli.conftest import Command
from tests.cli.test_bad_input import refused

Capture = pytest.CaptureFixture[str]
FOREIGN = "arm-dotprod,arm-i8mm"


@pytest.fixture(name="data")
def _data(digits: Path) -> list[object]:
    return [digits / "digits.onnx", "--calib", digits / "calib.npz", "--samples", 8]


def test_one_file_with_four_targets_says_what_runs(
    qcc: Command, digits: Path, data: list[object], capsys: Capture
) -> None:
    host = host_instruction_set().name
    assert qcc("compile", *data, "--target", f"{FOREIGN},x86-avx512vnni,host", "-o", "m.qcc") == 0
    assert "for x86-avx512vnni," in capsys.readouterr().err
    sentence = f"{host} runs here"
    assert qcc("run", "m.qcc", "--inputs", digits / "test.npz", "-o", "y.npz") == 0
    assert sentence in capsys.readouterr().err
    assert qcc("bench", "m.qcc", "--runs", 3) == 0
    said = capsys.readouterr()
    assert sentence in said.err
    assert f"qcc {host}" in said.out
    assert qcc("inspect", "m.qcc") == 0
    said = capsys.readouterr()
    assert sentence in said.err
    assert "arm-i8mm" in said.out
    assert qcc("inspect", "m.qcc", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["running"] == host
    assert {row["instruction_set"] for row in found["code"]} >= {"arm-i8mm", "arm-dotprod", host}


def test_code_for_another_machine_reports_the_noise_that_it_will_have(
    qcc: Command, data: list[object], digits: Path, capsys: Capture
) -> None:
    assert qcc("compile", *data, "--target", "arm-dotprod", "-o", "m.qcc", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["output_sqnr_db"]["logits"] > 20
    assert {node["isa"] for node in report["nodes"] if node["kernel"]} == {"arm-dotprod"}
    code = qcc("run", "m.qcc", "--inputs", digits / "test.npz", "-o", "y.npz")
    refused(code, capsys, "m.qcc holds code for arm-dotprod", host_instruction_set().name)
    assert not Path("y.npz").exists()
    code = qcc("bench", "m.qcc")
    refused(code, capsys, "m.qcc holds code for arm-dotprod")
    assert qcc("inspect", "m.qcc") == 0
    assert "runs none of it" in capsys.readouterr().err


def test_other_machines_get_the_same_graph_as_alone(
    qcc: Command, data: list[object], digits: Path
) -> None:
    """The numbers of several targets suit all of them: here, those of AVX2."""
    native_or_skip("x86-avx2")
    assert qcc("compile", *data, "--target", f"{FOREIGN},x86-avx2", "-o", "several.qcc") == 0
    assert qcc("compile", *data, "--target", "x86-avx2", "-o", "alone.qcc") == 0
    x = np.load(digits / "test.npz")["x"][:9]
    found = [package.load(name)(x) for name in ("several.qcc", "alone.qcc")]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("target", "output", "parts"),
    [
        ("arm-sve9", "m.qcc", ["no target 'arm-sve9'", "arm-i8mm", "onnx", "host"]),
        ("host,z80,x86-avx2,mips", "m.qcc", ["'z80' or 'mips'", "x86-avx2", "commas"]),
        ("x86-avx2,", "m.qcc", ["no target ''", "x86-avx2"]),
        ("x86-avx2,onnx", "m.onnx", ["onnx", "cannot be one of several"]),
        (FOREIGN, "m.s", [".s holds code for one", "arm-dotprod", ".qcc"]),
        (FOREIGN, "m.o", [".o holds code for one"]),
    ],
)
def test_targets_that_cannot_be(
    qcc: Command,
    data: list[object],
    capsys: Capture,
    target: str,
    output: str,
    parts: list[str],
) -> None:
    refused(qcc("compile", *data, "--target", target, "-o", output), capsys, *parts)
    assert not Path(output).exists()


def test_only_artifacts_can_be_inspected(qcc: Command, digits: Path, capsys: Capture) -> None:
    refused(qcc("inspect", digits / "digits.onnx"), capsys, "digits.onnx", ".qcc")
    refused(qcc("inspect", "no.qcc"), capsys, "no.qcc")
