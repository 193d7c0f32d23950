"""A sample of what ``tools/fuzz.py`` does, and how it reports."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.fuzzing.cases import (
    Case,
    Failure,
    default_targets,
    failure_of,
    load_case,
    native_rows,
    random_case,
    save_case,
)
from tests.fuzzing.isolation import isolated
from tests.tools.loading import load_tool, needs_recent_onnxruntime


@needs_recent_onnxruntime
@pytest.mark.parametrize("seed", range(12))
def test_random_model(seed: int) -> None:
    failure = failure_of(random_case(seed, default_targets(), most_steps=8))
    assert failure is None, failure.message + failure.details


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 20))
def test_random_model_emulated(seed: int) -> None:
    failure = failure_of(random_case(seed, native_rows(), most_steps=6))
    assert failure is None, failure.message + failure.details


def test_equal_seeds_give_equal_cases() -> None:
    first, again = random_case(3, ["onnx"]), random_case(3, ["onnx"])
    assert first.model == again.model
    assert first.threads == again.threads
    for a, b in zip(first.feeds, again.feeds, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert random_case(4, ["onnx"]).model != first.model


def test_seeds_cover_many_ops() -> None:
    models = [onnx.load_from_string(random_case(seed, []).model) for seed in range(60)]
    ops = {node.op_type for model in models for node in model.graph.node}
    assert len(ops) > 30
    assert {"Conv", "Gemm", "MatMul", "Add", "Concat", "MaxPool", "Resize", "Softmax"} <= ops


def test_case_round_trip(tmp_path: Path) -> None:
    case = random_case(5, ["onnx"])
    save_case(case, tmp_path, Failure("it broke"))
    again = load_case(tmp_path)
    assert (again.model, again.targets, again.threads) == (case.model, case.targets, case.threads)
    assert (again.observer, again.seed) == (case.observer, 5)
    for a, b in zip(case.feeds, again.feeds, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert (tmp_path / "failure.txt").read_text().startswith("it broke")


def test_signature_masks_names_and_numbers() -> None:
    one = Failure("ValueError: '%a_1' has 3 of 17 bytes at -1.5e-3\nmore")
    other = Failure("ValueError: 'b' has 1 of 2 bytes at 0.25")
    assert one.signature == other.signature
    assert one.signature != Failure("ValueError: 'b' lacks 1 of 2 bytes at 0.25").signature


def test_a_model_that_onnxruntime_refuses_is_named() -> None:
    failure = failure_of(Case(b"no model", ({},), ("onnx",)))
    assert failure is not None
    assert failure.message.startswith("onnxruntime does not run the float model")


# -- the tool --------------------------------------------------------------------------------------


def fail_on_odd(case: Case) -> Failure | None:
    assert case.seed is not None
    return Failure(f"seed {case.seed} is odd") if case.seed % 2 else None


def kill_itself(_: object) -> Failure | None:
    os.kill(os.getpid(), signal.SIGSEGV)
    return None


def sleep_long(_: object) -> Failure | None:
    time.sleep(60)
    return None


def test_success(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = load_tool("fuzz").main(["--seed", "40", "--count", "2", "--output", str(tmp_path)])
    assert code == 0
    assert "2 models" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_failure_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load_tool("fuzz")
    monkeypatch.setattr(tool, "failure_of", fail_on_odd)
    arguments = ["--seed", "6", "--count", "4", "--keep-going", "--output", str(tmp_path)]
    assert tool.main([*arguments, "--target", "onnx"]) == 1
    said = capsys.readouterr().out
    assert "seed 7: seed 7 is odd" in said
    assert "seed 9: seed 9 is odd" in said
    # Failures that look alike are written once.
    assert [path.name for path in tmp_path.iterdir()] == ["qcc-fuzz-7"]
    facts = json.loads((tmp_path / "qcc-fuzz-7" / "case.json").read_text())
    assert facts["targets"] == ["onnx"]
    assert facts["seed"] == 7


def test_it_stops_at_the_first_failure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = load_tool("fuzz")
    monkeypatch.setattr(tool, "failure_of", fail_on_odd)
    assert tool.main(["--seconds", "60", "--output", str(tmp_path)]) == 1
    assert "2 models" in capsys.readouterr().out


def test_crash_and_hang_are_findings() -> None:
    crashed = isolated(kill_itself, None)
    assert crashed is not None
    assert crashed.message == "the process was killed by SIGSEGV"
    hung = isolated(sleep_long, None, seconds=0.5)
    assert hung is not None
    assert "more than 0.5 seconds" in hung.message
