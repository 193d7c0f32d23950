"""Compile random models and hold what comes out against the reference.

    python tools/fuzz.py --seconds 300                   # until time is over
    python tools/fuzz.py --seed 4711 --count 1           # one seed again
    python tools/fuzz.py --count 50 --target x86-avx512vnni --target onnx
    python tools/fuzz.py --seconds 60 --emulate          # also instruction sets this CPU lacks

A seed is a model of random ops, shapes and weights with random calibration data.  Demanded are that
it compiles, that the float passes change nothing, that native code gives the reference's bytes for
all outputs and stored values, that the exported model agrees with the reference in onnxruntime, and
that outputs resemble the float model's.  Each model runs in a process of its own, so a crash or a
hang is a finding too.  A failure is written to a folder for ``tools/replay.py`` and
``tools/reduce.py``; the exit code is 1.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fuzzing.cases import (
    EXPORT,
    default_targets,
    failure_of,
    native_rows,
    random_case,
    save_case,
)
from tests.fuzzing.isolation import isolated


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default 0)")
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--count", type=int, help="how many seeds (default 100)")
    much.add_argument("--seconds", type=float, help="go on for so long instead")
    parser.add_argument(
        "--target",
        action="append",
        choices=[*native_rows(), EXPORT],
        help="may be repeated; default: what this CPU runs, and onnx",
    )
    parser.add_argument(
        "--emulate", action="store_true", help="all instruction sets of this architecture"
    )
    parser.add_argument("--steps", type=int, default=10, help="most steps of a model (default 10)")
    parser.add_argument(
        "--output", type=Path, default=Path.cwd(), help="where folders of failures go"
    )
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    chosen = parse(arguments)
    targets = chosen.target or ([*native_rows(), EXPORT] if chosen.emulate else default_targets())
    count = None if chosen.seconds else chosen.count or 100
    end = time.monotonic() + (chosen.seconds or float("inf"))
    found: Counter[str] = Counter()
    done = 0
    for seed in itertools.count(chosen.seed):
        if done == count or time.monotonic() >= end or (found and not chosen.keep_going):
            break
        case = random_case(seed, targets, chosen.steps)
        failure = isolated(failure_of, case)
        done += 1
        if failure is None:
            continue
        known = failure.signature in found
        found[failure.signature] += 1
        print(f"seed {seed}: {failure.message.splitlines()[0]}", flush=True)
        if not known:
            folder = chosen.output / f"qcc-fuzz-{seed}"
            save_case(case, folder, failure)
            print(f"  written to {folder}; python tools/replay.py {folder}", flush=True)
    failed = sum(found.values())
    print(f"{done} models for {', '.join(targets)}: {failed} failed in {len(found)} way(s)")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
