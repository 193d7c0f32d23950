"""Where words go: results on stdout, everything said to the person on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

words = Console(stderr=True, highlight=False)
"""The console for progress, summaries and messages."""


def result(text: str) -> None:
    """Write a result to stdout, ending in one newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def result_json(data: Any) -> None:
    """Write a result to stdout as JSON, keys in the order given."""
    result(json.dumps(data, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays, paths and enums as plain JSON values."""
    for attribute in ("tolist", "item"):
        if hasattr(value, attribute):
            return getattr(value, attribute)()
    return str(value)


def table(title: str, columns: list[str], rows: list[list[str]], *, right: int = 1) -> Table:
    """A table whose columns from index ``right`` on are right-aligned."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index >= right else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def print_table(made: Table) -> None:
    """Write a table to stdout (a result), as wide as it needs when stdout is not a terminal."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console = Console(file=sys.stdout, highlight=False, width=200)
    console.print(made)


class StageProgress:
    """Progress of named stages, each with a bar and the time that is left.

    Calling it as ``progress(stage, done, total)`` updates the bar of ``stage``; ``total`` may be
    None while the amount of work is not known.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}

    def __call__(self, stage: str, done: int, total: int | None = None) -> None:
        """Set how far ``stage`` has come."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)


@contextmanager
def progress() -> Iterator[StageProgress]:
    """Progress bars on stderr; they vanish when the work is done and show only on a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=words, transient=True, disable=not words.is_terminal) as bars:
        yield StageProgress(bars)


def human_bytes(count: int) -> str:
    """``1536`` as ``1.5 KB`` (powers of 1024)."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
