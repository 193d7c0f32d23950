"""The report of a native compilation: what quantization knew, and what code generation did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qcc.quant.report import CompileReport, NodeReport


def merge_reports(quantized: CompileReport, native: CompileReport) -> CompileReport:
    """``native`` with the reasons and ratios that only quantization knows.

    Where both have a sentence about a float node, that of quantization is the more telling one: it
    speaks of the pattern that did not fit, lowering only of the float operands that follow.
    """
    known = {node.name: node for node in quantized.nodes}
    nodes = tuple(_merged(row, known) for row in native.nodes)
    return native.with_(nodes=nodes, notes=(*quantized.notes, *native.notes))


def _merged(row: NodeReport, known: Mapping[str, NodeReport]) -> NodeReport:
    other = known.get(row.name)
    if other is None:
        return row
    reason = row.reason
    if not row.is_int8 and other.reason:
        reason = other.reason
    return replace(row, reason=reason, sqnr_db=other.sqnr_db)
