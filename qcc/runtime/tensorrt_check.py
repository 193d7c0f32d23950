"""What NVIDIA's builder says of an export, and what that means."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from qcc.errors import ConfigError, ModelError
from qcc.ir.core import Graph, Node, Stage
from qcc.onnxio import write_onnx
from qcc.runtime.tensorrt_builder import MISSING, BuilderReport, build, installed

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")

DEQUANTIZE = ("q.dequantize", "DequantizeLinear")


def check_with_builder(
    path: Path, shapes: Mapping[str, tuple[int, ...]], float_graph: Graph | None
) -> BuilderReport | str:
    """Build the engine of the export at ``path``, or the sentence why that cannot be.

    ``shapes`` are those of sample inputs; ``float_graph`` is what the export was made from.  Raises
    ModelError where the builder takes that and refuses the export.
    """
    if installed() is None:
        return MISSING
    try:
        report = build(path, shapes)
    except ConfigError as error:
        return f"NVIDIA's ONNX parser was not asked: {error}"
    if not report.errors:
        return report
    reason = f"{report.library} refuses the exported model: {report.errors[0]}"
    if float_graph is not None and not _takes(float_graph, shapes):
        return f"{reason}; it refuses the float model, too"
    raise ModelError(f"{reason}; this is an error of qcc: please report the model")


def _takes(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the builder takes a float graph."""
    with tempfile.TemporaryDirectory(prefix="qcc-float-") as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(graph, path)
        return not build(path, shapes).errors


def builder_notes(graph: Graph, built: BuilderReport | str) -> tuple[str, ...]:
    """What was learnt, as sentences for a report."""
    if isinstance(built, str):
        return (built,)
    number = "Int8" if graph.stage is Stage.NUMBERED else "FP8"
    expected = [node.name for node in quantized_layers(graph)]
    if not expected:
        return (f"{built.library} takes the model", *_warnings(built))
    floats = built.others(expected, number)
    inside = len(expected) - len(floats)
    return (
        f"{built.library} runs {inside} of {len(expected)} quantized layers on {number} values",
        *(f"it runs '{name}' as {built.types_of(name)}" for name in floats),
        *_warnings(built),
    )


def _warnings(built: BuilderReport) -> list[str]:
    return [f"it warns: {warning}" for warning in built.warnings]


def quantized_layers(graph: Graph) -> list[Node]:
    """The nodes that multiply quantized values: both operands are dequantized."""
    return [
        node
        for node in graph.nodes
        if node.op in WEIGHTED
        and all(
            value.producer is not None
            and value.producer.op in DEQUANTIZE
            and not value.producer.attributes.get("block_size")
            for value in (node.operand(0), node.operand(1))
        )
    ]
