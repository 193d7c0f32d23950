"""What engines ask about a model before they quantize it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Structure:
    """Op types that occur, and whether the model attends (a Softmax feeds a MatMul)."""

    ops: frozenset[str]
    attends: bool

    @property
    def quantized(self) -> bool:
        """Whether the model already holds QuantizeLinear nodes."""
        return "QuantizeLinear" in self.ops


def structure_of(model: Path) -> Structure:
    """The structure of an ONNX file's main graph."""
    import onnx

    nodes = onnx.load(str(model), load_external_data=False).graph.node
    scores = {out for node in nodes if node.op_type == "Softmax" for out in node.output}
    attends = any(node.op_type == "MatMul" and scores & set(node.input) for node in nodes)
    return Structure(frozenset(node.op_type for node in nodes), attends)
