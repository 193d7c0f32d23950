"""Hold native code of zoo models, on every instruction set, against the reference evaluator.

A row of this architecture that this CPU cannot run is emulated: its instructions are replaced by
their definitions; rows of other architectures are left out.  Every row gets the numbers of its own
backend.  With ``--every-value`` all values that
the model stores as integers are compared too, as further outputs.  Prints a line a model and row;
the exit code is 1 where any byte differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.machine import host_architecture
from qcc.ir.core import Graph
from qcc.runtime.build import native_backend_name
from tests.differential.models import DIGITS, sample, zoo_names
from tests.differential.native import compare_native, runnable_row, with_stored_outputs

COLUMNS = f"{'model':44} {'isa':15} {'how':9} {'outputs':>7} {'elements':>9} {'differing':>9}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"names of zoo models, or {DIGITS}; default: all")
    parser.add_argument("--isa", action="append", choices=sorted(INSTRUCTION_SETS))
    parser.add_argument("--batches", type=int, default=4, help="calibration feeds of each model")
    parser.add_argument("--compared", type=int, default=1, help="feeds that are compared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every-value", action="store_true", help="compare inner values too")
    arguments = parser.parse_args()
    rows = [row for row in INSTRUCTION_SETS.values() if row.architecture == host_architecture()]
    if arguments.isa:
        rows = [INSTRUCTION_SETS[name] for name in arguments.isa]
    failed = False
    print(f"{COLUMNS} {'s':>5}")
    for name in arguments.models or [DIGITS, *zoo_names()]:
        model = sample(name, arguments.batches)
        graphs: dict[str, Graph] = {}
        for row in rows:
            backend = native_backend_name(row.name)
            if backend not in graphs:
                graph = model.numbered(backend)
                graphs[backend] = with_stored_outputs(graph) if arguments.every_value else graph
            graph = graphs[backend]
            isa = runnable_row(row)
            start = time.monotonic()
            feeds = model.feeds[: arguments.compared]
            found = compare_native(graph, isa, feeds, arguments.threads)
            how = "emulated" if isa.emulated else "native"
            line = f"{name:44} {isa.name:15} {how:9} {found.outputs:7} {found.elements:9}"
            seconds = time.monotonic() - start
            print(f"{line} {found.differing_bytes:9} {seconds:5.0f}", flush=True)
            failed = failed or found.differing_bytes > 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
