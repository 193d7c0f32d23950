"""Results as Markdown, and the parts of a page that are written by a program."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from peers.turns import Measured, best_peer, ratio


@dataclass
class Result:
    """One net with one number of threads; ``macs`` 0 where they are not known."""

    net: str
    threads: int
    macs: int
    engines: list[Measured]
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; :func:`from_dict` reads it."""
        return asdict(self)

    @property
    def ours(self) -> Measured | None:
        """qcc's row, where it ran."""
        rows = [m for m in self.engines if m.engine == "qcc" and m.bursts and not m.reason]
        return rows[0] if rows else None


def from_dict(data: dict[str, Any]) -> Result:
    """What :meth:`Result.to_dict` gave."""
    engines = [Measured(**row) for row in data["engines"]]
    return Result(**{**data, "engines": engines})


SUMMARY = (
    "net", "MMAC", "qcc ms", "least", "GMAC/s", "of peak", "SQNR dB", "MiB", "best peer", "peer ms",
    "least", "SQNR dB", "MiB", "**ratio**",
)  # fmt: skip
DETAILS = ("net", "engine", "ms", "least", "ratio", "GMAC/s", "SQNR dB", "MiB", "note")


def row(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _head(columns: Sequence[str], left: Sequence[int]) -> list[str]:
    rule = ["---" if i in left else "---:" for i in range(len(columns))]
    return [row(columns), "|" + "|".join(rule) + "|"]


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _speed(macs: int, ms: float) -> str:
    return f"{macs / ms / 1e6:.1f}" if macs else "-"


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive numbers."""
    return float(np.exp(np.mean(np.log(values))))


def summary(results: Sequence[Result], peak: float) -> list[str]:
    """One line a net, qcc beside the best peer; ``peak`` in multiply-accumulates a second."""
    lines, ratios = _head(SUMMARY, (0, 8)), []
    for result in results:
        ours, peer = result.ours, best_peer(result.engines)
        if ours is None or peer is None:
            continue
        found = ratio(ours, peer)
        ratios.append((found, result.net))
        share = result.macs / (ours.median_ms / 1e3) / (peak * result.threads)
        lines.append(
            row(
                [
                    result.net,
                    f"{result.macs / 1e6:.1f}" if result.macs else "-",
                    _ms(ours.median_ms), _ms(ours.least_ms), _speed(result.macs, ours.median_ms),
                    f"{100 * share:.0f} %" if result.macs else "-",
                    _db(ours.sqnr_db), f"{ours.peak_mib:.0f}",
                    peer.label, _ms(peer.median_ms), _ms(peer.least_ms),
                    _db(peer.sqnr_db), f"{peer.peak_mib:.0f}", f"**{found:.2f}**",
                ]
            )
        )  # fmt: skip
    return [*lines, "", *_means(ratios), *_absent(results)]


def _means(ratios: Sequence[tuple[float, str]]) -> list[str]:
    if not ratios:
        return ["No net was measured with qcc and a peer."]
    least, slowest = min(ratios)
    below = sum(value < 1 for value, _ in ratios)
    mean = geometric_mean([value for value, _ in ratios])
    return [
        f"Geometric mean of the {len(ratios)} ratios: **{mean:.2f}**; "
        f"least: {least:.2f} ({slowest}); below 1: {below}."
    ]


def _absent(results: Sequence[Result]) -> list[str]:
    """Nets that have no line in the summary, with the reason."""
    lines = []
    for result in results:
        ours = next((m.reason for m in result.engines if m.engine == "qcc"), "")
        reason = result.reason or ours
        if reason:
            lines.append(f"* {result.net}: {reason}")
    return ["", "Not measured:", "", *lines] if lines else []


def details(results: Sequence[Result]) -> list[str]:
    """One line a net and engine, the fastest first; an engine that did not run has its reason."""
    lines, everywhere = _head(DETAILS, (0, 1, 8)), _reasons_everywhere(results)
    for result in results:
        ours, name = result.ours, result.net
        ran = [m for m in result.engines if m.bursts and not m.reason]
        for m in sorted(ran, key=lambda m: m.median_ms):
            against = "" if ours is None or m is ours else f"{ratio(ours, m):.2f}"
            speed = _speed(result.macs, m.median_ms)
            cells = [_ms(m.median_ms), _ms(m.least_ms), against, speed, _db(m.sqnr_db)]
            lines.append(row([name, m.label, *cells, f"{m.peak_mib:.0f}", m.note]))
            name = ""
        for reason, labels in _reasons(result, everywhere).items():
            lines.append(row([name, ", ".join(labels), *["-"] * 6, f"not run: {reason}"]))
            name = ""
    if everywhere:
        lines += ["", "Not run on any net:", ""]
        lines += [f"* {label}: {reason}" for label, reason in everywhere.items()]
    return lines


def _reasons(result: Result, known: dict[str, str]) -> dict[str, list[str]]:
    """Labels by the reason for which they did not run, but not those that are ``known``."""
    found: dict[str, list[str]] = {}
    for m in result.engines:
        if m.reason and known.get(m.label) != m.reason:
            found.setdefault(m.reason, []).append(m.label)
    return found


def _reasons_everywhere(results: Sequence[Result]) -> dict[str, str]:
    """Engines that ran on no net, all for one reason."""
    found: dict[str, set[str]] = {}
    for result in results:
        for m in result.engines:
            found.setdefault(m.label, set()).add(m.reason)
    return {label: reasons.pop() for label, reasons in found.items() if _single(reasons)}


def _single(reasons: set[str]) -> bool:
    return len(reasons) == 1 and "" not in reasons


def section(title: str, header: Sequence[str], results: Sequence[Result], peak: float) -> str:
    """Everything of one measurement: heading, conditions, summary, details."""
    folded = ["<details><summary>Every engine</summary>", "", *details(results), "", "</details>"]
    return "\n".join([f"## {title}", "", *header, "", *summary(results, peak), "", *folded])


# -- pages -----------------------------------------------------------------------------------------


def replace_section(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the markers of ``name``, appended where it has none.

    Markers are ``<!-- bench:begin NAME -->`` and ``<!-- bench:end -->``, each on a line of its own.
    """
    block = f"<!-- bench:begin {name} -->\n{text.strip()}\n<!-- bench:end -->"
    pattern = rf"<!-- bench:begin {re.escape(name)} -->\n.*?<!-- bench:end -->"
    if re.search(pattern, page, re.DOTALL):
        return re.sub(pattern, lambda _: block, page, count=1, flags=re.DOTALL)
    return page.rstrip() + "\n\n" + block + "\n"
