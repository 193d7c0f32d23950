"""Say which nodes of exported Q/DQ models onnxruntime turns into integer kernels.

``FILE.onnx`` is looked at as it is; the name of a zoo model (or digits) is quantized for the target
first.  Prints a line a model and, for nodes between quantize and dequantize that stay float, the
reasons; the exit code is 1 where there are such nodes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qcc.onnxio import to_model_proto
from qcc.runtime.fusion import FusionReport, fused_share, reasons, table
from tests.differential.models import DIGITS, sample, zoo_names


def report_of(name: str, target: str, batches: int, opset: int) -> FusionReport:
    """Of a file, or of a zoo model that is quantized now."""
    if name.endswith(".onnx"):
        return fused_share(Path(name))
    graph = sample(name, batches).numbered(target)
    return fused_share(to_model_proto(graph, opset=opset))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"FILE.onnx, names of zoo models, or {DIGITS}")
    parser.add_argument("--zoo", action="store_true", help="every model of the zoo, and digits")
    parser.add_argument("--target", default="onnx", help="the export target")
    parser.add_argument("--batches", type=int, default=4, help="calibration feeds of each model")
    parser.add_argument("--opset", type=int, default=21, help="the opset of the exports")
    parser.add_argument("--floats", action="store_true", help="reasons of all float nodes, too")
    arguments = parser.parse_args()
    names = [*arguments.models, *([DIGITS, *zoo_names()] if arguments.zoo else [])]
    if not names:
        parser.error("name models or give --zoo")
    reports = []
    for name in names:
        report = report_of(name, arguments.target, arguments.batches, arguments.opset)
        reports.append((Path(name).stem, report))
        print("\n".join(table([reports[-1]])[1:]), flush=True)
        chosen = [*report.missing, *(report.floats if arguments.floats else ())]
        for sentence, count in reasons(chosen):
            print(f"    {count} {sentence}", flush=True)
    print("\n".join(["", *table(reports)]))
    return int(any(report.missing for _, report in reports))


if __name__ == "__main__":
    sys.exit(main())
