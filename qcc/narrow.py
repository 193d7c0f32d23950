"""Precisions of exports besides int8: float8, and weights alone in int4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from qcc.errors import ConfigError
from qcc.ir.core import Array, Graph, Node
from qcc.passes.manager import PassManager, parse_pass_list
from qcc.passes.quantize_blocks import quantize_blocks
from qcc.passes.quantize_float8 import quantize_float8
from qcc.passes.scales import resolve_scales
from qcc.pipeline import QuantizedModel, after_float_passes, float_reason, prepare
from qcc.quant.backend_config import BackendConfig
from qcc.quant.calibration.spill import KeptSamples
from qcc.quant.qconfig_mapping import mapping_with_observer
from qcc.quant.report import CompileReport, NodeReport

Progress = Callable[[str, int, "int | None"], None]

WIDEST = "minmax"
"""What measures activations for float8: its scale follows from the largest value."""

NAMES = "name-nodes"

FLOATS = "only the weights of matrix products are stored in int4; everything computes in float"


def quantize_activations_to_float8(
    graph: Graph,
    calibration: Iterable[Mapping[str, Array]],
    backend: BackendConfig,
    progress: Progress | None = None,
) -> QuantizedModel:
    """A float model with float8 Q/DQ where ``backend`` has those of int8."""
    prepared = prepare(graph, mapping_with_observer(WIDEST, backend.name), backend)
    prepared.calibrate(calibration, progress)
    plan = prepared.plan
    scales = resolve_scales(plan, prepared.observation, prepared.calibrator.parameters)
    copy = prepared.graph.clone()
    quantize_float8(copy, plan.on(prepared.graph, copy), scales)
    PassManager(parse_pass_list(NAMES)).run(copy)
    members = plan.group_of()
    rows = []
    for node in prepared.graph.nodes:
        group = members.get(node)
        if group is None:
            rows.append(NodeReport(node.label, node.op, "float32", reason=float_reason(node, plan)))
            continue
        fused = tuple(inner.label for inner in group.nodes)
        rows.append(NodeReport(node.label, node.op, "float8", fused))
    report = CompileReport(backend.name, tuple(rows), notes=tuple(graph.info.notes))
    return QuantizedModel(copy, report, prepared.graph, prepared.calibrator.kept)


def store_weights_in_int4(
    graph: Graph,
    samples: Iterable[Mapping[str, Array]] | None,
    backend: BackendConfig,
    kept: int,
) -> QuantizedModel:
    """A float model whose matrix products have int4 weights; ``kept`` samples check it.

    Raises ConfigError where no weight can be stored so.
    """
    graph = after_float_passes(graph, backend)
    copy = graph.clone()
    refused = quantize_blocks(copy)
    stored = {node.name for node in copy.nodes if _reads_blocks(node)}
    if not stored:
        raise ConfigError(
            "no matrix product of the model has a constant weight whose inputs are a multiple of "
            "32: int4 weights would change nothing"
        )
    why = {node.name: sentence for node, sentence in refused.items()}
    rows = tuple(
        NodeReport(node.label, node.op, "int4", (node.label,))
        if node.name in stored
        else NodeReport(node.label, node.op, "float32", reason=why.get(node.name, FLOATS))
        for node in graph.nodes
    )
    PassManager(parse_pass_list(NAMES)).run(copy)
    report = CompileReport(backend.name, rows, notes=tuple(graph.info.notes))
    chosen = KeptSamples(kept)
    for batch in islice(samples or (), kept):
        chosen.offer(batch)
    return QuantizedModel(copy, report, graph, chosen)


def _reads_blocks(node: Node) -> bool:
    weight = node.input(1) if node.op in ("MatMul", "Gemm") else None
    producer = None if weight is None else weight.producer
    return producer is not None and bool(producer.attributes.get("block_size"))
