"""Element types: the names that qcc uses, and ONNX's codes and type strings for them."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
from onnx import TensorProto

from qcc.ir.types import UNDEFINED

STRING = "string"


def _element_name(code: int) -> str:
    if code == TensorProto.STRING:
        return STRING
    return str(onnx.helper.tensor_dtype_to_np_dtype(code).name)


@cache
def _names() -> dict[int, str]:
    codes = [code for code in TensorProto.DataType.values() if code != TensorProto.UNDEFINED]
    return {code: _element_name(code) for code in codes} | {TensorProto.UNDEFINED: UNDEFINED}


@cache
def _codes() -> dict[str, int]:
    return {name: code for code, name in _names().items()}


def element_name(code: int) -> str | None:
    """The element name of an ONNX data type code; None for a code that onnx does not know."""
    return _names().get(code)


def element_code(element: str) -> int:
    """The ONNX data type code of an element name; raises KeyError for an unknown one."""
    return _codes()[element]


def element_dtype(element: str) -> np.dtype[np.generic]:
    """The numpy dtype that holds an element (object for strings, ml_dtypes for small floats)."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element_code(element)))


@cache
def type_string(element: str) -> str:
    """The schema's spelling of a tensor of an element: ``"float32"`` gives ``"tensor(float)"``."""
    return f"tensor({TensorProto.DataType.Name(element_code(element)).lower()})"
