"""``qcc run``, ``qcc bench`` and ``qcc diff``: use a compiled model, time it, compare it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcc.cli.console import print_table, result, result_json, table, words
from qcc.cli.options import (
    PLAIN,
    DataOptions,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    takes_data_options,
)

CompiledArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="A compiled model: .qcc or .onnx.")
]


def run_model(
    compiled: CompiledArgument,
    inputs: Annotated[
        Path, typer.Option("--inputs", metavar="IN.npz", help="One array an input, by name.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.npz", help="Where the outputs go.")
    ],
    threads: ThreadsOption = 1,
) -> None:
    """Run a compiled model on the arrays of an .npz file.

    [bold]Example[/]

      qcc run model.qcc --inputs batch.npz -o result.npz
    """
    from qcc.runtime.files import load_arrays, save_arrays
    from qcc.runtime.runnable import open_runnable

    runnable = open_runnable(compiled, threads=threads)
    say_targets(compiled)
    outputs = runnable.run(load_arrays(inputs, runnable.input_names))
    save_arrays(output, outputs)
    for name, array in outputs.items():
        words.print(f"{name}: {array.dtype} {list(array.shape)}")
    result(str(output))


def bench(
    compiled: CompiledArgument,
    versus: Annotated[
        Path | None,
        typer.Option("--vs", metavar="MODEL.onnx", help="Time onnxruntime on this in turn."),
    ] = None,
    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="IN.npz", help="Inputs; random ones by default."),
    ] = None,
    threads: ThreadsOption = 1,
    runs: Annotated[int, typer.Option("--runs", min=3, help="Timed runs of each.")] = 50,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show which kernels take the time (one thread).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Time a compiled model, alone or in turns with onnxruntime on another.

    Runs alternate A B A B, so that a machine whose speed drifts treats both alike; the median of
    the pairwise ratios is the figure to quote.  MiB is what a model adds to a process that opens
    and runs it: weights, buffers and the engine's own data.

    [bold]Examples[/]

      qcc bench model.qcc --vs model.int8.onnx --threads 1

      qcc bench model.qcc --profile
    """
    if profile:
        if versus is not None or threads != 1:
            raise typer.BadParameter("--profile looks at one model on one thread")
        _profile(compiled, inputs, runs, as_json)
        return
    from qcc.runtime.benchmark import benchmark

    say_targets(compiled)
    timing = benchmark(compiled, versus, inputs=inputs, threads=threads, runs=runs)
    if as_json:
        result_json(timing.to_dict())
        return
    rows = [
        [
            str(t.path),
            f"{t.engine} {t.instruction_set}".strip(),
            f"{t.median_ms:.3f}",
            f"{t.least_ms:.3f}",
            f"{t.p90_ms:.3f}",
            "-" if t.memory_bytes is None else f"{t.memory_bytes / MIB:.1f}",
        ]
        for t in timing.timings
    ]
    columns = ["model", "engine", "median ms", "min ms", "p90 ms", "MiB"]
    print_table(table(f"{runs} runs, {threads} thread(s)", columns, rows, right=2))
    if timing.ratio is not None:
        result(f"{compiled} is {timing.ratio:.2f}x as fast as {versus} (median of pairs)")


def say_targets(compiled: Path) -> None:
    """Say of an artifact for several instruction sets which they are, and which of them runs."""
    if compiled.suffix != ".qcc" or not compiled.is_file():
        return
    from qcc.runtime.contents import contents_of

    found = contents_of(compiled)
    if len(found.targets) > 1:
        words.print(str(found), soft_wrap=True)


MIB = 2**20

PROFILE_ROWS = 40
"""Rows of a profile's table; ``--json`` has all."""


def _profile(compiled: Path, inputs: Path | None, runs: int, as_json: bool) -> None:
    from qcc.runtime.benchmark import profile

    say_targets(compiled)
    found = profile(compiled, inputs=inputs, runs=runs)
    if as_json:
        result_json(found.to_dict())
        return
    total = found.total_ms
    rows = [
        [
            row.node,
            row.kernel,
            f"{row.ms:.3f}",
            f"{100 * row.ms / max(total, 1e-9):.1f} %",
            f"{row.gmacs:.1f}" if row.macs else "",
        ]
        for row in found.slowest
    ]
    shown, columns = rows[:PROFILE_ROWS], ["node", "kernel", "ms", "share", "GMAC/s"]
    print_table(table(f"{compiled}: {total:.3f} ms, median of {runs}", columns, shown, right=2))
    if len(rows) > len(shown):
        rest = sum(row.ms for row in found.slowest[PROFILE_ROWS:])
        words.print(f"{len(rows) - len(shown)} more take {rest:.3f} ms (all with --json)")


@takes_data_options
def diff(
    model: ModelArgument,
    compiled: CompiledArgument,
    data: Annotated[
        str, typer.Option("--data", metavar="DATA", help="Sample inputs, as for --calib.")
    ],
    reading: DataOptions = PLAIN,
    as_json: JsonOption = False,
) -> None:
    """Compare the outputs of a compiled model with those of the float model.

    [bold]Example[/]

      qcc diff model.onnx model.qcc --data samples.npz
    """
    from qcc.runtime.comparison import compare_models

    rows = compare_models(model, compiled, reading.open(model, data))
    if as_json:
        result_json([row.to_dict() for row in rows])
        return
    cells = [
        [
            row.name,
            str(row.elements),
            f"{row.sqnr_db:.2f}",
            f"{row.cosine:.6f}",
            f"{row.largest:.4g}",
            "-" if row.top1_agreement is None else f"{100 * row.top1_agreement:.2f} %",
        ]
        for row in rows
    ]
    columns = ["output", "elements", "SQNR dB", "cosine", "max |difference|", "top-1 agreement"]
    print_table(table(f"{compiled} against {model}", columns, cells))


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("run")(run_model)
    app.command("bench")(bench)
    app.command("diff")(diff)
