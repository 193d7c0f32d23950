"""The ``qcc`` command: one typer app, one place that turns errors into exit codes.

Exit codes: 0 ok, 1 the input is wrong (one line, no traceback), 2 usage, 3 a bug in qcc (with a
folder that reproduces it).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qcc import __version__
from qcc.cli import compile as compile_command
from qcc.cli import inspect as inspect_commands
from qcc.cli import lint as lint_command
from qcc.cli import measure as measure_commands
from qcc.cli.console import words
from qcc.cli.crash import write_reproducer
from qcc.errors import QccError

app = typer.Typer(
    name="qcc",
    help="A quantizing compiler for ONNX models: a float model and sample data in, "
    "an int8 ONNX model or native int8 code out.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NOT_EVERYWHERE = {
    "onnxruntime": "is not installed; calibration, ONNX models and parts of models that stay float "
    "run in it: pip install onnxruntime"
}
"""Packages without which compiled models run all the same, and what to say of each."""

compile_command.register(app)
measure_commands.register(app)
inspect_commands.register(app)
lint_command.register(app)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"qcc {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Options that stand before a command."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; gives the exit code."""
    argv = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=argv, prog_name="qcc", standalone_mode=False)
    except QccError as error:
        words.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        return 1
    except (typer.Exit, typer.Abort) as stop:
        return int(getattr(stop, "exit_code", 1))
    except KeyboardInterrupt:
        words.print("interrupted")
        return 130
    except BrokenPipeError:
        return 0
    except ModuleNotFoundError as missing:
        if missing.name not in NOT_EVERYWHERE:
            return _other(missing, argv)
        sentence = f"{missing.name} {NOT_EVERYWHERE[missing.name]}"
        words.print(f"[bold red]error:[/] {sentence}", soft_wrap=True)
        return 1
    except Exception as bug:
        return _other(bug, argv)
    return code if isinstance(code, int) else 0


def _other(bug: Exception, argv: list[str]) -> int:
    """A usage error of the option parser gives 2, anything else is a bug in qcc and gives 3."""
    show, exit_code = getattr(bug, "show", None), getattr(bug, "exit_code", None)
    if callable(show) and exit_code is not None:
        show()
        return int(exit_code)
    folder = write_reproducer(bug, argv)
    words.print(f"[bold red]this is a bug in qcc:[/] {_escape(repr(bug))}", soft_wrap=True)
    words.print(f"the command, the traceback and the versions are in {folder}", soft_wrap=True)
    return 3


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
