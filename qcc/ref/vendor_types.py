"""Types of what ops of other domains give: onnxruntime infers what ONNX has no schema for."""

from __future__ import annotations

from typing import Any

from qcc.ir.core import Graph, Node
from qcc.ir.infer import infer_shapes, merge_types
from qcc.ir.ops import schema
from qcc.ir.types import UNDEFINED, Dim, TensorType
from qcc.ref.float_region import region_model

ELEMENTS = {
    "tensor(bool)": "bool",
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(uint8)": "uint8",
}
"""What onnxruntime calls the element types to our names."""


def infer_vendor_types(graph: Graph) -> int:
    """Complete the types behind nodes of other domains in the main graph; how many changed.

    Each such node is loaded by itself, so onnxruntime must know the op; where it does not, its
    results keep the types that they have.
    """
    changes = 0
    for node in graph.nodes:
        if node.domain in ("", "q") or schema(node.op_type, node.domain) is not None:
            continue
        if node.subgraphs or not any(_is_open(value.type) for value in node.outputs):
            continue
        found = _infer(node)
        if found:
            changes += found + infer_shapes(graph)
    return changes


def _is_open(type_: Any) -> bool:
    return isinstance(type_, TensorType) and (not type_.is_static or type_.element == UNDEFINED)


def _infer(node: Node) -> int:
    """Load the node alone and read the types of its results; how many changed."""
    import onnxruntime as ort

    inputs = [value for value in node.inputs if value is not None and not value.is_constant]
    if any(isinstance(v.type, TensorType) and v.type.storage == UNDEFINED for v in inputs):
        return 0
    named = [value for value in node.outputs if value.name]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        model = region_model([node], inputs, named)
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:
        # An op that onnxruntime does not know either, or that it refuses so: nothing is learnt.
        return 0
    changes = 0
    for value, item in zip(named, session.get_outputs(), strict=True):
        if item.type not in ELEMENTS:
            continue
        dims: list[Dim] = [size if isinstance(size, int) else None for size in item.shape]
        merged = merge_types(value.type, TensorType(tuple(dims), ELEMENTS[item.type]))
        changes += merged != value.type
        value.type = merged
    return changes
