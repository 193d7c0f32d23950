"""Quantize one net with one engine, in a process of its own: ``python -m peers.build JOB.json``.

The job names the engine, the net and the setting; the answer is one JSON object as the last line
of stdout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from peers.engines import ENGINES, Built, Engine, Setting, check_installed, one_line
from peers.nets import Net, Unavailable

TOOLS = Path(__file__).resolve().parents[1]
ROOT = TOOLS.parent


def environment(setting: Setting) -> dict[str, str]:
    """The environment of a worker: this checkout's qcc, one OpenBLAS thread."""
    paths = [str(TOOLS), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
        **setting.environment(),
    }


def version(package: str) -> str:
    """The installed version, or ``absent``."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def source_hash() -> str:
    """A digest of qcc's own code, so that files which other code made are not taken for its."""
    digest = hashlib.blake2b(digest_size=8)
    for folder in ("qcc", "passes", "backends"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def cache_key(engine: Engine, net: Net, setting: Setting) -> str:
    """What the quantized file depends on, as a file name."""
    digest = hashlib.blake2b(digest_size=8)
    for path in (net.model, net.calibration):
        digest.update(path.read_bytes())
    parts = [engine.name, *(f"{name} {version(name)}" for name in engine.packages)]
    if engine.runtime == "qcc":
        parts += [source_hash(), setting.target, setting.precision]
    parts += [str(setting.isa), *(cpu_lines("model name", "flags").values())]
    digest.update("\n".join(parts).encode())
    return f"{net.name}-{engine.name}-{digest.hexdigest()}"


def cpu_lines(*keys: str) -> dict[str, str]:
    """Lines of ``/proc/cpuinfo`` about the first core; a line that is not there is empty."""
    found = dict.fromkeys(keys, "")
    for line in reversed(Path("/proc/cpuinfo").read_text().splitlines()):
        key, _, value = line.partition(":")
        if key.strip() in found:
            found[key.strip()] = value.strip()
    return found


def built(engine: Engine, net: Net, setting: Setting, work: Path, seconds: float) -> Built:
    """The engine's file for the net, made now or found in ``work``; Unavailable with the reason."""
    check_installed(engine)
    folder = work / "models"
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / cache_key(engine, net, setting)
    known = Path(f"{out}.json")
    if not known.exists():
        answer = _build_in_a_process(engine, net, setting, out, seconds)
        known.write_text(json.dumps(answer))
    answer = json.loads(known.read_text())
    if "reason" in answer:
        raise Unavailable(answer["reason"])
    return Built(Path(answer["path"]), answer["note"])


def _build_in_a_process(
    engine: Engine, net: Net, setting: Setting, out: Path, seconds: float
) -> dict[str, str]:
    job = {
        "engine": engine.name,
        "net": {name: str(value) for name, value in dataclasses.asdict(net).items()},
        "setting": dataclasses.asdict(setting),
        "out": str(out),
    }
    command = [sys.executable, "-m", "peers.build", json.dumps(job)]
    try:
        with tempfile.TemporaryDirectory() as scratch:  # onnxruntime leaves files where it runs
            done = subprocess.run(
                command,
                env=environment(setting),
                cwd=scratch,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
    except subprocess.TimeoutExpired:
        return {"reason": f"quantizing took more than {seconds:.0f} s"}
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()[-1:] or ["no word"]
        return {"reason": f"quantizing ended with exit code {done.returncode}: {said[0][:160]}"}
    answer: dict[str, str] = json.loads(lines[-1])
    return answer


def _answer(job: dict[str, Any]) -> dict[str, str]:
    net = job["net"]
    paths = {name: Path(net[name]) for name in ("model", "calibration", "held_out")}
    try:
        made = ENGINES[job["engine"]].build(
            Net(net["name"], **paths), Path(job["out"]), Setting(**job["setting"])
        )
    except Unavailable as reason:
        return {"reason": str(reason)}
    except Exception as error:
        return {"reason": one_line(error)}
    return {"path": str(made.path), "note": made.note}


if __name__ == "__main__":
    print("\n" + json.dumps(_answer(json.loads(sys.argv[1]))))
