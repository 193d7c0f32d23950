"""The types of a model's values: what it declares, completed and put right by shape inference.

onnx's inference runs on a *skeleton*, the model without big tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from qcc.ir.infer import merge_types
from qcc.ir.types import UNKNOWN, ValueType
from qcc.onnxio.declared import bodies_of, correct_declarations, undeclared
from qcc.onnxio.typeinfo import read_type, without_invented

SMALL_TENSOR = 4096
"""Tensors of at most so many elements keep their data for shape inference: shapes are computed
from them."""


@dataclass(frozen=True)
class TypedGraph:
    """A graph as its (corrected) declarations and as inference see it; neither holds big tensors.

    ``notes`` are sentences about declarations that were wrong; only the main graph has them.
    """

    declared: GraphProto
    inferred: GraphProto
    notes: tuple[str, ...] = ()

    def types(self) -> dict[str, ValueType]:
        """The types of the graph's own values by name, completed by the inferred ones."""
        types: dict[str, ValueType] = {}
        for graph in (self.declared, self.inferred):
            for info in (*graph.value_info, *graph.output, *graph.input):
                type = read_type(info.type)
                if graph is self.inferred:
                    type = without_invented(type)
                types[info.name] = merge_types(types.get(info.name, UNKNOWN), type)
        return types

    def bodies(self, node: int, attribute: int) -> list[TypedGraph]:
        """The graphs in an attribute of a node, both given by their places."""
        pairs = zip(
            bodies_of(self.declared.node[node].attribute[attribute]),
            bodies_of(self.inferred.node[node].attribute[attribute]),
            strict=True,
        )
        return [TypedGraph(declared, inferred) for declared, inferred in pairs]


def infer_types(model: ModelProto) -> TypedGraph:
    """The declared types of a model and those that onnx can infer.

    What nodes give is the truth: a declared shape that contradicts it is replaced, and ``notes``
    says so.  Where onnx's inference fails as a whole, the types are those that the model declares.
    """
    skeleton = ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    skeleton.graph.CopyFrom(_without_data(model.graph))
    bare = ModelProto()
    bare.CopyFrom(skeleton)
    symbols = undeclared(bare.graph)
    computed = _inferred(bare)
    notes = correct_declarations(skeleton.graph, computed.graph, symbols)
    return TypedGraph(skeleton.graph, _inferred(skeleton).graph, tuple(notes))


def _inferred(skeleton: ModelProto) -> ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError):
        return skeleton


def _without_data(graph: GraphProto) -> GraphProto:
    bare = GraphProto(name=graph.name)
    bare.input.extend(graph.input)
    bare.output.extend(graph.output)
    bare.value_info.extend(graph.value_info)
    bare.initializer.extend(_without_big_data(tensor) for tensor in graph.initializer)
    bare.sparse_initializer.extend(graph.sparse_initializer)
    bare.node.extend(_node_without_data(node) for node in graph.node)
    return bare


def _node_without_data(node: NodeProto) -> NodeProto:
    if not any(a.HasField("t") or a.HasField("g") or a.graphs for a in node.attribute):
        return node
    bare = NodeProto(
        op_type=node.op_type, domain=node.domain, name=node.name, overload=node.overload
    )
    bare.input.extend(node.input)
    bare.output.extend(node.output)
    for attribute in node.attribute:
        bare.attribute.append(_attribute_without_data(attribute))
    return bare


def _attribute_without_data(attribute: AttributeProto) -> AttributeProto:
    if attribute.HasField("t"):
        stripped = _without_big_data(attribute.t)
        return AttributeProto(name=attribute.name, type=attribute.type, t=stripped)
    if attribute.HasField("g"):
        body = _without_data(attribute.g)
        return AttributeProto(name=attribute.name, type=attribute.type, g=body)
    if attribute.graphs:
        bodies = [_without_data(graph) for graph in attribute.graphs]
        return AttributeProto(name=attribute.name, type=attribute.type, graphs=bodies)
    return attribute


def _without_big_data(tensor: TensorProto) -> TensorProto:
    count = 1
    for dim in tensor.dims:
        count *= max(dim, 0)
    if count <= SMALL_TENSOR and tensor.data_location != TensorProto.EXTERNAL:
        return tensor
    # An external tensor has a type and no data: exactly what inference shall see.
    bare = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    bare.data_location = TensorProto.EXTERNAL
    bare.external_data.add(key="location", value="absent")
    return bare
