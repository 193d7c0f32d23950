"""TensorProto to numpy and back, external data included.

Data are never copied more than protobuf itself copies them: ``raw_data`` is viewed, external files
are memory-mapped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from qcc.errors import ModelError
from qcc.onnxio.elements import element_code, element_name

Array = NDArray[Any]

PACKED = frozenset({"int4", "uint4", "int2", "uint2", "float4_e2m1fn"})
"""Elements of which several share a byte in a file (numpy holds one a byte)."""


def read_tensor(tensor: TensorProto, folder: Path | None) -> Array:
    """The data of a tensor as a numpy array (read-only where it views the proto or a file).

    ``folder`` is where external files lie, None where there is none.  Strings come as an object
    array of ``str`` (``bytes`` where they are not UTF-8).  Raises :class:`ModelError`.
    """
    element = element_name(tensor.data_type)
    if element is None or tensor.data_type == TensorProto.UNDEFINED:
        raise ModelError(
            f"Tensor '{tensor.name}' has the element type code {tensor.data_type}, which the "
            f"installed onnx {onnx.__version__} does not know; upgrade onnx or fix the model."
        )
    shape = tuple(tensor.dims)
    if any(dim < 0 for dim in shape):
        raise ModelError(f"Tensor '{tensor.name}' has a negative dimension in {list(shape)}.")
    if tensor.data_location == TensorProto.EXTERNAL:
        return _read_external(tensor, element, shape, folder)
    if element == "string":
        return _read_strings(tensor, shape)
    if tensor.HasField("raw_data"):
        return _from_buffer(tensor.name, tensor.raw_data, element, shape)
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"Tensor '{tensor.name}' does not hold the {_count(shape)} values that its shape "
            f"{list(shape)} promises; the file is damaged or was written wrongly."
        ) from error


def write_tensor(name: str, data: Array, element: str) -> TensorProto:
    """A TensorProto that holds ``data`` inside itself."""
    tensor = describe_tensor(name, data.shape, element)
    if element == "string":
        tensor.string_data.extend(_encoded(item) for item in np.asarray(data).reshape(-1))
    else:
        tensor.raw_data = bytes(stored_bytes(data, element))
    return tensor


def describe_tensor(name: str, shape: tuple[int, ...], element: str) -> TensorProto:
    """A TensorProto without data."""
    tensor = TensorProto(dims=shape, data_type=element_code(element))
    if name:
        tensor.name = name
    return tensor


def stored_bytes(data: Array, element: str) -> memoryview:
    """The little-endian bytes of an array as ONNX stores them; a view where that is possible."""
    if element in PACKED:
        packed = numpy_helper.from_array(np.asarray(data).astype(_dtype(element)))
        return memoryview(packed.raw_data)
    array = np.ascontiguousarray(data, dtype=_dtype(element).newbyteorder("<"))
    flat: Any = array.reshape(-1).view(np.uint8)
    return memoryview(flat)


def stored_size(shape: tuple[int, ...], element: str) -> int:
    """Bytes that a tensor takes in a file (0 for strings, which have no fixed size)."""
    if element == "string":
        return 0
    bits = {"int2": 2, "uint2": 2}.get(element, 4) if element in PACKED else 0
    if bits:
        return (_count(shape) * bits + 7) // 8
    return _count(shape) * _dtype(element).itemsize


def _dtype(element: str) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_code(element)))


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _from_buffer(name: str, buffer: Any, element: str, shape: tuple[int, ...]) -> Array:
    size = stored_size(shape, element)
    if len(buffer) != size:
        raise ModelError(
            f"Tensor '{name}' holds {len(buffer)} bytes where its shape {list(shape)} needs {size};"
            " the file is damaged or was written wrongly."
        )
    if element in PACKED:
        described = describe_tensor(name, shape, element)
        described.raw_data = bytes(buffer)
        return numpy_helper.to_array(described)
    array: Array = np.frombuffer(buffer, _dtype(element).newbyteorder("<"))
    array = array.astype(_dtype(element), copy=False).reshape(shape)
    return array if array.flags.aligned else array.copy()


def _read_strings(tensor: TensorProto, shape: tuple[int, ...]) -> Array:
    if len(tensor.string_data) != _count(shape):
        raise ModelError(
            f"Tensor '{tensor.name}' holds {len(tensor.string_data)} strings where its shape "
            f"{list(shape)} needs {_count(shape)}."
        )
    flat = np.empty(len(tensor.string_data), dtype=object)
    for index, item in enumerate(tensor.string_data):
        flat[index] = decoded(item)
    return flat.reshape(shape)


def decoded(item: bytes) -> str | bytes:
    """Text where the bytes are UTF-8, else the bytes."""
    try:
        return item.decode("utf-8")
    except UnicodeDecodeError:
        return item


def _encoded(item: str | bytes) -> bytes:
    return item.encode("utf-8") if isinstance(item, str) else item


# -- external data ---------------------------------------------------------------------------------


def _read_external(
    tensor: TensorProto, element: str, shape: tuple[int, ...], folder: Path | None
) -> Array:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _external_path(tensor.name, entries.get("location", ""), folder)
    size = stored_size(shape, element)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
    except ValueError as error:
        raise ModelError(
            f"The external data entry of tensor '{tensor.name}' has an offset or length that is "
            "not a number."
        ) from error
    if length != size or element == "string":
        raise ModelError(
            f"The external data of tensor '{tensor.name}' are {length} bytes where its shape "
            f"{list(shape)} needs {size}."
        )
    available = path.stat().st_size
    if offset < 0 or offset + size > available:
        raise ModelError(
            f"Tensor '{tensor.name}' needs bytes {offset} to {offset + size} of the external data "
            f"file '{path}', which has {available}; the file is truncated."
        )
    if size == 0:
        return np.zeros(shape, _dtype(element))
    if element in PACKED:
        packed = np.memmap(path, np.uint8, "r", offset, (size,))
        return _from_buffer(tensor.name, packed.tobytes(), element, shape)
    mapped: Array = np.memmap(path, np.uint8, "r", offset, (size,)).view(_dtype(element))
    return (mapped if mapped.flags.aligned else np.array(mapped)).reshape(shape)


def _external_path(name: str, location: str, folder: Path | None) -> Path:
    """The file of an external tensor; it must lie inside ``folder``, links followed."""
    if folder is None:
        raise ModelError(
            f"Tensor '{name}' lies in the external data file '{location}'; read the model from its "
            "path, or say where its folder is."
        )
    path = folder / location
    root = os.path.realpath(folder)
    real = os.path.realpath(path)
    inside = os.path.commonpath([root, real]) == root and real != root
    if not location or os.path.isabs(location) or ".." in Path(location).parts or not inside:
        raise ModelError(
            f"Tensor '{name}' names the external data file '{location}', which leaves the model's "
            f"folder; move the file into '{folder}' and name it relative to it."
        )
    if not path.is_file():
        raise ModelError(
            f"The external data file '{location}' of tensor '{name}' is missing; put it beside the "
            f"model in '{folder}'."
        )
    return path
