"""Value types: ONNX type protos to and from qcc's, and shape inference on a model without data."""

from __future__ import annotations

import re

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

from qcc.ir.infer import merge_types
from qcc.ir.types import UNDEFINED, UNKNOWN, Dim, OpaqueType, Shape, TensorType, ValueType
from qcc.onnxio.elements import element_code, element_name

INVENTED = re.compile(r"unk__\d+")
"""What onnx calls dimensions that it does not know."""

SMALL_TENSOR = 4096
"""Tensors of at most so many elements keep their data for shape inference: shapes are computed
from them."""


def read_type(proto: TypeProto) -> ValueType:
    """The value type of a type proto; what is not a dense tensor stays serialized."""
    kind = proto.WhichOneof("value")
    if kind is None:
        return UNKNOWN
    if kind != "tensor_type":
        return OpaqueType(proto.SerializeToString(deterministic=True))
    tensor = proto.tensor_type
    shape: Shape = None
    if tensor.HasField("shape"):
        shape = tuple(_read_dim(dim) for dim in tensor.shape.dim)
    return TensorType(shape, element_name(tensor.elem_type) or UNDEFINED)


def _read_dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    kind = dim.WhichOneof("value")
    if kind == "dim_value" and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def write_type(type: ValueType) -> TypeProto | None:
    """The type proto of a value type (a quantized tensor has its storage); None if unknown."""
    if isinstance(type, OpaqueType):
        kept: TypeProto = TypeProto.FromString(type.proto)
        return kept
    if type.storage == UNDEFINED:
        return None
    proto = TypeProto()
    proto.tensor_type.elem_type = element_code(type.storage)
    if type.shape is not None:
        proto.tensor_type.shape.SetInParent()
        for size in type.shape:
            dim = proto.tensor_type.shape.dim.add()
            if isinstance(size, int):
                dim.dim_value = size
            elif size is not None:
                dim.dim_param = size
    return proto


def infer_types(model: ModelProto) -> ModelProto:
    """A model without big tensors in which onnx has added the types that it can infer.

    Where onnx's inference fails as a whole, the types are those that the model declares.
    """
    skeleton = ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    skeleton.graph.CopyFrom(_without_data(model.graph))
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


def known_types(declared: GraphProto, inferred: GraphProto) -> dict[str, ValueType]:
    """The types of a graph's values by name: the declared ones, completed by the inferred ones."""
    types: dict[str, ValueType] = {}
    for graph in (declared, inferred):
        for info in (*graph.value_info, *graph.output, *graph.input):
            type = read_type(info.type)
            if graph is inferred:
                type = _without_invented(type)
            types[info.name] = merge_types(types.get(info.name, UNKNOWN), type)
    return types


def _without_invented(type: ValueType) -> ValueType:
    """A type without the names that onnx invents for dimensions that it does not know."""
    if isinstance(type, OpaqueType) or type.shape is None:
        return type
    return type.with_shape(
        tuple(None if isinstance(d, str) and INVENTED.fullmatch(d) else d for d in type.shape)
    )
