"""From a NUMBERED graph to compiled code: specialize, lower, outline, lay out, generate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.model import CompiledModel, KernelRow
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.ir.core import Graph, Node
from qcc.ir.integer.region import region_body
from qcc.ir.types import TensorType
from qcc.passes.layout import convert_layout
from qcc.passes.lower import LoweringPattern, LoweringReport, lower
from qcc.passes.lower_float import Fused, lower_float
from qcc.passes.outline_float import outline_float
from qcc.quant.report import NodeReport
from qcc.ref.vendor_types import infer_vendor_types

if TYPE_CHECKING:
    from qcc.backends.llvm.tuning import Chooser


@dataclass(frozen=True)
class NativeProgram:
    """Compiled code with the graph that it computes and the rows of its report.

    ``lowered`` is the graph before the layout pass: evaluated by :mod:`qcc.ref.evaluate`, it gives
    the very bytes that the code gives.
    """

    model: CompiledModel
    lowered: Graph
    rows: tuple[NodeReport, ...]


def compile_numbered(
    graph: Graph,
    isa: InstructionSet,
    patterns: Iterable[LoweringPattern],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    chooser: Chooser | None = None,
    *,
    floats: bool = False,
) -> NativeProgram:
    """Compile a NUMBERED graph, which is left as it is.

    ``shapes`` gives input shapes where the graph has symbolic dimensions; ``chooser`` chooses the
    schedules of matrix kernels (:mod:`qcc.backends.llvm.tuning`).  A graph without integers runs in
    onnxruntime as a whole, with any shapes, unless ``floats`` asks for native float32 code.
    """
    native = floats or any(_holds_integers(node) for node in graph.nodes)
    lowered = _with_shapes(graph, shapes if native else None)
    if native:
        infer_vendor_types(lowered)
    before = [(n.label, n.op) for n in lowered.nodes if _computes(n)]
    report = lower(lowered, patterns)
    fused = lower_float(lowered) if native else {}
    outline_float(lowered, report.refusals, has_native_kernel, whole=native)
    laid_out = lowered.clone()
    convert_layout(laid_out)
    model = _named_as(lowered, compile_graph(laid_out, isa, chooser))
    why = FLOAT_ASKED if floats else FLOAT_OPERANDS
    reasons = _float_reasons(lowered, report, fused, why)
    if floats and not any(node.domain == "q" for node in graph.nodes):
        reasons = {label: reasons.get(label, f"{why} (native float32)") for label, _ in before}
    return NativeProgram(model, lowered, tuple(_rows(before, lowered, report, model, reasons)))


def _computes(node: Node) -> bool:
    """Whether a node of a NUMBERED graph has a row in the report: boundaries have none."""
    stores = node.op == "DequantizeLinear" and node.operand(0).is_constant
    return node.domain != "q" and not stores


def _holds_integers(node: Node) -> bool:
    """Whether a node of a NUMBERED graph reads or gives stored values, in whatever form."""
    return node.domain == "q" or node.op in ("QuantizeLinear", "DequantizeLinear")


def _named_as(graph: Graph, model: CompiledModel) -> CompiledModel:
    """The model with the names of the graph's outputs.

    Where an output turns out to be an input (moved in a way that changes nothing), the laid-out
    graph knows it by the input's name.
    """
    outputs = tuple(
        replace(spec, name=value.name)
        for spec, value in zip(model.outputs, graph.outputs, strict=True)
    )
    return replace(model, outputs=outputs)


def _with_shapes(graph: Graph, shapes: Mapping[str, tuple[int, ...]] | None) -> Graph:
    """A copy, with static shapes where they are given.

    (In a graph that is one region they could only harm: a branch that is not taken may contradict
    them.)
    """
    if shapes is None:
        return graph.clone()
    from qcc.passes.specialize import specialize_graph

    return specialize_graph(graph, shapes)


def _rows(
    before: list[tuple[str, str]],
    lowered: Graph,
    report: LoweringReport,
    model: CompiledModel,
    reasons: Mapping[str, str],
) -> Iterable[NodeReport]:
    groups = {name: names for names in report.fused.values() for name in names}
    kernels = {row.node: row for row in model.kernels}
    by_label = {node.label: node for node in lowered.nodes}
    for label, op in before:
        if label in reasons:
            row = kernels.get(label)
            kernel = "" if row is None else row.text
            isa = model.isa.name if kernel else ""
            yield NodeReport(
                label, op, "float32", (label,), kernel=kernel, isa=isa, reason=reasons[label]
            )
            continue
        fused = groups.get(label, (label,))
        node = next((by_label[name] for name in fused if name in by_label), None)
        yield _integer_row(label, op, fused, node, kernels, model.isa.name)


def _integer_row(
    label: str,
    op: str,
    fused: tuple[str, ...],
    node: Node | None,
    kernels: Mapping[str, KernelRow],
    isa: str,
) -> NodeReport:
    row = next((kernels[name] for name in fused if name in kernels), None)
    type_ = None if node is None else node.output.type
    quant = type_.quant if isinstance(type_, TensorType) else None
    return NodeReport(
        label,
        op,
        "int8",
        fused,
        kernel="" if row is None else row.text,
        isa="" if row is None else isa,
        output_scale=None if quant is None else quant.scale[0],
        output_zero_point=None if quant is None else quant.zero_point[0],
    )


FLOAT_OPERANDS = "its operands are float"
FLOAT_ASKED = "float32 was asked for"


def _computes_floats(node: Node) -> bool:
    """Whether a native node computes with float32 values only."""
    if node.domain != "q" or node.op.startswith("q.float_"):
        return True
    return node.op in ("q.concat", "q.resize") and node.operand(0).tensor.quant is None


def _float_reasons(
    lowered: Graph, report: LoweringReport, fused: Fused, why: str
) -> dict[str, str]:
    """Label of every node that computes in float to the sentence that says why.

    ``why`` is said of native nodes of which lowering says nothing.
    """
    reasons: dict[str, str] = {}
    for node in lowered.nodes:
        if node.op == "q.region":
            for inner in region_body(node).nodes:
                own = report.refusals.get(inner.label)
                reasons[inner.label] = "; ".join(own) if own else node.attributes["reason"]
        elif _computes_floats(node):
            for label in fused.get(node.label, (node.label,)):
                own = report.refusals.get(label)
                reasons[label] = f"{'; '.join(own) if own else why} (native float32)"
    return reasons
