"""Value types: ONNX type protos to and from qcc's."""

from __future__ import annotations

import re

import onnx
from onnx import TypeProto

from qcc.ir.types import UNDEFINED, UNKNOWN, Dim, OpaqueType, Shape, TensorType, ValueType
from qcc.onnxio.elements import element_code, element_name

INVENTED = re.compile(r"unk__\d+")
"""What onnx calls dimensions that it does not know."""


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


def without_invented(type: ValueType) -> ValueType:
    """The type without the names that onnx invents for dimensions that it does not know."""
    if isinstance(type, OpaqueType) or type.shape is None:
        return type
    return type.with_shape(
        tuple(None if isinstance(d, str) and INVENTED.fullmatch(d) else d for d in type.shape)
    )
