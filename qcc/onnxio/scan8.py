"""Scan of opset 8, which ran over a batch dimension, as two nested Scans of today.

The outer Scan walks the batch and carries no state; the inner one walks the sequence.
"""

from __future__ import annotations

from qcc.errors import ModelError
from qcc.ir.core import Graph, Node
from qcc.ir.types import UNKNOWN, TensorType, ValueType
from qcc.onnxio import edits


def upgrade_scan_8(node: Node) -> None:
    """Rewrite a Scan-8 in place; raises ModelError where it has sequence lengths."""
    if node.input(0) is not None:
        raise ModelError(
            "A Scan of opset 8 with sequence lengths cannot be converted; export the model with "
            "opset 9 or newer.",
            node=node.label,
        )
    operands = [value for value in node.inputs[1:] if value is not None]
    graph = edits.home(node)
    batch = Graph(graph.fresh_name(f"{node.label}_batch"), graph)
    inner_inputs = [
        batch.add_input(graph.fresh_name(f"{node.label}_item"), _without_batch(value.type))
        for value in operands
    ]
    inner = batch.create_node(
        "Scan",
        inner_inputs,
        [_without_batch(output.type) for output in node.outputs],
        attributes=_inner_attributes(node, batch),
        name=graph.fresh_name(f"{node.label}_sequence"),
        output_names=[graph.fresh_name(f"{node.label}_result") for _ in node.outputs],
    )
    batch.set_outputs(inner.outputs)
    node.attributes = {"body": batch, "num_scan_inputs": len(operands)}
    edits.set_inputs(node, operands)


def _inner_attributes(node: Node, batch: Graph) -> dict[str, object]:
    body = node.attributes["body"]
    body.parent = batch
    attributes = {"body": body, "num_scan_inputs": node.attributes["num_scan_inputs"]}
    directions = edits.plain(node, "directions")
    if directions:
        attributes["scan_input_directions"] = directions
    return attributes


def _without_batch(type: ValueType) -> ValueType:
    if not isinstance(type, TensorType):
        return UNKNOWN
    return type.with_shape(type.shape[1:] if type.shape else None)
