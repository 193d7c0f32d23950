"""Float regions: ONNX nodes that have no native kernel, kept together in one node."""

from __future__ import annotations

from collections.abc import Sequence

from qcc.ir.core import Array, Graph, Node
from qcc.ir.ops import OpDefinition, Operand, define


def region_body(node: Node) -> Graph:
    """The float graph inside a ``q.region``; raises TypeError where there is none."""
    body = node.attributes.get("body")
    if not isinstance(body, Graph):
        raise TypeError(f"region '{node.label}' has no body")
    return body


def _evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    raise NotImplementedError("a q.region is evaluated by qcc.ref.evaluate, which runs onnxruntime")


def _check(node: Node) -> str | None:
    body = node.attributes.get("body")
    if not isinstance(body, Graph):
        return "the attribute 'body' must be a graph"
    if len(body.inputs) != len(node.inputs):
        return f"the body has {len(body.inputs)} inputs for {len(node.inputs)} operands"
    if len(body.outputs) != len(node.outputs):
        return f"the body has {len(body.outputs)} outputs for {len(node.outputs)} results"
    if not node.attributes.get("reason"):
        return "the attribute 'reason' must say why these nodes stay float"
    return None


REGION = define(
    OpDefinition(
        "q.region",
        (Operand("x", optional=True, variadic=True),),
        _evaluate,
        attributes={"body": None, "reason": ""},
        outputs=None,
        check=_check,
        doc="Float ONNX nodes that run in onnxruntime: `body` is a graph without captures "
        "(operands are its inputs, results its outputs); `reason` says why no kernel is native.",
    )
)
