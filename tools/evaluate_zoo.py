"""Quantize the models of a zoo with default settings and score them against float and a peer.

    python tools/evaluate_zoo.py ../shared/zoo                       # every model, target host
    python tools/evaluate_zoo.py ../shared/zoo --target onnx resnet20_cifar10
    python tools/evaluate_zoo.py ../shared/zoo --observer percentile --json scores.json

The zoo folder holds ``models/``, ``data/``, ``scripts/evalkit.py`` (calibration feeds, scores) and
``manifest.json`` (the scores of float and of onnxruntime's int8 models).  Exported models run in
onnxruntime with ``session.disable_quant_qdq=1``, so that what is scored is what the file says.
The exit code is 1 when a model does not compile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import qcc
from qcc.errors import QccError

Feed = dict[str, Any]
Run = Callable[[Feed], list[Any]]

IGNORED = ("n", "images", "chunks", "boxes", "boxes_fp32", "faces", "faces_fp32", "speech_frac")
"""Entries of a score that are no quality."""

LOWER_IS_BETTER = ("ppl", "recon_mse", "prob_mae", "max_prob_diff")


def load_tasks(zoo: Path) -> Any:
    sys.path.insert(0, str(zoo / "scripts"))
    return importlib.import_module("evalkit")


def runner(model: Any, folder: Path, opset_target: bool) -> Run:
    """``model`` as ``run(feed) -> [output]``."""
    if not opset_target:
        return lambda feed: list(model.run(feed).values())
    import onnxruntime as ort

    path = folder / "model.onnx"
    model.save(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, feed))


def evaluate(task: Any, evalkit: Any, target: str, observer: str | None) -> dict[str, Any]:
    """Compile one model, score it, and say what it took."""
    start = time.perf_counter()
    quantized = task.model.endswith("_qdq")
    compiled = qcc.compile(
        task.onnx(),
        calibration=None if quantized else task.calib(),
        target=target,
        observer=None if quantized else observer,
    )
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        run = runner(compiled, Path(folder), isinstance(compiled, qcc.ExportedModel))
        score = task.score(run, evalkit.ort_run(task.onnx()))
    report = compiled.report
    return {
        "score": score,
        "seconds": round(seconds, 1),
        "int8": report.int8_nodes,
        "float": report.float_nodes,
        "reasons": report.float_reasons()[:5],
        "sqnr_db": {k: round(v, 2) for k, v in report.output_sqnr_db.items()},
    }


def best_peer(entry: dict[str, Any]) -> dict[str, float]:
    """The best figure of any int8 column for each measure."""
    best: dict[str, float] = {}
    for key, score in entry.items():
        if not key.startswith("int8") or not isinstance(score, dict):
            continue
        for name, value in score.items():
            if name in IGNORED or not isinstance(value, (int, float)):
                continue
            better = min if name in LOWER_IS_BETTER else max
            measure = name.removesuffix("_pairs")
            best[measure] = better(best.get(measure, value), value)
    return best


def describe(name: str, result: dict[str, Any], entry: dict[str, Any]) -> list[str]:
    """Lines of the table for one model: a row a measure."""
    lines = []
    peer, exact = best_peer(entry), entry.get("fp32", {})
    for measure, value in result["score"].items():
        if measure in IGNORED:
            continue
        worse = _worse(measure, value, peer.get(measure))
        lines.append(
            f"{name:44} {measure:18} {value!s:>10} {exact.get(measure, '-')!s:>10} "
            f"{peer.get(measure, '-')!s:>10} {'below' if worse else '':6}"
        )
    lines.append(
        f"{'':44} int8 {result['int8']}, float {result['float']}, {result['seconds']} s, "
        f"SQNR {result['sqnr_db']}"
    )
    lines.extend(f"{'':44}   {count} float: {reason}" for reason, count in result["reasons"])
    return lines


def _worse(measure: str, value: float, peer: float | None) -> bool:
    if peer is None:
        return False
    return value > peer if measure in LOWER_IS_BETTER else value < peer


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("names", nargs="*", help="models; default all")
    parser.add_argument("--target", default="host")
    parser.add_argument("--observer")
    parser.add_argument("--json", type=Path, help="write all results here")
    chosen = parser.parse_intermixed_args(arguments)
    evalkit = load_tasks(chosen.zoo)
    manifest = json.loads((chosen.zoo / "manifest.json").read_text())
    results: dict[str, Any] = {}
    failed = 0
    print(f"{'model':44} {'measure':18} {chosen.target:>10} {'float':>10} {'best peer':>10}")
    for name in chosen.names or evalkit.TASKS:
        task = evalkit.TASKS[name](str(chosen.zoo))
        if not Path(task.onnx()).exists():
            print(f"{name:44} (no file)")
            continue
        try:
            results[name] = evaluate(task, evalkit, chosen.target, chosen.observer)
        except QccError as error:
            failed += 1
            print(f"{name:44} FAILED: {error}", flush=True)
            continue
        print("\n".join(describe(name, results[name], manifest.get(name, {}))), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(results, indent=1, default=_plain))
    return 1 if failed else 0


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
