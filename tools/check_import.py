"""Quantize models of a zoo with other tools, and hold what qcc makes of them against onnxruntime.

    python tools/check_import.py ../shared/zoo
    python tools/check_import.py ../shared/zoo kws_dscnn --forms qdq-u8s8 dynamic
    python tools/check_import.py ../shared/zoo --nncf /opt/ovenv/bin/python --target host

For each model and form: the file as onnxruntime's quantizer (or NNCF) writes it, compiled without
sample inputs to native code, and scored on the zoo's data beside onnxruntime three times:

* ``shipped``: as it runs by default.  On CPUs without VNNI its kernels saturate sums of products of
  uint8 activations and int8 weights.
* ``written``: all optimizations off, every Q/DQ computed literally
  (``session.disable_quant_qdq=1``); convolutions of dequantized values are sums of floats.
* ``exact``: its integer kernels without that saturation (``session.x64quantprecision=1``), which is
  what CPUs with VNNI compute by default.

Models that came quantized (``*_qdq``) are taken as they are.  The last column is the difference
between native code and ``exact``, marked where it is more than ``--tolerance``.  The exit code is 1
when a model does not compile.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qcc
from qcc.errors import QccError

Run = Callable[[dict[str, Any]], list[Any]]

MODELS = (
    "kws_dscnn",
    "resnet8_cifar10_nhwc",
    "vww_mobilenet025_96_nhwc",
    "mobilenet_v1_025_128_imagenet",
    "fastestdet_coco",
    "dreams260k_llama",
    "mobilenet_v1_025_128_imagenet_tflite_qat_qdq",
    "mobilenet_v2_10_224_imagenet_tflite_qat_qdq",
)

STATIC = {
    "qdq-u8s8": ("QDQ", "QUInt8", "QInt8", True),
    "qdq-s8s8": ("QDQ", "QInt8", "QInt8", True),
    "qdq-u8u8": ("QDQ", "QUInt8", "QUInt8", False),
    "qop-u8u8": ("QOperator", "QUInt8", "QUInt8", False),
    "qop-s8s8": ("QOperator", "QInt8", "QInt8", True),
}
"""Form to quant_format, activation_type, weight_type and per_channel of quantize_static."""

FORMS = (*STATIC, "dynamic", "nncf")

AS_IT_IS = "as it is"

CALIBRATION_FEEDS = 64

NNCF = """
import pickle, sys
import nncf, onnx
source, target, feeds = sys.argv[1:]
data = pickle.load(open(feeds, "rb"))
quantized = nncf.quantize(onnx.load(source), nncf.Dataset(data), subset_size=len(data))
onnx.save(quantized, target)
"""

IGNORED = ("n", "images", "chunks", "boxes", "boxes_fp32", "faces", "faces_fp32")


@dataclass(frozen=True)
class Row:
    """One measure of one model in one form."""

    model: str
    form: str
    measure: str
    shipped: float
    written: float
    exact: float
    native: float
    where: str

    def text(self, tolerance: float) -> str:
        gap = self.native - self.exact
        mark = "  <<<" if abs(gap) > tolerance else ""
        return (
            f"{self.model:46} {self.form:9} {self.measure:18} {self.shipped:>9.3f} "
            f"{self.written:>9.3f} {self.exact:>9.3f} {self.native:>9.3f} {gap:>+8.3f}  "
            f"{self.where}{mark}"
        )


def calibration_reader(feeds: Sequence[Any]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.waiting = iter(feeds)

        def get_next(self) -> Any:
            return next(self.waiting, None)

    return Reader()


def prepared(source: Path, folder: Path) -> Path:
    """The float model after onnxruntime's own preparation, where that takes it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path, source = folder.resolve() / "prepared.onnx", source.resolve()
    before = Path.cwd()
    os.chdir(folder)  # it leaves files where it runs when it gives up
    try:
        quant_pre_process(source, path)
    except Exception:
        # It gives up on models whose shapes it cannot infer; the quantizer takes them as they are.
        return source
    finally:
        os.chdir(before)
    return path


def quantized_model(task: Any, form: str, folder: Path, nncf: str | None) -> Path:
    """The file that a quantizer writes for a zoo model."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    source = Path(task.onnx())
    if form == AS_IT_IS:
        return source
    path = folder / f"{form}.onnx"
    feeds = task.calib()[:CALIBRATION_FEEDS]
    if form == "nncf":
        import pickle

        (folder / "feeds.pickle").write_bytes(pickle.dumps(feeds))
        command = [str(nncf), "-c", NNCF, str(source), str(path), str(folder / "feeds.pickle")]
        subprocess.run(command, check=True, capture_output=True)
        return path
    ready = prepared(source, folder)
    if form == "dynamic":
        quantize_dynamic(ready, path, weight_type=QuantType.QUInt8)
        return path
    kind, activation, weight, per_channel = STATIC[form]
    quantize_static(
        ready,
        path,
        calibration_reader(feeds),
        quant_format=QuantFormat[kind],
        activation_type=QuantType[activation],
        weight_type=QuantType[weight],
        per_channel=per_channel,
    )
    return path


def onnxruntime_runner(path: Path, *, literal: bool = False, exact: bool = False) -> Run:
    """onnxruntime with all optimizations, or literally, or with exact integers."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if literal:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: list(session.run(None, feed))


def _exact_score(task: Any, path: Path, shipped: Any) -> Any:
    """The score with exact integers; kernels of int8 activations have no other mode and are."""
    try:
        run = onnxruntime_runner(path, exact=True)
    except Exception:
        return shipped
    return task.score(run, None)


def check(task: Any, form: str, target: str, folder: Path, nncf: str | None) -> list[Row]:
    """Make, compile and score one model in one form."""
    path = quantized_model(task, form, folder, nncf)
    compiled = qcc.compile(path, target=target)
    assert isinstance(compiled, qcc.Executable)
    report = compiled.report
    regions = sum("(native float32)" not in n.reason for n in report.nodes if not n.is_int8)
    where = f"int8 {report.int8_nodes}, float {report.float_nodes - regions}, regions {regions}"
    shipped = task.score(onnxruntime_runner(path), None)
    written = task.score(onnxruntime_runner(path, literal=True), None)
    exact = _exact_score(task, path, shipped)
    native = task.score(lambda feed: list(compiled.run(feed).values()), None)
    return [
        Row(
            task.model,
            form,
            name,
            shipped[name],
            written[name],
            exact[name],
            native[name],
            where,
        )
        for name in native
        if name not in IGNORED
    ]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("names", nargs="*", help="models; default a choice of small ones")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--nncf", help="the Python of an environment that has nncf")
    parser.add_argument("--target", default="host")
    parser.add_argument("--tolerance", type=float, default=0.2)
    parser.add_argument("--json", type=Path, help="write all rows here")
    chosen = parser.parse_intermixed_args(arguments)
    sys.path.insert(0, str(chosen.zoo / "scripts"))
    evalkit = importlib.import_module("evalkit")
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(
        f"{'model':46} {'form':9} {'measure':18} {'shipped':>9} {'written':>9} {'exact':>9} "
        f"{chosen.target:>9} {'gap':>8}"
    )
    rows: list[Row] = []
    failed = 0
    for name in chosen.names or MODELS:
        task = evalkit.TASKS[name](str(chosen.zoo))
        forms = (AS_IT_IS,) if name.endswith("_qdq") else chosen.forms
        for form in forms:
            if form == "nncf" and chosen.nncf is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = check(task, form, chosen.target, Path(folder), chosen.nncf)
                except (QccError, subprocess.CalledProcessError) as error:
                    failed += isinstance(error, QccError)
                    print(f"{name:46} {form:9} FAILED: {error}", flush=True)
                    continue
            rows += found
            print("\n".join(row.text(chosen.tolerance) for row in found), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps([vars(row) for row in rows], indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
