"""Model-local functions: kept serialized, converted to another opset when the model is."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import FunctionProto, NodeProto, helper

from qcc.ir.core import Graph
from qcc.onnxio.build import DEFAULT_DOMAIN, build_function
from qcc.onnxio.emit import Emitter, names_in
from qcc.onnxio.opset import convert_graph


def convert_functions(functions: Sequence[bytes], target: int) -> list[bytes]:
    """The functions with their bodies at opset ``target``; raises ModelError.

    A function is returned unchanged where it is at that opset already or uses no ops of ONNX.
    """
    return [_convert(serialized, target) for serialized in functions]


def _convert(serialized: bytes, target: int) -> bytes:
    proto = FunctionProto.FromString(serialized)
    imports = [item for item in proto.opset_import if item.domain in ("", DEFAULT_DOMAIN)]
    if not imports or all(item.version == target for item in imports):
        return serialized
    body = build_function(proto)
    convert_graph(body, max(item.version for item in imports), target)
    del proto.node[:]
    proto.node.extend(_nodes(body))
    for item in imports:
        item.domain, item.version = "", target
    converted: bytes = proto.SerializeToString(deterministic=True)
    return converted


def _nodes(body: Graph) -> list[NodeProto]:
    """The nodes of a function, which holds its constants in Constant nodes."""
    emitter = Emitter(names_in(body))
    graph = emitter.graph(body)
    constants = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializer
    ]
    return [*constants, *graph.node]
