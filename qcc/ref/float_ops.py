"""Float32 ops that native code computes itself, with their numpy reference.

All but Softmax and Sigmoid are a single IEEE operation an element, so numpy, onnxruntime and native
code agree bit for bit (NaN payloads excepted).  Those two are contract 11: native code gives the
bytes of :mod:`qcc.numerics`, and onnxruntime differs in the last places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node
from qcc.ir.ops import attribute

NativeFloat = Callable[[Node, Sequence["Array | None"]], Array]


def larger(a: Array, b: Array) -> Array:
    """The larger operand, element by element: ``b`` of two equal ones, NaN where either is NaN.

    Which of two zeros numpy's ``maximum`` gives depends on the machine; here it is always ``b``.
    """
    return np.where((a > b) | np.isnan(a), a, b)


def smaller(a: Array, b: Array) -> Array:
    """The smaller operand, with the rules of :func:`larger`."""
    return np.where((a < b) | np.isnan(a), a, b)


def _operands(arrays: Sequence[Array | None]) -> list[Array]:
    return [np.asarray(array, np.float32) for array in arrays if array is not None]


def _binary(function: Callable[[Array, Array], Array]) -> NativeFloat:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> Array:
        with np.errstate(all="ignore"):
            first, *rest = _operands(arrays)
            for operand in rest:
                first = function(first, operand)
        return np.asarray(first, np.float32)

    return evaluate


def _clip(node: Node, arrays: Sequence[Array | None]) -> Array:
    low = arrays[1] if len(arrays) > 1 else None
    high = arrays[2] if len(arrays) > 2 else None
    x = np.asarray(arrays[0], np.float32)
    if low is not None:
        x = larger(x, np.asarray(low, np.float32))
    if high is not None:
        x = smaller(x, np.asarray(high, np.float32))
    return x


def _softmax(node: Node, arrays: Sequence[Array | None]) -> Array:
    axis = int(attribute(node, "axis"))
    rows = np.moveaxis(np.asarray(arrays[0], np.float32), axis, -1)
    return np.moveaxis(numerics.softmax(rows), -1, axis)


NATIVE_FLOAT_OPS: dict[str, NativeFloat] = {
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _binary(np.divide),
    "Max": _binary(larger),
    "Min": _binary(smaller),
    "Relu": lambda node, arrays: larger(np.asarray(arrays[0], np.float32), np.float32(0)),
    "Neg": lambda node, arrays: np.negative(np.asarray(arrays[0], np.float32)),
    "Clip": _clip,
    "Softmax": _softmax,
    "Sigmoid": lambda node, arrays: numerics.sigmoid(arrays[0]),
}
"""Float ONNX op to its numpy reference; float32 operands only."""


def is_native_float(node: Node) -> bool:
    """Whether ``node`` is one of these ops on float32 tensors of static shape."""
    if node.op not in NATIVE_FLOAT_OPS:
        return False
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return all(value.tensor.is_float and value.tensor.is_static for value in values)
