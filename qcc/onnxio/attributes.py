"""Attributes: AttributeProto to plain Python values and back.

``read_attribute`` gives int, float, str (bytes where it is not UTF-8), lists of these, numpy arrays
for tensors, and :class:`qcc.ir.core.RawAttribute` for what has no plain form: sparse tensors, type
protos, references to a function's attributes, and empty lists whose element kind only the proto
knows.  Graphs are left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import AttributeProto, TensorProto

from qcc.errors import ModelError
from qcc.ir import ops
from qcc.ir.core import Attribute, RawAttribute
from qcc.onnxio.tensors import decoded, read_tensor, write_tensor

GRAPH_KINDS = frozenset({AttributeProto.GRAPH, AttributeProto.GRAPHS})

PLAIN_KINDS: dict[int, Callable[[AttributeProto], Attribute]] = {
    AttributeProto.INT: lambda proto: int(proto.i),
    AttributeProto.FLOAT: lambda proto: float(proto.f),
    AttributeProto.STRING: lambda proto: decoded(proto.s),
    AttributeProto.INTS: lambda proto: list(proto.ints),
    AttributeProto.FLOATS: lambda proto: list(proto.floats),
    AttributeProto.STRINGS: lambda proto: [decoded(item) for item in proto.strings],
}
"""How attributes of each plain kind are read."""


def raw(proto: AttributeProto) -> RawAttribute:
    """The attribute kept as it is."""
    return RawAttribute(proto.SerializeToString(deterministic=True))


def read_attribute(proto: AttributeProto, folder: Path | None) -> Attribute:
    """The Python form of an attribute that holds no graph; raises ModelError."""
    if proto.ref_attr_name:
        return raw(proto)
    if proto.type == AttributeProto.UNDEFINED:
        raise ModelError(
            f"Attribute '{proto.name}' has no type; the file was written wrongly or is not an "
            "ONNX model."
        )
    if proto.type == AttributeProto.TENSOR:
        return read_tensor(proto.t, folder)
    if proto.type == AttributeProto.TENSORS:
        return [read_tensor(item, folder) for item in proto.tensors] or raw(proto)
    plain = PLAIN_KINDS.get(proto.type)
    found = raw(proto) if plain is None else plain(proto)
    return raw(proto) if found == [] else found


def write_attribute(name: str, value: Attribute, op_type: str, domain: str) -> AttributeProto:
    """The proto of an attribute that holds no graph.

    ``op_type`` and ``domain`` say which schema decides the kind of an empty list or of a number
    whose Python type is not the schema's.  Raises TypeError for a value of no known kind.
    """
    if isinstance(value, RawAttribute):
        kept: AttributeProto = AttributeProto.FromString(value.proto)
        return kept
    proto = AttributeProto(name=name)
    if isinstance(value, np.ndarray):
        proto.type = AttributeProto.TENSOR
        proto.t.CopyFrom(attribute_tensor(value))
        return proto
    if isinstance(value, (list, tuple)):
        _write_list(proto, list(value), _declared_kind(name, op_type, domain))
        return proto
    if _declared_kind(name, op_type, domain) == AttributeProto.FLOAT and isinstance(value, int):
        value = float(value)
    _write_scalar(proto, value)
    return proto


def attribute_tensor(data: np.ndarray[Any, Any]) -> TensorProto:
    """The tensor of an array attribute."""
    element = "string" if data.dtype == object else str(data.dtype)
    return write_tensor("", data, element)


def _write_scalar(proto: AttributeProto, value: Any) -> None:
    if isinstance(value, (bool, int, np.integer)):
        proto.type, proto.i = AttributeProto.INT, int(value)
    elif isinstance(value, (float, np.floating)):
        proto.type, proto.f = AttributeProto.FLOAT, float(value)
    elif isinstance(value, str):
        proto.type, proto.s = AttributeProto.STRING, value.encode("utf-8")
    elif isinstance(value, bytes):
        proto.type, proto.s = AttributeProto.STRING, value
    else:
        raise TypeError(f"attribute '{proto.name}' holds a {type(value).__name__}")


def _write_list(proto: AttributeProto, items: list[Any], declared: Any) -> None:
    if not items:
        proto.type = declared or AttributeProto.INTS
    elif all(isinstance(item, np.ndarray) for item in items):
        proto.type = AttributeProto.TENSORS
        proto.tensors.extend(attribute_tensor(item) for item in items)
    elif all(isinstance(item, (str, bytes)) for item in items):
        proto.type = AttributeProto.STRINGS
        proto.strings.extend(i.encode("utf-8") if isinstance(i, str) else i for i in items)
    elif declared != AttributeProto.FLOATS and all(
        isinstance(item, (int, np.integer)) for item in items
    ):
        proto.type = AttributeProto.INTS
        proto.ints.extend(int(item) for item in items)
    elif all(isinstance(item, (int, float, np.number)) for item in items):
        proto.type = AttributeProto.FLOATS
        proto.floats.extend(float(item) for item in items)
    else:
        raise TypeError(f"attribute '{proto.name}' holds a list of mixed kinds")


def _declared_kind(name: str, op_type: str, domain: str) -> Any:
    schema = ops.schema(op_type, domain)
    if schema is None or name not in schema.attributes:
        return None
    return schema.attributes[name].type.value
