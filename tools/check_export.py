"""Hold exported Q/DQ models, op by op in onnxruntime, against the reference evaluator.

Each model is quantized for target onnx with defaults; every group of its Q/DQ form runs in
onnxruntime with all optimizations off (see ``qcc/runtime/op_by_op.py``) on the inputs
that the reference computed.  Prints a line a model; the exit code is 1 where a stored value differs
by more than a step or a float by more than 1e-5 of the largest (of 0.05 where all are smaller).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qcc.backends.registry import backend_config
from qcc.runtime.op_by_op import Comparison, compare_export
from tests.differential.models import DIGITS, sample, zoo_names

BACKEND = "onnx"


def check(name: str, batches: int, compared: int) -> Comparison:
    model = sample(name, batches)
    graph = model.numbered(BACKEND)
    return compare_export(graph, backend_config(BACKEND).patterns, model.feeds[:compared])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"names of zoo models, or {DIGITS}")
    parser.add_argument("--zoo", action="store_true", help="every model of the zoo")
    parser.add_argument("--batches", type=int, default=16, help="calibration feeds of each model")
    parser.add_argument("--compared", type=int, default=2, help="feeds that are compared")
    arguments = parser.parse_args()
    names = [*arguments.models, *(zoo_names() if arguments.zoo else [])]
    if not names:
        parser.error("name models or give --zoo")
    failed = False
    for name in names:
        start = time.monotonic()
        comparison = check(name, arguments.batches, arguments.compared)
        seconds = time.monotonic() - start
        print(f"{name:44} {comparison.summary}  ({seconds:.0f} s)", flush=True)
        for item in comparison.refused:
            unit = "steps" if item.is_stored else "of the largest"
            print(f"    {item.label}: {item.differing} of {item.elements} by {item.worst:g} {unit}")
        failed = failed or bool(comparison.refused)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
