"""Hold native code of models for AArch64, run under qemu, against the reference evaluator.

Every model gets the numbers of the ``arm`` backend, once for all rows.  The same graph is compiled
for this machine, too, and both codes' outputs are compared.  With ``--every-value`` all values that
the model stores as integers are compared, as further outputs.  Prints a line a model and row; what
runs partly in onnxruntime is listed with the reason and left out.  The exit code is 1 where any
byte differs or a program does not end well.

``--patterns`` checks every entry of the ``arm``, ``qnnpack`` and ``xnnpack`` BackendConfigs
instead, ``--networks N`` random networks with N seeds: their lines count graphs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet
from qcc.backends.registry import backend_config
from qcc.ir.core import Graph
from qcc.onnxio import read_onnx
from qcc.pipeline import keep_float
from qcc.quant.backend_config import BackendConfig, BackendPatternConfig
from tests.conformance.claims import prepared_claim
from tests.conformance.prepared import Prepared
from tests.conformance.random_graphs import RandomNetwork, prepared_network
from tests.conformance.shared_channels import BranchyNetwork
from tests.differential.models import DIGITS, Feeds, sample, zoo_names
from tests.differential.native import with_stored_outputs
from tests.emulation.comparison import compare_emulated, expectations, region_reasons
from tests.emulation.programs import missing_tools

ROWS = [row.name for row in INSTRUCTION_SETS.values() if row.architecture == "aarch64"]
BACKENDS = ("arm", "qnnpack", "xnnpack")
NETWORK_STEPS = 14
COLUMNS = f"{'model':44} {'isa':12} {'outputs':>7} {'elements':>10} {'differing':>9} {'host':>9}"


def check(
    name: str,
    graph: Graph,
    feeds: Sequence[Feeds],
    rows: Sequence[InstructionSet],
    threads: int,
    floats: bool,
) -> bool:
    """Print a line a row; whether all bytes are right.  A graph with regions counts as right."""
    reasons = region_reasons(graph, feeds[0], floats=floats)
    if reasons:
        print(f"{name:44} not native: {'; '.join(reasons)}", flush=True)
        return True
    right = True
    expected = expectations(graph, feeds, floats=floats)
    for row in rows:
        start = time.monotonic()
        print(f"{name:44} {row.name:12} ", end="", flush=True)
        try:
            found = compare_emulated(graph, row, expected, threads, floats=floats)
        except AssertionError as error:
            print(error, flush=True)
            right = False
            continue
        seconds = time.monotonic() - start
        counts = f"{found.differing_bytes:9} {found.differing_from_host:9}"
        print(f"{found.outputs:7} {found.elements:10} {counts} {seconds:6.1f}", flush=True)
        right = right and found.differing_bytes == found.differing_from_host == 0
    return right


def check_model(name: str, rows: Sequence[InstructionSet], arguments: argparse.Namespace) -> bool:
    """A zoo model, quantized with its first feeds."""
    model = sample(name, arguments.batches)
    floats = arguments.float32
    graph = keep_float(read_onnx(model.path)) if floats else model.numbered("arm")
    if arguments.every_value:
        graph = with_stored_outputs(graph)
    return check(name, graph, model.feeds[: arguments.compared], rows, arguments.threads, floats)


def check_graphs(
    kind: str,
    names: Sequence[str],
    prepare: Callable[[int], Prepared],
    rows: Sequence[InstructionSet],
    threads: int,
) -> bool:
    """Run prepared graphs, print those that are wrong and a line a row; whether all are right."""
    wrong = dict.fromkeys(rows, 0)
    seconds = dict.fromkeys(rows, 0.0)
    for index, name in enumerate(names):
        prepared = prepare(index)
        for row in rows:
            start = time.monotonic()
            try:
                prepared.check_emulated(row, threads)
            except AssertionError as error:
                wrong[row] += 1
                print(f"{kind} {name} on {row.name}: {error}", flush=True)
            seconds[row] += time.monotonic() - start
    for row in rows:
        counts = f"{len(names)} graphs, {wrong[row]} wrong"
        print(f"{kind:16} {row.name:12} {counts}, {seconds[row]:.0f} s", flush=True)
    return not any(wrong.values())


def check_patterns(rows: Sequence[InstructionSet], threads: int) -> bool:
    """Every entry of every backend of AArch64."""
    right = True
    for backend in map(backend_config, BACKENDS):
        entries = [config for config in backend.patterns if config.lowering is not None]
        prepare = partial(_prepared_entry, backend, entries)
        names = [config.name for config in entries]
        right = check_graphs(backend.name, names, prepare, rows, threads) and right
    return right


def _prepared_entry(
    backend: BackendConfig, entries: Sequence[BackendPatternConfig], index: int
) -> Prepared:
    return prepared_claim(backend, entries[index])


def _prepared_network(kind: type[RandomNetwork], seed: int) -> Prepared:
    return prepared_network(kind(seed), NETWORK_STEPS, backend_config("arm"))


def check_networks(count: int, rows: Sequence[InstructionSet], threads: int) -> bool:
    """Random networks, and such with branches, of ``count`` seeds."""
    seeds = list(map(str, range(count)))
    checked = [
        check_graphs(kind.__name__, seeds, partial(_prepared_network, kind), rows, threads)
        for kind in (RandomNetwork, BranchyNetwork)
    ]
    return all(checked)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"names of zoo models, or {DIGITS}; default: all")
    parser.add_argument("--isa", action="append", choices=ROWS)
    parser.add_argument("--batches", type=int, default=4, help="calibration feeds of each model")
    parser.add_argument("--compared", type=int, default=1, help="feeds that are compared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every-value", action="store_true", help="compare inner values too")
    parser.add_argument("--float32", action="store_true", help="check float32 code instead")
    parser.add_argument("--patterns", action="store_true", help="check pattern entries instead")
    parser.add_argument("--networks", type=int, metavar="N", help="check random networks instead")
    arguments = parser.parse_args()
    rows = [INSTRUCTION_SETS[row] for row in arguments.isa or ROWS]
    if missing_tools():
        print(f"Install {', '.join(missing_tools())} to run code for AArch64 here.")
        return 2
    if arguments.patterns or arguments.networks:
        right = not arguments.patterns or check_patterns(rows, arguments.threads)
        networks = arguments.networks or 0
        return int(not (check_networks(networks, rows, arguments.threads) and right))
    print(f"{COLUMNS} {'s':>6}")
    names = arguments.models or [DIGITS, *zoo_names()]
    wrong = [name for name in names if not check_model(name, rows, arguments)]
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
