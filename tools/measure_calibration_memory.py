"""Measure the memory of quantizing a model: it must not grow with the number of samples.

For every observer and number of samples a process of its own prepares the model, calibrates it on
random samples (made one by one) and converts it.  Prints the peak resident memory up to the end of
calibration and up to the end of conversion, the least of ``--repeat`` runs (where the allocator
finds room differs from run to run by some percent of a large model).  The exit code is 1 where the
second passes that of the fewest samples by more than ``--limit`` percent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MODEL = Path(__file__).resolve().parents[1] / "examples" / "digits" / "digits.onnx"
BACKEND = "onnx"
OBSERVERS = ("minmax", "moving-average", "histogram", "percentile", "entropy", "mse")


def peak_mib() -> float:
    """The high-water mark of this process's resident memory.

    Not ``ru_maxrss``: a process inherits that of the one which started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no VmHWM line; measure on Linux")


def random_batches(inputs: Any, count: int) -> Iterator[dict[str, Any]]:
    """``count`` batches for float ``inputs`` (specs); free dimensions are 1."""
    import numpy as np

    random = np.random.default_rng(0)
    for _ in range(count):
        yield {
            spec.name: random.standard_normal(
                [size if isinstance(size, int) else 1 for size in spec.shape], np.float32
            )
            for spec in inputs
        }


def quantize_once(model: Path, observer: str, samples: int) -> dict[str, float]:
    """Quantize in this process and give its peaks in MiB."""
    from qcc.backends.registry import backend_config
    from qcc.onnxio import read_onnx
    from qcc.pipeline import convert, prepare
    from qcc.quant.calibration.batches import input_specs
    from qcc.quant.qconfig_mapping import mapping_with_observer

    graph = read_onnx(model)
    prepared = prepare(graph, mapping_with_observer(observer, BACKEND), backend_config(BACKEND))
    prepared.calibrate(random_batches(input_specs(graph), samples))
    calibrated = peak_mib()
    convert(prepared)
    return {"calibrated": calibrated, "converted": peak_mib()}


def measure(model: Path, observer: str, samples: int, repeat: int) -> dict[str, float]:
    """The least peaks of :func:`quantize_once` in ``repeat`` processes."""
    runs = [_in_a_process(model, observer, samples) for _ in range(repeat)]
    return {stage: min(run[stage] for run in runs) for stage in runs[0]}


def _in_a_process(model: Path, observer: str, samples: int) -> dict[str, float]:
    command = [sys.executable, __file__, str(model), "--child", observer, str(samples)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=MODEL, help="default: the example")
    parser.add_argument("--observers", nargs="+", default=OBSERVERS, choices=OBSERVERS)
    parser.add_argument("--samples", nargs="+", type=int, default=[10, 1000])
    parser.add_argument("--limit", type=float, default=5.0, help="allowed growth in percent")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("OBSERVER", "SAMPLES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        observer, count = arguments.child
        print(json.dumps(quantize_once(arguments.model, observer, int(count))))
        return 0
    failed = False
    print(
        f"{'observer':16} {'samples':>8} {'calibrated MiB':>15} {'converted MiB':>14} {'growth':>8}"
    )
    for observer in arguments.observers:
        first: float | None = None
        for count in sorted(arguments.samples):
            peaks = measure(arguments.model, observer, count, arguments.repeat)
            first = peaks["converted"] if first is None else first
            growth = 100 * (peaks["converted"] / first - 1)
            failed = failed or growth > arguments.limit
            both = f"{peaks['calibrated']:8.1f} MiB {peaks['converted']:8.1f} MiB"
            print(f"{observer:16} {count:8} {both} {growth:+7.1f}%", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
