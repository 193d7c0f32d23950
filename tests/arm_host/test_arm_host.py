"""qcc as an ARM host: the row that the CPU has, the bytes of x86, and nothing that a CPU lacks."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qcc
from qcc.backends.llvm.isa import host_instruction_set
from qcc.cli.main import run
from qcc.runtime.benchmark import random_inputs
from tests.runtime import test_steered as steered

PROBE = Path(__file__).with_name("probe.py")
DIGITS = Path(__file__).parents[2] / "examples" / "digits"

HOSTS = {
    "cortex-a53": "arm-neon",
    "cortex-a76": "arm-dotprod",
    "neoverse-n1": "arm-dotprod",
    "max": "arm-i8mm",
}
"""What ``host`` is on the CPUs that qemu emulates."""

COMPILING = ("cortex-a53", "neoverse-n1", "max")

FEATURES = {
    "arm-neon": ["neon"],
    "arm-dotprod": ["dotprod", "neon"],
    "arm-i8mm": ["dotprod", "i8mm", "neon"],
}
FOUR = "x86-avx2,x86-avx512vnni,arm-dotprod,arm-i8mm"
SECONDS = 600
"""An emulated process that takes longer hangs."""


@dataclass(frozen=True)
class Made:
    """What x86 made for the ARM host: a folder, and the bytes of every output there."""

    folder: Path
    outputs: dict[str, dict[str, str]]


def _compile(*words: object) -> None:
    assert run(["compile", *map(str, words)]) == 0


@pytest.fixture(name="made", scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Four targets in a file, one of them alone, all with NEON, a ``.qir`` and Q/DQ ONNX."""
    folder = tmp_path_factory.mktemp("made")
    calibration = ["--calib", DIGITS / "calib.npz", "--samples", 8]
    _compile(DIGITS / "digits.onnx", *calibration, "-o", folder / "model.onnx")
    _compile(DIGITS / "digits.onnx", *calibration, "--target", FOUR, "-o", folder / "model.qir")
    targets = {"four": f"{FOUR},host", "neon": "arm-neon,arm-dotprod,arm-i8mm,host"}
    for name, target in {**targets, "i8mm": "arm-i8mm"}.items():
        _compile(folder / "model.qir", "--target", target, "-o", folder / f"{name}.qcc")
    with np.load(DIGITS / "test.npz") as arrays:
        one, three = {"x": arrays["x"][:1]}, {"x": arrays["x"][:3]}
    np.savez(folder / "one.npz", **one)
    np.savez(folder / "three.npz", **three)
    outputs = {}
    for name in ("four.qcc", "neon.qcc", "model.qir", "model.onnx"):
        path = folder / name
        made = qcc.load(path) if name.endswith(".qcc") else qcc.compile(path)
        assert isinstance(made, qcc.Executable)
        assert made.running == host_instruction_set().name
        for size, feeds in (("one", one), ("three", three)):
            outputs[f"{name} {size}"] = {k: v.tobytes().hex() for k, v in made.run(feeds).items()}
    outputs["steered.qcc"] = _steered(folder)
    return Made(folder, outputs)


def _steered(folder: Path) -> dict[str, str]:
    """A float model with code for the values of a sample; gives its outputs for that sample."""
    feeds = steered.feeds(16, 4)
    made = qcc.compile(steered.model(), [feeds], target="arm-neon,arm-dotprod,host")
    assert isinstance(made, qcc.Executable)
    made.save(folder / "steered.qcc")
    np.savez(folder / "steered.npz", **feeds)
    return {name: array.tobytes().hex() for name, array in made.run(feeds).items()}


def _job(cpu: str) -> dict[str, tuple[str, Sequence[Any]]]:
    """The steps of the probe for one CPU."""
    artifact = "neon.qcc" if cpu == "cortex-a53" else "four.qcc"
    job: dict[str, tuple[str, Sequence[Any]]] = {
        "artifact": ("artifact", [artifact, "@one.npz", 1]),
        "threads": ("artifact", [artifact, "@one.npz", 2]),
        "refusal": ("refusal", ["i8mm.qcc"]),
        "four refusal": ("refusal", ["four.qcc"]),
        "forced": ("forced", ["neon.qcc", "@one.npz"]),
        "profile": ("profile", [artifact, "@one.npz"]),
    }
    # Compiling takes most of the time: once a row, and from ONNX on the least and the best CPU.
    if cpu in COMPILING:
        job["qir"] = ("compile", ["model.qir", "@one.npz"])
    if cpu in ("cortex-a53", "max"):
        job["onnx"] = ("compile", ["model.onnx", "@one.npz"])
    if cpu == "cortex-a76":
        job["steered"] = ("artifact", ["steered.qcc", "@steered.npz", 1])
    if cpu == "max":
        job["other shape"] = ("artifact", ["four.qcc", "@three.npz", 1])
        job["targets"] = ("command", ["targets", "--json"])
        job["inspect"] = ("command", ["inspect", "four.qcc", "--json"])
        job["bench"] = ("command", ["bench", "four.qcc", "--runs", "3", "--json"])
    return job


def _emulate(host: Any, cpu: str, command: list[str], folder: Path) -> str:
    """Run a command on the ARM host; gives its stdout."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=host.environment(cpu),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        # A process that is killed on purpose leaves no file behind.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _probe(host: Any, cpu: str, folder: Path) -> dict[str, Any]:
    (folder / f"{cpu}.job").write_text(json.dumps(_job(cpu)))
    _emulate(host, cpu, host.command(str(PROBE), f"{cpu}.job", f"{cpu}.json"), folder)
    found: dict[str, Any] = json.loads((folder / f"{cpu}.json").read_text())
    return found


@pytest.fixture(name="found", scope="module")
def _found(arm_host: Any, made: Made) -> dict[str, dict[str, Any]]:
    """What the probe found on every CPU."""
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda cpu: _probe(arm_host, cpu, made.folder), HOSTS)
        return dict(zip(HOSTS, results, strict=True))


@pytest.fixture(name="cpu", params=HOSTS)
def _cpu(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_host_is_the_best_row_of_the_cpu(found: dict[str, dict[str, Any]], cpu: str) -> None:
    machine = found[cpu]["machine"]
    assert machine["host"] == HOSTS[cpu]
    assert machine["architecture"] == "aarch64"
    assert machine["features"] == FEATURES[HOSTS[cpu]]
    assert " llvm " in machine["compiler"]
    rows = list(FEATURES)
    assert found[cpu]["can_run"] == rows[rows.index(HOSTS[cpu]) :: -1]


def test_an_artifact_from_x86_runs_the_best_code_with_the_same_bytes(
    found: dict[str, dict[str, Any]], made: Made, cpu: str
) -> None:
    name = "neon.qcc" if cpu == "cortex-a53" else "four.qcc"
    for step in ("artifact", "threads"):
        assert found[cpu][step]["running"] == HOSTS[cpu]
        assert found[cpu][step]["outputs"] == made.outputs[f"{name} one"]


@pytest.mark.parametrize("cpu", COMPILING)
def test_a_calibrated_model_is_compiled_there_with_the_same_bytes(
    found: dict[str, dict[str, Any]], made: Made, cpu: str
) -> None:
    kinds = [kind for kind in ("qir", "onnx") if kind in found[cpu]]
    assert kinds[0] == "qir"
    for kind in kinds:
        assert found[cpu][kind]["running"] == HOSTS[cpu]
        assert found[cpu][kind]["outputs"] == made.outputs[f"model.{kind} one"]


def test_other_shapes_are_compiled_there(found: dict[str, dict[str, Any]], made: Made) -> None:
    assert found["max"]["other shape"]["outputs"] == made.outputs["four.qcc three"]


def test_code_for_given_values_runs_there(found: dict[str, dict[str, Any]], made: Made) -> None:
    assert found["cortex-a76"]["steered"]["running"] == "arm-dotprod"
    assert found["cortex-a76"]["steered"]["outputs"] == made.outputs["steered.qcc"]


def test_an_artifact_without_code_for_the_cpu_is_refused(
    found: dict[str, dict[str, Any]], cpu: str
) -> None:
    sentences = {
        "cortex-a53": "lacks dotprod, i8mm; compile the model for arm-neon, too",
        "cortex-a76": "lacks i8mm; compile the model for arm-dotprod, too",
        "neoverse-n1": "lacks i8mm; compile the model for arm-dotprod, too",
    }
    if cpu == "max":
        assert found[cpu]["refusal"] == ""
    else:
        assert found[cpu]["refusal"].startswith(
            "i8mm.qcc holds code for arm-i8mm, and this aarch64"
        )
        assert sentences[cpu] in found[cpu]["refusal"]
    assert ("CPU lacks dotprod;" in found[cpu]["four refusal"]) == (cpu == "cortex-a53")


def test_code_runs_to_its_end_exactly_where_the_cpu_has_the_instructions(
    found: dict[str, dict[str, Any]], cpu: str
) -> None:
    """A missing instruction kills the process here, so no other test has executed one."""
    killed = f"signal {int(signal.SIGILL)}"
    fates = {row: "exit 0" if row in found[cpu]["can_run"] else killed for row in FEATURES}
    assert found[cpu]["forced"] == fates


def test_the_profile_counts_every_kernel(found: dict[str, dict[str, Any]], cpu: str) -> None:
    profile = found[cpu]["profile"]
    times = [ms for _, ms in profile["rows"]]
    assert sum(times) == pytest.approx(profile["total"])
    assert max(ms for kernel, ms in profile["rows"] if kernel.startswith("conv_")) > 0
    assert min(times) >= 0


def test_onnxruntime_is_not_imported(found: dict[str, dict[str, Any]], cpu: str) -> None:
    assert found[cpu]["modules"] == []


def test_listings_and_times_there(found: dict[str, dict[str, Any]]) -> None:
    results = {name: found["max"][name] for name in ("targets", "inspect", "bench")}
    assert {name: result["code"] for name, result in results.items()} == dict.fromkeys(results, 0)
    told = {name: json.loads(result["out"]) for name, result in results.items()}
    status = {row["name"]: row["status"] for row in told["targets"]}
    assert status["host"] == "is arm-i8mm"
    assert [name for name, text in status.items() if text == "runs"] == list(FEATURES)[::-1]
    assert told["inspect"]["running"] == "arm-i8mm"
    (timing,) = told["bench"]["timings"]
    assert timing["instruction_set"] == "arm-i8mm"
    assert timing["median_ms"] > 0
    assert timing["memory_bytes"] > 0


def test_the_command_line_compiles_and_runs_there(arm_host: Any, made: Made) -> None:
    commands = ["compile model.qir -o there.qcc", "run there.qcc --inputs one.npz -o y.npz"]
    for words in commands:
        command = [str(arm_host.folder / "bin" / "qcc"), *words.split()]
        _emulate(arm_host, "neoverse-n1", command, made.folder)
    with np.load(made.folder / "y.npz") as outputs:
        found = {name: array.tobytes().hex() for name, array in outputs.items()}
    assert found == made.outputs["model.qir one"]


def test_a_real_model_of_four_targets_runs_there_on_two_threads(
    arm_host: Any, zoo: Path, tmp_path: Path
) -> None:
    model = zoo / "models" / "mobilenet_v1_025_128_imagenet_tflite_qat_qdq.onnx"
    made = qcc.compile(model, target=f"{FOUR},host")
    assert isinstance(made, qcc.Executable)
    made.save(tmp_path / "model.qcc")
    feeds = random_inputs(made)
    wanted = made.run(feeds)
    np.savez(tmp_path / "in.npz", **feeds)  # type: ignore[arg-type]
    words = "run model.qcc --inputs in.npz -o out.npz --threads 2"
    command = [str(arm_host.folder / "bin" / "qcc"), *words.split()]
    _emulate(arm_host, "neoverse-n1", command, tmp_path)
    with np.load(tmp_path / "out.npz") as found:
        assert set(found) == set(wanted)
        assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
