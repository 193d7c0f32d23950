"""What is known of small integer tensors that are computed from shapes.

An element is an integer (or bool), a symbol (the dimension of that name), or None.  The arrays hold
Python objects, so that numpy itself does the moving of elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.types import TensorType
from qcc.passes.constants import integers

Known: TypeAlias = "NDArray[Any] | None"

LARGEST = 256
"""Longer integer tensors are no shapes."""

INTEGER = frozenset({"int64", "int32", "bool"})


class DimensionValues:
    """Looks up values; remembers what it found (make a new one when a graph has changed)."""

    def __init__(self) -> None:
        self._known: dict[Value, Known] = {}

    def __call__(self, value: Value | None) -> Known:
        """The elements of ``value`` as an object array of its shape; None where unknown."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = None  # stops at a cycle, which no valid graph has
            self._known[value] = self._look(value)
        return self._known[value]

    def _look(self, value: Value) -> Known:
        if not isinstance(value.type, TensorType) or value.type.element not in INTEGER:
            return None
        data = constant_array(value)
        if data is not None:
            return np.asarray(data.tolist(), object) if data.size <= LARGEST else None
        node = value.producer
        if node is None or node.domain or value.index != 0:
            return None
        rule = RULES.get(node.op_type)
        if rule is None:
            return None
        if node.op_type in SHAPE_READERS:
            return rule(node, [])
        operands = [self(operand) for operand in node.inputs]
        if not operands or (operands[0] is None and node.op_type != "Concat"):
            return None
        return rule(node, operands)


def numbers(known: Known) -> list[int] | None:
    """The elements as plain integers where all are known, else None."""
    if known is None or not all(isinstance(item, int) for item in known.reshape(-1)):
        return None
    return [int(item) for item in known.reshape(-1)]


def _shape(node: Node, _: list[Known]) -> Known:
    type = node.operand(0).type
    if not isinstance(type, TensorType) or type.shape is None:
        return None
    start, end = attribute(node, "start") or 0, attribute(node, "end")
    return _objects(type.shape[start : len(type.shape) if end is None else end])


def _size(node: Node, _: list[Known]) -> Known:
    type = node.operand(0).type
    if not isinstance(type, TensorType) or not type.is_static:
        return None
    return np.asarray(int(np.prod(type.static_shape, dtype=np.int64)), object)


def _objects(items: Any) -> NDArray[Any]:
    listed = list(items)
    result = np.empty(len(listed), object)
    result[:] = listed
    return result


def _gather(node: Node, operands: list[Known]) -> Known:
    indices = integers(node.input(1))
    data = operands[0]
    if indices is None or data is None or data.ndim != 1 or attribute(node, "axis") not in (0, -1):
        return None
    if any(not -len(data) <= index < len(data) for index in indices):
        return None
    shape = node.operand(1).tensor.static_shape
    return data[np.asarray(indices, np.int64)].reshape(shape)


def _slice(node: Node, operands: list[Known]) -> Known:
    data, starts, ends = operands[0], numbers(operands[1]), numbers(operands[2])
    steps = numbers(operands[4]) if len(operands) > 4 and node.inputs[4] is not None else [1]
    if data is None or data.ndim != 1 or starts is None or ends is None or steps is None:
        return None
    start, end, step = starts[0], ends[0], steps[0]
    stop: int | None = end
    if step < 0 and end < -len(data):
        stop = None
    return data[start:stop:step]


def _concat(node: Node, operands: list[Known]) -> Known:
    parts: list[NDArray[Any]] = []
    for value, operand in zip(node.inputs, operands, strict=True):
        known = operand
        if known is None:
            type = None if value is None else value.type
            if not isinstance(type, TensorType) or not type.is_static or type.rank != 1:
                return None
            known = _objects([None] * type.static_shape[0])
        if known.ndim != 1:
            return None
        parts.append(known)
    return np.concatenate(parts)


def _reshape(node: Node, operands: list[Known]) -> Known:
    type = node.output.tensor
    data = operands[0]
    if data is None:
        return None
    if type.is_static:
        return data.reshape(type.static_shape)
    shape = integers(node.input(1)) if node.op_type == "Reshape" else None
    return data.reshape(shape) if shape is not None and shape in ([-1], [data.size]) else None


def _unsqueeze(node: Node, operands: list[Known]) -> Known:
    axes, data = integers(node.input(1)), operands[0]
    if axes is None or data is None:
        return None
    rank = data.ndim + len(axes)
    return np.expand_dims(data, tuple(axis % rank for axis in axes))


def _squeeze(node: Node, operands: list[Known]) -> Known:
    data = operands[0]
    return None if data is None or data.size != 1 else data.reshape(())


def _same(node: Node, operands: list[Known]) -> Known:
    return operands[0]


def _cast(node: Node, operands: list[Known]) -> Known:
    data = operands[0]
    bounds = {"int64": 2**63, "int32": 2**31}.get(node.output.tensor.storage)
    if bounds is None or data is None:
        return None
    wraps = any(isinstance(item, int) and not -bounds <= item < bounds for item in data.flat)
    return None if wraps else data


def _product(node: Node, operands: list[Known]) -> Known:
    found = numbers(operands[0])
    if found is None or not node.output.tensor.is_static or node.output.tensor.rank is None:
        return None
    if np.prod(node.output.tensor.static_shape, dtype=np.int64) != 1:
        return None
    total = int(np.prod(found, dtype=np.int64))
    return _objects([total]).reshape(node.output.tensor.static_shape)


def _where(node: Node, operands: list[Known]) -> Known:
    condition, chosen, other = operands
    if condition is None or chosen is None or other is None:
        return None
    pick = np.frompyfunc(_pick, 3, 1)
    return np.asarray(pick(condition, chosen, other), object)


def _pick(condition: Any, chosen: Any, other: Any) -> Any:
    if isinstance(condition, (bool, int)):
        return chosen if condition else other
    return None


def _binary(element: Callable[[Any, Any], Any]) -> Callable[[Node, list[Known]], Known]:
    function = np.frompyfunc(element, 2, 1)

    def rule(node: Node, operands: list[Known]) -> Known:
        if len(operands) != 2 or operands[1] is None:
            return None
        return np.asarray(function(operands[0], operands[1]), object)

    return rule


def _both(a: Any, b: Any) -> bool:
    return isinstance(a, int) and isinstance(b, int)


def _add(a: Any, b: Any) -> Any:
    if _both(a, b):
        return a + b
    return a if b == 0 else b if a == 0 else None


def _subtract(a: Any, b: Any) -> Any:
    if _both(a, b):
        return a - b
    return a if b == 0 else None


def _multiply(a: Any, b: Any) -> Any:
    if _both(a, b):
        return a * b
    return a if b == 1 else b if a == 1 else None


def _divide(a: Any, b: Any) -> Any:
    if _both(a, b) and b != 0:
        quotient = abs(a) // abs(b)  # ONNX integers divide towards zero
        return quotient if (a >= 0) == (b > 0) else -quotient
    return a if b == 1 else None


def _equal(a: Any, b: Any) -> Any:
    if _both(a, b):
        return a == b
    for one, other in ((a, b), (b, a)):
        if isinstance(one, str) and isinstance(other, int) and other < 0:
            return False  # a dimension is never negative
    return None


def _smaller(a: Any, b: Any) -> Any:
    return min(a, b) if _both(a, b) else None


def _larger(a: Any, b: Any) -> Any:
    return max(a, b) if _both(a, b) else None


SHAPE_READERS = frozenset({"Shape", "Size"})

RULES: Mapping[str, Callable[[Node, list[Known]], Known]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Identity": _same,
    "Cast": _cast,
    "ReduceProd": _product,
    "Where": _where,
    "Equal": _binary(_equal),
    "Add": _binary(_add),
    "Sub": _binary(_subtract),
    "Mul": _binary(_multiply),
    "Div": _binary(_divide),
    "Min": _binary(_smaller),
    "Max": _binary(_larger),
}
"""Op type to the rule that computes its first result."""
