"""What runs inside the ARM host: everything that tests want to know of one CPU, in one process.

    python3 probe.py JOB.json RESULT.json

A start of Python under emulation takes seconds, so there is one a CPU.  Arrays come and go as
``.npz`` files in the folder of the job.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import qcc
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, can_run, host_instruction_set
from qcc.cli import main as command_line
from qcc.errors import QccError
from qcc.runtime import program
from qcc.runtime.executable import Variant


def describe() -> dict[str, Any]:
    """The machine, as qcc sees it."""
    return {
        "host": host_instruction_set().name,
        "architecture": machine.host_architecture(),
        "features": sorted(machine.host_cpu_features()),
        "compiler": machine.compiler_identity(),
    }


def run_artifact(path: str, feeds: dict[str, Any], threads: int) -> dict[str, Any]:
    """Load and run an artifact; gives the outputs' bytes and which code ran."""
    loaded = qcc.load(path, threads=threads)
    outputs = loaded.run(feeds)
    loaded.close()
    return {"running": loaded.running, **_hex(outputs)}


def compile_model(path: str, feeds: dict[str, Any]) -> dict[str, Any]:
    """Compile a calibrated model for this machine and run it at once."""
    made = qcc.compile(Path(path))
    assert isinstance(made, qcc.Executable)
    return {"running": made.running, **_hex(made.run(feeds))}


def profile(path: str, feeds: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of every kernel."""
    found = qcc.load(path).profile(feeds, runs=5)
    return {"rows": [[row.kernel, row.ms] for row in found.rows], "total": found.total_ms}


def refusal(path: str) -> str:
    """The sentence with which an artifact is refused; empty where it is not."""
    try:
        qcc.load(path)
    except QccError as error:
        return str(error)
    return ""


def forced(path: str, feeds: dict[str, Any]) -> dict[str, str]:
    """How a process ends that runs each variant of an artifact, whether or not the CPU has it."""
    loaded = qcc.load(path)
    variants = (*loaded.variants, *loaded.other_variants())
    native = [v for v in variants if v.model.isa.architecture == machine.host_architecture()]
    return {v.model.isa.name: _fate(v, feeds) for v in native}


def _fate(variant: Variant, feeds: dict[str, Any]) -> str:
    child = os.fork()
    if child == 0:
        program.can_run = lambda isa: True  # type: ignore[attr-defined]
        program.Program(variant.model).run([feeds[spec.name] for spec in variant.model.inputs])
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {status >> 8}"


def command(*words: str) -> dict[str, Any]:
    """A command of ``qcc``: its exit code and what it writes to stdout."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = command_line.run(list(words))
    return {"code": code, "out": out.getvalue()}


def _hex(outputs: dict[str, Any]) -> dict[str, Any]:
    return {"outputs": {name: array.tobytes().hex() for name, array in outputs.items()}}


STEPS: dict[str, Callable[..., Any]] = {
    "artifact": run_artifact,
    "compile": compile_model,
    "profile": profile,
    "refusal": refusal,
    "forced": forced,
    "command": command,
}


def main() -> None:
    """Carry out the job's steps in order."""
    job_path, result_path = sys.argv[1:]
    job = json.loads(Path(job_path).read_text())
    program.LEAST_MACS = 0  # small models, too, run on several threads
    results: dict[str, Any] = {"machine": describe()}
    runs = {name: can_run(isa) for name, isa in INSTRUCTION_SETS.items()}
    results["can_run"] = [name for name, fits in runs.items() if fits]
    for name, (step, arguments) in job.items():
        start = time.perf_counter()
        given = [_array_of(word) for word in arguments]
        results[name] = STEPS[step](*given)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
    results["modules"] = [name for name in ("onnxruntime", "torch") if name in sys.modules]
    Path(result_path).write_text(json.dumps(results))


def _array_of(word: Any) -> Any:
    """``@in.npz`` is the arrays of that file."""
    if not isinstance(word, str) or not word.startswith("@"):
        return word
    with np.load(word[1:]) as arrays:
        return dict(arrays)


if __name__ == "__main__":
    main()
