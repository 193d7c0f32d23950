"""Quantize nets with qcc and its peers, time all in alternating turns, and write the table.

    python tools/bench.py --nets DIR                        # nets with random weights
    python tools/bench.py --zoo ../shared/zoo               # real models
    python tools/bench.py --nets DIR mobilenetv2 resnet20 --threads 1 2 --out docs/benchmarks.md
    python tools/bench.py --nets DIR --isa avx2             # peers held to AVX2 where they allow it
    python tools/bench.py --nets DIR --precision float32    # nothing is quantized

Peers are onnxruntime (float32, static Q/DQ and QOperator, MatMul only, dynamic) and, with
``pip install 'qcc[bench]'``, OpenVINO (float32, bf16, NNCF int8, and onnxruntime's Q/DQ model).
Every engine of a net is a process that waits for its turn; with one thread all of them are pinned
to core 0.  Quantized files are kept in ``--work``, times never are.  An engine that cannot do a net
stands in the table with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from peers.build import ROOT, built, cpu_lines, version
from peers.engines import ENGINES, FLOAT_ENGINES, Setting
from peers.macs import count_macs
from peers.nets import (
    MADE_NETS,
    Net,
    Unavailable,
    load_feeds,
    made_net,
    make_missing,
    save_feeds,
    zoo_net,
    zoo_tasks,
)
from peers.peak import peak_macs
from peers.tables import Result, from_dict, replace_section, section
from peers.turns import Measured, Player, output_sqnr, take_turns

from qcc.backends.llvm.isa import InstructionSet, host_instruction_set, instruction_set
from qcc.cli.console import StageProgress, progress, words
from qcc.errors import QccError

ISAS = {"avx2": "x86-avx2"}
"""Values of ``--isa`` and qcc's target for them."""

Say = Callable[[str, str, int, int], None]
"""``say(net, step, done, total)``"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="nets to measure; default: all of the folder")
    parser.add_argument("--nets", type=Path, help="folder of nets with random weights")
    parser.add_argument("--zoo", type=Path, help="folder of real models (models/, data/, scripts/)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, help="default: all that fit")
    parser.add_argument("--precision", choices=("int8", "float32"), default="int8")
    parser.add_argument("--threads", nargs="+", type=int, choices=(1, 2), default=[1])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each engine")
    parser.add_argument("--samples", type=int, default=16, help="calibration feeds of every engine")
    parser.add_argument("--isa", choices=ISAS, help="hold all to this instruction set")
    parser.add_argument("--target", help="qcc's target; default: host, or what --isa says")
    parser.add_argument("--work", type=Path, default=Path("bench-work"), help="quantized files")
    parser.add_argument("--json", type=Path, help="write all results here, after every net")
    parser.add_argument("--out", type=Path, help="write tables between the markers of this page")
    parser.add_argument("--render", action="store_true", help="measure nothing, use --json's file")
    parser.add_argument("--torch-python", default=sys.executable, help="makes nets that are absent")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for one quantization")
    chosen = parser.parse_intermixed_args(arguments)
    floats = chosen.precision == "float32"
    chosen.engines = chosen.engines or list(FLOAT_ENGINES if floats else ENGINES)
    return chosen


# -- measuring -------------------------------------------------------------------------------------


def nets_of(chosen: argparse.Namespace, setting: Setting) -> Iterator[Net | Result]:
    """The chosen nets; a :class:`Result` with its reason in place of one that cannot be had."""
    if chosen.nets:
        script = (chosen.zoo or ROOT.parent / "shared" / "zoo") / "scripts" / "make_nets.py"
        chosen.nets.mkdir(parents=True, exist_ok=True)
        make_missing(chosen.nets, chosen.names or _made(chosen.nets), script, chosen.torch_python)
        for name in chosen.names or _made(chosen.nets):
            yield made_net(chosen.nets / f"{name}.onnx", chosen.work, chosen.samples)
        return
    tasks = zoo_tasks(chosen.zoo)
    for name in chosen.names or tasks:
        if name not in tasks:
            raise Unavailable(f"the zoo has no model {name}; it has: {', '.join(tasks)}")
        try:
            yield zoo_net(
                tasks[name](str(chosen.zoo)), name, chosen.work, chosen.samples, chosen.torch_python
            )
        except Unavailable as reason:
            yield Result(name, chosen.threads[0], 0, [], str(reason))


def _made(folder: Path) -> list[str]:
    """Nets that the folder holds, or, where it is empty, all that can be made."""
    return sorted(path.stem for path in folder.glob("*.onnx")) or list(MADE_NETS)


def measure(
    net: Net, threads: int, chosen: argparse.Namespace, setting: Setting, say: Say
) -> Result:
    """Quantize ``net`` with every chosen engine and time them in turns."""
    macs = count_macs(net.model, load_feeds(net.held_out)[0])
    total = sum(macs.values())
    matrix = macs.get("MatMul", 0) + macs.get("Gemm", 0)
    setting = replace(setting, matrix_share=matrix / total if total else 0.0)
    players: list[Player] = []
    rows: list[Measured] = []
    for index, name in enumerate(chosen.engines):
        engine = ENGINES[name]
        say(net.name, engine.label, index, len(chosen.engines))
        outputs = chosen.work / "outputs" / f"{net.name}-{name}.npz"
        outputs.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = built(engine, net, setting, chosen.work, chosen.limit)
        except Unavailable as reason:
            rows.append(Measured(name, engine.label, engine.integer, str(reason)))
            continue
        job = {"threads": threads, "outputs": str(outputs)}
        players.append(Player(engine, net, file, setting, job))
        rows.append(players[-1].measured)
    say(net.name, f"{chosen.rounds} rounds", len(chosen.engines), len(chosen.engines))
    take_turns(players, chosen.rounds, threads)
    reference = chosen.work / "outputs" / f"{net.name}-reference.npz"
    write_reference(net, reference)
    for player in players:
        if not player.measured.reason:
            player.measured.sqnr_db = output_sqnr(reference, player.outputs)
    return Result(net.name, threads, total, rows)


def write_reference(net: Net, path: Path) -> None:
    """Outputs of the model as it is written, in onnxruntime without optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(str(net.model), options, providers=["CPUExecutionProvider"])
    outputs: list[dict[str, Any]] = [
        {str(place): array for place, array in enumerate(session.run(None, feed))}
        for feed in load_feeds(net.held_out)
    ]
    save_feeds(path, outputs)


# -- reporting -------------------------------------------------------------------------------------


def conditions(chosen: argparse.Namespace, isa: InstructionSet, peak: float) -> list[str]:
    """What a reader must know of the machine, versions and command; no dates."""
    versions = ", ".join(
        f"{name} {version(name)}"
        for name in ("onnxruntime", "openvino", "nncf", "onnx", "llvmlite", "numpy")
    )
    command = shlex.join(["python", "tools/bench.py", *_that_matter(chosen.command)])
    held = []
    if chosen.isa:
        held = [
            f"Held to {chosen.isa}: qcc by its target, OpenVINO by ONEDNN_MAX_CPU_ISA; onnxruntime "
            "has no such switch and uses what the CPU has."
        ]
    return [
        f"`{command}`",
        "",
        f"* Machine: {_cpu()}; instruction set {isa.name}; measured {chosen.precision} "
        f"multiply peak {peak / 1e9:.1f} GMAC/s a core.",
        f"* qcc {_commit()}, Python {sys.version.split()[0]}, {versions}.",
        f"* {_samples(chosen)}; {chosen.rounds} rounds "
        "of turns in rotated order, each at least 30 ms and 3 runs, without "
        "runs that other programs interrupted where there are enough; of one thread's interrupted "
        "runs the CPU time counts. ms is the median over rounds "
        "of a turn's median; the ratio is the median over rounds of peer / qcc (above 1: qcc is "
        "faster). SQNR is against float onnxruntime on inputs that nobody calibrated with, the "
        "least of the outputs. MiB is what loading and running took beyond the runtime's imports.",
        *(f"* {line}" for line in held),
    ]


def _samples(chosen: argparse.Namespace) -> str:
    if chosen.precision == "float32":
        return "Nothing is quantized"
    return f"{chosen.samples} calibration inputs, the same for every engine"


def _that_matter(command: Sequence[str]) -> list[str]:
    """The words of the command line without where files are kept or written."""
    kept: list[str] = []
    places = ("--work", "--json", "--out", "--torch-python", "--limit")
    for before, word in zip(["", *command], command, strict=False):
        if before not in places and not word.startswith(places):
            kept.append(word)
    return kept


def _cpu() -> str:
    known = cpu_lines("model name", "cpu family", "model", "flags")
    interesting = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    have = [flag for flag in interesting if flag in known["flags"].split()]
    family = f"family {known['cpu family']} model {known['model']}"
    return f"{known['model name']} ({family}; {', '.join(have)}), {os.cpu_count()} cores"


def _commit() -> str:
    command = ["git", "-C", str(ROOT)]
    found = subprocess.run([*command, "rev-parse", "--short", "HEAD"], capture_output=True)
    commit = found.stdout.decode().strip() or "unknown commit"
    status = [*command, "status", "--porcelain", "--", "qcc", "passes", "backends"]
    changed = subprocess.run(status, capture_output=True).stdout
    return commit + (" with changes" if changed else "")


def write_tables(chosen: argparse.Namespace, data: dict[str, Any]) -> None:
    """Tables to the page of ``--out``, or to stdout."""
    results = [from_dict(item) for item in data["results"]]
    for threads in sorted({result.threads for result in results}):
        rows = [result for result in results if result.threads == threads]
        count = "one thread" if threads == 1 else f"{threads} threads"
        title = f"{data['kind']}, {count}" + (f", {data['isa']}" if data["isa"] else "")
        text = section(title, data["conditions"], rows, data["peak"])
        if chosen.out is None:
            print(text)
            continue
        name = "-".join(filter(None, [data["key"], str(threads), data["isa"]]))
        page = chosen.out.read_text() if chosen.out.exists() else "# Benchmarks\n"
        chosen.out.write_text(replace_section(page, name, text))


def _run(chosen: argparse.Namespace, say: Say) -> dict[str, Any]:
    target = chosen.target or ISAS.get(chosen.isa or "", "host")
    isa = host_instruction_set() if target == "host" else instruction_set(target)
    peak = peak_macs(isa, chosen.precision)
    setting = Setting(target, chosen.isa, precision=chosen.precision)
    floats = chosen.precision == "float32"
    kind, key = ("Nets with random weights", "nets") if chosen.nets else ("Real models", "zoo")
    data: dict[str, Any] = {
        "kind": f"{kind} in float32" if floats else kind,
        "key": f"{key}-float32" if floats else key,
        "isa": chosen.isa,
        "peak": peak,
        "conditions": conditions(chosen, isa, peak),
        "results": [],
    }
    for net in nets_of(chosen, setting):
        found = [net] if isinstance(net, Result) else _all_threads(net, chosen, setting, say)
        data["results"] += [result.to_dict() for result in found]
        if chosen.json:
            chosen.json.write_text(json.dumps(data, indent=1))
    return data


def _all_threads(net: Net, chosen: argparse.Namespace, setting: Setting, say: Say) -> list[Result]:
    return [measure(net, threads, chosen, setting, say) for threads in chosen.threads]


def _sayer(bars: StageProgress) -> Say:
    """Bars on a terminal, a line a step elsewhere."""

    def say(net: str, step: str, done: int, total: int) -> None:
        bars(net, done, total)
        if not words.is_terminal:
            words.print(f"{net}: {step}")

    return say


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = parse(arguments)
    chosen.command = list(sys.argv[1:] if arguments is None else arguments)
    for name in ("work", "nets", "zoo"):
        folder = getattr(chosen, name)
        setattr(chosen, name, folder and folder.resolve())
    try:
        if chosen.render:
            write_tables(chosen, json.loads(chosen.json.read_text()))
            return 0
        if not chosen.nets and not chosen.zoo:
            raise Unavailable("name a folder with --nets or --zoo")
        with progress() as bars:
            data = _run(chosen, _sayer(bars))
        write_tables(chosen, data)
    except (Unavailable, QccError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
