"""``tools/check_import.py`` on the smallest model of the zoo."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.loading import load_tool


@pytest.fixture(autouse=True)
def loud_again() -> Iterator[None]:
    """The tool silences the quantizers that it calls."""
    yield
    logging.disable(logging.NOTSET)


def test_native_code_scores_as_onnxruntimes_integers_do(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = load_tool("check_import")
    rows = tmp_path / "rows.json"
    arguments = [str(zoo), "kws_dscnn", "--forms", "qdq-u8s8", "--json", str(rows)]
    assert tool.main(arguments) == 0
    (row,) = json.loads(rows.read_text())
    assert (row["model"], row["form"], row["measure"]) == ("kws_dscnn", "qdq-u8s8", "top1")
    assert abs(row["native"] - row["exact"]) <= 0.2
    assert row["where"].endswith("float 0, regions 0")
    assert "<<<" not in capsys.readouterr().out
