"""docs/lint.md has a row for every rule, and no other."""

from __future__ import annotations

from pathlib import Path

from qcc.lint import PROFILES

PAGE = Path(__file__).parents[2] / "docs" / "lint.md"


def rows() -> set[tuple[str, str, str]]:
    """Rule, severity and title of every row of the tables of rules."""
    found = set()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) >= 5 and cells[0].rstrip("0123456789") in ("E", "W", "R", "G"):
            found.add((cells[0], cells[1].partition(",")[0], cells[2]))
    return found


def test_every_rule_has_its_row_and_every_row_its_rule() -> None:
    rules = {
        (rule.id, rule.severity.value, rule.title)
        for target, profile in PROFILES.items()
        for rule in profile
        if (target, rule.id) != ("onnx-openvino", "G5")
    }
    assert rows() == rules


def test_every_target_is_in_the_table_of_targets() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{target}` |" in text for target in PROFILES)
