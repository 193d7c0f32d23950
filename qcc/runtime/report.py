"""The report of a native compilation: what quantization knew, and what code generation did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from qcc.backends.llvm.model import CompiledModel, KernelRow
from qcc.quant.report import CompileReport, NodeReport


def merge_reports(quantized: CompileReport, native: CompileReport) -> CompileReport:
    """``native`` with the reasons and ratios that only quantization knows.

    Where both have a sentence about a float node, that of quantization is the more telling one: it
    speaks of the pattern that did not fit, lowering only of the float operands that follow.
    """
    known = {node.name: node for node in quantized.nodes}
    nodes = tuple(_merged(row, known) for row in native.nodes)
    return native.with_(nodes=nodes, notes=(*quantized.notes, *native.notes))


def report_of_model(report: CompileReport, model: CompiledModel) -> CompileReport:
    """``report`` with the kernels and sizes of ``model``, the code that runs where it is read."""
    kernels = {row.node: row for row in model.kernels}
    nodes = tuple(_with_kernel(node, kernels, model.isa.name) for node in report.nodes)
    return report.with_(
        nodes=nodes, arena_bytes=model.arena_bytes, weight_bytes=int(model.weights.size)
    )


def _with_kernel(node: NodeReport, kernels: Mapping[str, KernelRow], isa: str) -> NodeReport:
    row = next((kernels[name] for name in node.fused if name in kernels), None)
    if row is None or not node.kernel:
        return node
    return replace(node, kernel=row.text, isa=isa)


def _merged(row: NodeReport, known: Mapping[str, NodeReport]) -> NodeReport:
    other = known.get(row.name)
    if other is None:
        return row
    reason = row.reason
    if not row.is_int8 and other.reason:
        reason = other.reason
    return replace(row, reason=reason, sqnr_db=other.sqnr_db)
