"""Float32 ops that native code computes itself, with their numpy reference.

Softmax and Sigmoid are contract 11, LayerNormalization is contract 12, MatMul contract 13, the
reductions contract 14, Tanh and Gelu contract 15, LSTM and GRU contracts 17 and 18, ArgMax 19, Exp
20: native code gives the bytes of :mod:`qcc.numerics`, :mod:`qcc.curves` and the modules beside
this one; onnxruntime differs in the last places.  Gather moves values.  All others are single IEEE
operations, one after the other, so numpy, onnxruntime and native code agree bit for bit (NaN
payloads excepted).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qcc import curves, numerics
from qcc.errors import DataError
from qcc.ir.core import Array, Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.numerics import larger, smaller
from qcc.ref.arg_max import evaluate_arg_max, is_arg_max
from qcc.ref.recurrent import RECURRENT, evaluate_recurrent, is_known_recurrence, recurrence_of

NativeFloat = Callable[[Node, Sequence["Array | None"]], "Array | tuple[Array, ...]"]
"""The result, or one array an output where an op has several."""


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


def _unary(function: Callable[[Array], Array]) -> Callable[[Sequence[Array | None]], Array]:
    def evaluate(arrays: Sequence[Array | None]) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(function(np.asarray(arrays[0], np.float32)), np.float32)

    return evaluate


def _clip(node: Node, arrays: Sequence[Array | None]) -> Array:
    low = arrays[1] if len(arrays) > 1 else None
    high = arrays[2] if len(arrays) > 2 else None
    x = np.asarray(arrays[0])
    above, below = (np.maximum, np.minimum) if x.dtype.kind == "i" else (larger, smaller)
    if low is not None:
        x = above(x, np.asarray(low, x.dtype))
    if high is not None:
        x = below(x, np.asarray(high, x.dtype))
    return x


def _softmax(node: Node, arrays: Sequence[Array | None]) -> Array:
    axis = int(attribute(node, "axis"))
    rows = np.moveaxis(np.asarray(arrays[0], np.float32), axis, -1)
    return np.moveaxis(numerics.softmax(rows), -1, axis)


def _layer_norm(node: Node, arrays: Sequence[Array | None]) -> Array:
    x, scale = (np.asarray(arrays[i], np.float32) for i in range(2))
    bias = arrays[2] if len(arrays) > 2 else None
    rows = x.reshape(x.size // max(1, scale.size), scale.size)
    shift = None if bias is None else np.ravel(bias)
    y = numerics.layer_norm(rows, scale.ravel(), shift, float(attribute(node, "epsilon")))
    return y.reshape(x.shape)


def normalized_length(node: Node) -> int:
    """Elements that one row of a LayerNormalization of static shape has."""
    shape = node.operand(0).tensor.static_shape
    axis = int(attribute(node, "axis"))
    return math.prod(shape[axis % len(shape) :])


def _is_plain_layer_norm(node: Node) -> bool:
    """Whether only the normalized values are asked for, and scale and bias have a row's length."""
    if not node.operand(0).tensor.static_shape or len(node.outputs) != 1:
        return False
    length = normalized_length(node)
    given = [value for value in node.inputs[1:] if value is not None]
    return all(math.prod(value.tensor.static_shape) == length for value in given)


def outside_table(index: int, rows: int) -> DataError:
    """What to raise where an index has no row."""
    return DataError(
        f"The model looks up row {index} of a table of {rows} rows; give it inputs whose indices "
        f"are at least {-rows} and less than {rows}."
    )


def _gather(node: Node, arrays: Sequence[Array | None]) -> Array:
    table, indices = np.asarray(arrays[0]), np.asarray(arrays[1])
    rows = table.shape[0]
    wrong = indices[(indices < -rows) | (indices >= rows)]
    if wrong.size:
        raise outside_table(int(wrong[0]), rows)
    return np.ascontiguousarray(np.take(table, indices, axis=0))


def _takes_rows(node: Node) -> bool:
    """Whether whole rows are taken, and there are some."""
    shape = node.operand(0).tensor.static_shape
    return bool(shape) and int(attribute(node, "axis")) % len(shape) == 0 and 0 not in shape


def _multiplies_activations(node: Node) -> bool:
    """Whether both operands are matrices, one of them computed; weights have another kernel."""
    values = [node.operand(i) for i in range(2)]
    weights = values[1].is_constant and len(values[1].tensor.static_shape) == 2
    matrices = all(len(value.tensor.static_shape) > 1 for value in values)
    return matrices and not weights and not all(value.is_constant for value in values)


def reduced_axes(node: Node) -> tuple[int, ...] | None:
    """The axes that a reduction of static shape reduces, in order; None where they vary."""
    rank = len(node.operand(0).tensor.static_shape)
    given = node.input(1)
    axes = () if given is None else constant_array(given)
    if axes is None:
        return None
    chosen = tuple(sorted({int(axis) % rank for axis in axes}))
    return chosen or (() if attribute(node, "noop_with_empty_axes") else tuple(range(rank)))


def _reduction(function: Callable[[Array], Array]) -> NativeFloat:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> Array:
        x, axes = np.asarray(arrays[0], np.float32), reduced_axes(node) or ()
        others = [axis for axis in range(x.ndim) if axis not in axes]
        rows = x.transpose(*others, *axes).reshape(*(x.shape[axis] for axis in others), -1)
        return function(rows).reshape(node.output.tensor.static_shape)

    return evaluate


def _reduces_known_axes(node: Node) -> bool:
    """Whether the reduced axes are known, and there are some."""
    return bool(reduced_axes(node)) and 0 not in node.operand(0).tensor.static_shape


def _squares(node: Node) -> bool:
    """Whether the exponent of a Pow is the number 2, and broadcasts nothing."""
    exponent = constant_array(node.input(1))
    if node.operand(0).tensor.static_shape != node.output.tensor.static_shape:
        return False
    return exponent is not None and exponent.size == 1 and float(exponent.reshape(())) == 2.0


_GELUS: dict[str, Callable[[Any], Array]] = {
    "none": curves.gelu,
    "tanh": curves.gelu_tanh,
}


def gelu_form(node: Node) -> str:
    """The attribute ``approximate`` of a Gelu: ``none`` or ``tanh``."""
    form = attribute(node, "approximate")
    return form.decode() if isinstance(form, bytes) else str(form)


def _hard_sigmoid(node: Node, arrays: Sequence[Array | None]) -> Array:
    alpha, beta = (float(attribute(node, name)) for name in ("alpha", "beta"))
    return curves.hard_sigmoid(arrays[0], alpha, beta)


def _leaky_relu(node: Node, arrays: Sequence[Array | None]) -> Array:
    return curves.leaky_relu(arrays[0], float(attribute(node, "alpha")))


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
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, arrays: curves.hard_swish(arrays[0]),
    "LeakyRelu": _leaky_relu,
    "LayerNormalization": _layer_norm,
    "Pow": lambda node, arrays: _unary(np.square)(arrays),
    "Sqrt": lambda node, arrays: _unary(np.sqrt)(arrays),
    "Reciprocal": lambda node, arrays: _unary(np.reciprocal)(arrays),
    "ReduceSum": _reduction(numerics.row_sum),
    "ReduceMean": _reduction(numerics.row_mean),
    "ReduceL2": _reduction(numerics.row_length),
    "Tanh": lambda node, arrays: curves.tanh(arrays[0]),
    "Gelu": lambda node, arrays: _GELUS[gelu_form(node)](arrays[0]),
    "Gather": _gather,
    "MatMul": lambda node, arrays: numerics.matmul(arrays[0], arrays[1]),
    "ArgMax": evaluate_arg_max,
    "Exp": lambda node, arrays: curves.exp(arrays[0]),
    "LSTM": evaluate_recurrent,
    "GRU": evaluate_recurrent,
}
"""Float ONNX op to its numpy reference; operands are float32 but for :data:`_INTEGERS`."""

_INTEGERS: dict[str, int] = {"Gather": 1, "ReduceSum": 1, "ReduceMean": 1, "ReduceL2": 1}
"""The operand that is int32 or int64, where an op has one."""

_FORMS: dict[str, Callable[[Node], bool]] = {
    "LayerNormalization": _is_plain_layer_norm,
    "Gather": _takes_rows,
    "MatMul": _multiplies_activations,
    "LSTM": is_known_recurrence,
    "GRU": is_known_recurrence,
    "Pow": _squares,
    "ReduceSum": _reduces_known_axes,
    "ReduceMean": _reduces_known_axes,
    "ReduceL2": _reduces_known_axes,
}
"""Ops of which the reference knows some forms only: whether ``node`` has such a form."""


def is_native_float(node: Node) -> bool:
    """Whether ``node`` is one of these ops on float32 tensors of static shape."""
    if node.op not in NATIVE_FLOAT_OPS:
        return False
    values = given_values(node)
    if not all(value.tensor.is_static for value in values):
        return False
    if is_integer_clip(node) or is_arg_max(node):
        return True
    place = _INTEGERS.get(node.op)
    indices = None if place is None else node.input(place)
    if indices is not None and indices.tensor.element not in ("int32", "int64"):
        return False
    if not all(value.tensor.is_float for value in values if value is not indices):
        return False
    return _FORMS.get(node.op, _any_form)(node)


def is_integer_clip(node: Node) -> bool:
    """Whether ``node`` bounds the indices of a lookup: a Clip of int32 or int64."""
    elements = {value.tensor.element for value in given_values(node)}
    return node.op == "Clip" and elements in ({"int32"}, {"int64"})


def float_refusal(node: Node) -> str | None:
    """Why this form of an op that has native code is not covered, where that can be said."""
    if node.op not in RECURRENT or node.domain:
        return None
    found = recurrence_of(node)
    return found if isinstance(found, str) else None


def given_values(node: Node) -> list[Value]:
    """Operands and results, but for absent ones (an absent result has no name)."""
    return [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]


def _any_form(node: Node) -> bool:
    del node
    return True
