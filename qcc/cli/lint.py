"""``qcc lint``: hold a Q/DQ model against the rules of a runtime, and repair it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcc.cli.console import print_table, result, result_json, table, words
from qcc.cli.options import JsonOption

if TYPE_CHECKING:
    from qcc.lint import Finding, LintReport


def lint(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.onnx", help="Any Q/DQ model, by qcc or others.")
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            metavar="NAME",
            help="Whose rules: tensorrt, onnx (onnxruntime), onnx-openvino or onnx-generic.",
        ),
    ],
    fix: Annotated[
        Path | None,
        typer.Option("--fix", metavar="OUT.onnx", help="Write the model with safe repairs done."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a runtime would refuse, compute wrongly or run in float, node by node.

    Exit code 0: no errors (with --strict: no warnings either), 1: some, or the model cannot be
    read. With --fix, what counts is what is left. Repairs that change numbers say so.

    [bold]Examples[/]

      qcc lint model.onnx --target tensorrt

      qcc lint model.onnx --target tensorrt --fix model.fixed.onnx

      qcc lint model.onnx --target onnx --strict --json
    """
    from qcc.lint import lint_model

    repaired: tuple[Finding, ...] = ()
    if fix is None:
        report = lint_model(model, target)
    else:
        report, repaired = _fix(model, target, fix)
    if as_json:
        said = report.to_dict()
        if fix is not None:
            said["repaired"] = [finding.to_dict() for finding in repaired]
        result_json(said)
    else:
        _print(model, report, repaired, fix)
    if report.errors or (strict and report.warnings):
        raise typer.Exit(1)


def _fix(model: Path, target: str, output: Path) -> tuple[LintReport, tuple[Finding, ...]]:
    from qcc.files import check_writable
    from qcc.lint import fix_model, lint_model
    from qcc.lint.saving import write_checked
    from qcc.onnxio.reader import read_proto

    check_writable(output)
    original = read_proto(model)
    fixed, repaired = fix_model(original, target, folder=model.parent)
    for note in write_checked(fixed, output, original, model.parent):
        words.print(f"note: {note}", soft_wrap=True, markup=False)
    return lint_model(output, target), repaired


def _print(
    model: Path, report: LintReport, repaired: tuple[Finding, ...], output: Path | None
) -> None:
    if repaired:
        rows = [[f.rule, f.node, f.message] for f in repaired]
        print_table(
            table(f"repaired in {output}", ["rule", "node", "what was wrong"], rows, right=3)
        )
    if report.findings:
        rows = [
            [f.rule, f.severity.value, f.node, f.message, "yes" if f.fixable else ""]
            for f in report.findings
        ]
        columns = ["rule", "severity", "node", "what is wrong, and what to do", "--fix"]
        title = f"{model if output is None else output} for {report.target}"
        print_table(table(title, columns, rows, right=5))
    if output is not None:
        result(str(output))
    counts = [
        f"{len(found)} {noun}{'' if len(found) == 1 else 's'}"
        for noun, found in (
            ("error", report.errors),
            ("warning", report.warnings),
            ("note", report.notes),
        )
    ]
    left = " left" if output is not None else ""
    words.print(f"{', '.join(counts)}{left}; docs/lint.md explains every rule", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("lint")(lint)
