"""``qcc explain``, ``inspect``, ``opt``, ``targets`` and ``passes``: look, without compiling."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qcc.cli.console import human_bytes, print_table, result, result_json, table, words
from qcc.cli.options import JsonOption, ModelArgument


def explain(
    model: ModelArgument,
    target: Annotated[str, typer.Option("--target", metavar="NAME", help="For which target.")] = (
        "host"
    ),
    as_json: JsonOption = False,
) -> None:
    """Say for every node what it fuses with and whether it becomes int8, and if not, why.

    [bold]Example[/]

      qcc explain model.onnx --target onnx
    """
    from qcc.compiler import explain_file

    report = explain_file(model, target)
    if as_json:
        result_json(report.to_dict())
        return
    rows = [
        [n.name, n.op, n.dtype, " + ".join(n.fused) if n.is_int8 else n.reason]
        for n in report.nodes
    ]
    print_table(table(f"{model} for {target}", ["node", "op", "type", "fusion or reason"], rows))
    words.print(f"{report.int8_nodes} nodes int8, {report.float_nodes} float")
    for note in report.notes:
        words.print(f"note: {note}", soft_wrap=True)


def inspect_artifact(
    compiled: Annotated[
        Path, typer.Argument(metavar="MODEL.qcc", help="A compiled model, for any machine.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what a .qcc file holds: its instruction sets, shapes and sizes, and what runs here.

    [bold]Example[/]

      qcc inspect model.qcc
    """
    from qcc.runtime.contents import contents_of

    found = contents_of(compiled)
    if as_json:
        result_json(found.to_dict())
        return
    for side, specs in (("input", found.inputs), ("output", found.outputs)):
        for spec in specs:
            result(f"{side} {spec['name']}: {spec['dtype']} {_shape(spec['shape'])}")
    rows = [
        [
            row.instruction_set,
            "runs" if row.runs else "does not run",
            " ".join(_shape(shape) for shape in row.shapes)
            + "".join(f" {name}={value}" for name, value in row.values),
            *map(human_bytes, (row.object_bytes, row.weight_bytes, row.arena_bytes)),
            str(row.regions),
        ]
        for row in found.code
    ]
    columns = ["code for", "on this machine", "input shapes"]
    columns += ["code", "weights", "buffers", "onnxruntime regions"]
    title = f"{found.int8_nodes} nodes int8, {found.float_nodes} float; "
    print_table(table(title + human_bytes(found.file_bytes), columns, rows, right=3))
    words.print(str(found), soft_wrap=True)
    if any(None in (spec["shape"] or [None]) for spec in found.inputs):
        words.print("code for other shapes is made when they come", soft_wrap=True)


def _shape(sizes: Any) -> str:
    if sizes is None:
        return "[...]"
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"


def opt(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A graph: .onnx or .qir; - reads .qir.")
    ],
    passes: Annotated[
        str,
        typer.Option(
            "-p", "--passes", metavar="PASSES", help='Such as "canonicalize,fold-batchnorm{...}".'
        ),
    ] = "",
    print_after: Annotated[
        bool, typer.Option("--print-after", help="Print the graph after every pass.")
    ] = False,
    time_passes: Annotated[
        bool, typer.Option("--time-passes", help="Print seconds and changes of every pass.")
    ] = False,
    resources: Annotated[
        bool, typer.Option("--resources", help="Print big constants too, so the text is whole.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write here instead.")
    ] = None,
) -> None:
    """Run any list of passes on a graph and print its text form.

    [bold]Examples[/]

      qcc opt -p canonicalize,fold-constants,fold-batchnorm model.onnx

      qcc opt -p 'fold-batchnorm{keep-names=true}' --time-passes graph.qir
    """
    from qcc.compiler import read_graph
    from qcc.ir.print import print_graph
    from qcc.passes.manager import PassManager, parse_pass_list
    from qcc.runtime.files import write_text

    graph = read_graph(model)
    chosen = parse_pass_list(passes)
    manager = PassManager(chosen, print_after=words.out if print_after else None)
    records = manager.run(graph)
    if time_passes:
        rows = [[r.name, f"{r.seconds:.4f}", str(r.changes)] for r in records]
        words.print(table("passes", ["pass", "seconds", "changes"], rows))
    text = print_graph(graph, resources=resources)
    if output is None:
        result(text)
        return
    write_text(output, text)


def targets(as_json: JsonOption = False) -> None:
    """List the targets, and which of them this machine can run."""
    from qcc.compiler import list_targets

    found = list_targets()
    if as_json:
        result_json([t.to_dict() for t in found])
        return
    rows = [[t.name, t.kind, t.status, t.description] for t in found]
    columns = ["target", "kind", "on this machine", "description"]
    print_table(table("targets", columns, rows, right=4))


def passes(as_json: JsonOption = False) -> None:
    """List the passes and their options."""
    from qcc.passes.manager import pass_registry

    found = pass_registry()
    described = [(name, _options(kind), _first_line(kind)) for name, kind in found.items()]
    if as_json:
        keys = ("name", "options", "description")
        result_json([dict(zip(keys, row, strict=True)) for row in described])
        return
    rows = [list(row) for row in described]
    print_table(table("passes", ["pass", "options", "description"], rows, right=3))


def _options(kind: type) -> str:
    fields = getattr(kind, "__dataclass_fields__", {})
    return ", ".join(f"{name.replace('_', '-')}={f.default!r}" for name, f in fields.items())


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n")[0]


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command("explain")(explain)
    app.command("inspect")(inspect_artifact)
    app.command("opt")(opt)
    app.command("targets")(targets)
    app.command("passes")(passes)
