"""The fusion patterns that backends choose from, each a traced pattern with its checks.

Operand names mean the same everywhere: ``x`` (and ``a``, ``b``, ``xs0``, ...) are activations,
``residual`` is the other operand of a fused Add, ``w`` a constant weight, ``bias`` a constant bias,
``c`` a constant operand of an elementwise op; every other name is a parameter of the op (a shape,
an axis, a limit) that stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qcc.ir.core import Array, Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.pattern import (
    Ops,
    Pattern,
    ValueCheck,
    Variable,
    named_pattern,
    optional,
    pattern,
    rest,
)
from qcc.ir.types import TensorType
from qcc.passes.constants import axes_of

# -- checks: None, or a sentence of refusal --------------------------------------------------------


def constant_behind(value: Value | None) -> Array | None:
    """The data of an initializer, or of one behind a q.dequantize (as stored); else None.

    Patterns are matched on float graphs and, by lowering, on numbered ones, where weights are int8.
    """
    if value is not None and value.producer is not None and value.producer.op == "q.dequantize":
        value = value.producer.input(0)
    return constant_array(value)


def not_constant(value: Value) -> str | None:
    """An activation, not an initializer."""
    if constant_behind(value) is not None:
        return f"%{value.name} is a constant, not an activation"
    return None


def scalar_constant(value: Value) -> str | None:
    """A constant of one element."""
    data = constant_behind(value)
    if data is None or data.size != 1:
        return f"%{value.name} is not a single constant number"
    return None


def float_constant(value: Value) -> str | None:
    """A constant of float32 values."""
    if constant_behind(value) is None:
        return f"%{value.name} is not a constant"
    return None if value.tensor.is_float else f"%{value.name} is not float32"


def matrix_constant(value: Value) -> str | None:
    """A constant of rank 2."""
    data = constant_behind(value)
    if data is None or data.ndim != 2:
        return f"the weight %{value.name} is not a constant matrix"
    return float_constant(value)


def last_axis_bias(node: Node) -> str | None:
    """The Add of a matrix product has a constant that varies along the last axis only."""
    rank = node.output.tensor.rank
    for value in node.inputs:
        data = constant_behind(value)
        if data is None:
            continue
        lead = data.shape[:-1]
        if data.ndim > (rank or data.ndim) or any(d != 1 for d in lead):
            return f"the constant of '{node.label}' varies along more than the last axis"
    return None


def same_shapes(node: Node) -> str | None:
    """Both operands have the result's shape: nothing is broadcast."""
    shapes = {value.tensor.shape for value in node.inputs if value is not None}
    shape = node.output.tensor.shape
    if shape is None or shapes != {shape} or None in shape:
        return f"the operands of '{node.label}' are not known to have the same shape"
    return None


def gemm_parameters(node: Node) -> str | None:
    """Gemm that is a plain matrix product with an added row."""
    if attribute(node, "transA"):
        return f"'{node.label}' has transA"
    if float(attribute(node, "alpha")) != 1.0:
        return f"'{node.label}' has alpha other than 1"
    bias = constant_behind(node.input(2))
    if node.input(2) is None:
        return None
    if float(attribute(node, "beta")) != 1.0:
        return f"'{node.label}' has beta other than 1"
    if bias is None or any(d != 1 for d in bias.shape[:-1]):
        return f"the third operand of '{node.label}' is not one constant row"
    return None


def one_result(node: Node) -> str | None:
    """Only the first result is used."""
    used = [output for output in node.outputs[1:] if output.uses]
    return f"the result {used[0]!r} of '{node.label}' is used" if used else None


def spatial_resize(node: Node) -> str | None:
    """A nearest or linear Resize by constants, of the spatial axes only."""
    mode = attribute(node, "mode")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    if mode not in ("nearest", "linear"):
        return f"'{node.label}' resizes by '{mode}', not by nearest or linear"
    if attribute(node, "antialias"):
        return f"'{node.label}' resizes with antialiasing"
    return None


def nearest_resize(node: Node) -> str | None:
    """A nearest Resize: a movement of values."""
    mode = attribute(node, "mode")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    if mode != "nearest":
        return f"'{node.label}' resizes by '{mode}', not by nearest"
    return None


def zero_padding(node: Node) -> str | None:
    """A Pad with the constant 0, which every quantization represents exactly."""
    mode = attribute(node, "mode")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    if mode != "constant":
        return f"'{node.label}' pads by '{mode}', not with a constant"
    fill = constant_array(node.input(2))
    if node.input(2) is not None and (fill is None or float(np.asarray(fill).reshape(-1)[0]) != 0):
        return f"'{node.label}' pads with something other than 0"
    return None


def constant_parameters(node: Node) -> str | None:
    """All operands but the first are constants (a shape, axes, indices, ...)."""
    for value in node.inputs[1:]:
        if value is not None and not value.is_constant:
            return f"the operand %{value.name} of '{node.label}' is not a constant"
    return None


def spatial_mean(node: Node) -> str | None:
    """A ReduceMean over constant axes that is no statistic of a normalization."""
    sentence = constant_parameters(node)
    type_ = node.operand(0).type
    rank = type_.rank if isinstance(type_, TensorType) else None
    if sentence is None and rank is not None and axes_of(node, rank) == (rank - 1,):
        return "a mean over the last axis is a statistic of a normalization, which needs float"
    return sentence


def activation_operand(name: str) -> Variable:
    """An operand that is no initializer."""
    return Variable(name, check=not_constant)


def constant_operand(name: str, check: ValueCheck = float_constant) -> Variable:
    """An operand that is a constant, plain or behind a q.dequantize."""
    return Variable(name, check=check)


# -- weighted ops ----------------------------------------------------------------------------------


def _activated(root: Callable[[Ops], Any], activation: str) -> Callable[[Ops], Any]:
    """``root`` followed by nothing, Relu, or Clip with constant limits."""

    def relu(op: Ops) -> Any:
        return op.Relu(root(op), _role="activation")

    def clip(op: Ops) -> Any:
        low = optional("low", check=scalar_constant)
        high = optional("high", check=scalar_constant)
        return op.Clip(root(op), low, high, _role="activation")

    return {"": root, "relu": relu, "clip": clip}[activation]


def _make(name: str, root: Callable[[Ops], Any], activation: str) -> Pattern:
    full = f"{name}_{activation}" if activation else name
    return named_pattern(full, _activated(root, activation))


def _conv(op: Ops) -> Any:
    return op.Conv(
        activation_operand("x"),
        constant_operand("w"),
        optional("bias", check=float_constant),
        _role="conv",
    )


def _conv_add(op: Ops) -> Any:
    return op.Add(_conv(op), activation_operand("residual"), _role="add", _check=same_shapes)


def _conv_transpose(op: Ops) -> Any:
    return op.ConvTranspose(
        activation_operand("x"),
        constant_operand("w"),
        optional("bias", check=float_constant),
        _role="conv",
    )


def _gemm(op: Ops) -> Any:
    return op.Gemm(
        activation_operand("x"),
        constant_operand("w", matrix_constant),
        optional("bias", check=float_constant),
        _role="matmul",
        _check=gemm_parameters,
    )


def _matmul(op: Ops) -> Any:
    return op.MatMul(
        activation_operand("x"), constant_operand("w", matrix_constant), _role="matmul"
    )


def _matmul_add(op: Ops) -> Any:
    return op.Add(_matmul(op), constant_operand("bias"), _role="add", _check=last_axis_bias)


def _dynamic_matmul(op: Ops) -> Any:
    return op.MatMul(activation_operand("a"), activation_operand("b"), _role="matmul")


ACTIVATIONS = ("", "relu", "clip")

CONV = tuple(_make("conv", _conv, a) for a in ACTIVATIONS)
CONV_ADD = tuple(_make("conv_add", _conv_add, a) for a in ACTIVATIONS)
CONV_TRANSPOSE = tuple(_make("conv_transpose", _conv_transpose, a) for a in ACTIVATIONS)
GEMM = tuple(_make("gemm", _gemm, a) for a in ACTIVATIONS)
MATMUL = tuple(_make("matmul", _matmul, a) for a in ACTIVATIONS)
MATMUL_ADD = tuple(_make("matmul_add", _matmul_add, a) for a in ACTIVATIONS)
DYNAMIC_MATMUL = named_pattern("dynamic_matmul", _dynamic_matmul)


# -- elementwise -----------------------------------------------------------------------------------


def _binary(op_type: str, *, constant: bool = False) -> Callable[[Ops], Any]:
    def root(op: Ops) -> Any:
        right = constant_operand("c") if constant else activation_operand("b")
        return op(op_type, activation_operand("a"), right, _role=op_type.lower())

    return root


ADD = tuple(_make("add", _binary("Add"), a) for a in ACTIVATIONS)
MUL = tuple(_make("mul", _binary("Mul"), a) for a in ACTIVATIONS)
SUM_OF_STORED = named_pattern("sum_of_stored", _binary("Add"))
SUB = (named_pattern("sub", _binary("Sub")),)
ADD_CONSTANT = tuple(_make("add_constant", _binary("Add", constant=True), a) for a in ACTIVATIONS)
MUL_CONSTANT = tuple(_make("mul_constant", _binary("Mul", constant=True), a) for a in ACTIVATIONS)
SUB_CONSTANT = (named_pattern("sub_constant", _binary("Sub", constant=True)),)


@pattern
def scale_shift(op: Any) -> Any:
    """a * c + d, as a BatchNormalization is written that nothing could be folded into."""
    product = op.Mul(activation_operand("a"), constant_operand("c"), _role="mul")
    return op.Add(product, constant_operand("d"), _role="add")


@pattern
def silu(op: Any) -> Any:
    """x * Sigmoid(x)."""
    x = activation_operand("x")
    return op.Mul(x, op.Sigmoid(x))


def unary(op_type: str) -> Pattern:
    """A one-operand function ``op_type``, further operands being single constants."""

    def root(op: Ops) -> Any:
        return op(op_type, activation_operand("x"), rest("parameter"), _check=scalar_parameters)

    return named_pattern(op_type.lower(), root)


def scalar_parameters(node: Node) -> str | None:
    """Every operand but the first is absent or one constant number."""
    for value in node.inputs[1:]:
        if value is not None and scalar_constant(value) is not None:
            return f"the operand %{value.name} of '{node.label}' is not a single constant number"
    return None


def with_scalar(op_type: str, *, swapped: bool = False) -> Pattern:
    """``op_type`` of an activation and one constant number (``swapped``: number first)."""

    def root(op: Ops) -> Any:
        number = constant_operand("c", scalar_constant)
        operands = (
            (number, activation_operand("x")) if swapped else (activation_operand("x"), number)
        )
        return op(op_type, *operands)

    suffix = "of_scalar" if swapped else "scalar"
    return named_pattern(f"{op_type.lower()}_{suffix}", root)


UNARY = (
    *("Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu"),
    *("HardSwish", "Gelu", "Mish", "Softplus", "Softsign", "Erf", "Abs", "Neg", "Sign"),
    *("Sin", "Cos", "Floor", "Ceil", "Round"),
)
"""Functions of one tensor whose result has a measured range.

Exp, Log, Sqrt, Reciprocal and Pow are not among them: their results span many orders of magnitude,
as inside normalizations and box decoders, and 256 steps lose them.
"""

UNARY_FIXED = {"Sigmoid": (0.0, 1.0), "HardSigmoid": (0.0, 1.0), "Tanh": (-1.0, 1.0)}
"""Functions of one tensor whose result has a known range."""

SCALAR = tuple(with_scalar(name) for name in ("Add", "Mul", "Sub", "Div", "Max", "Min"))
SCALAR_FIRST = tuple(with_scalar(name, swapped=True) for name in ("Sub", "Div"))


# -- pools, reductions, movement -------------------------------------------------------------------


def single(op_type: str, check: Callable[[Node], str | None] | None = None) -> Pattern:
    """One node with one activation ``x``; further operands are parameters."""

    def root(op: Ops) -> Any:
        return op(op_type, activation_operand("x"), rest("parameter"), _check=check)

    return named_pattern(op_type.lower(), root)


MAX_POOL = single("MaxPool", one_result)
GLOBAL_MAX_POOL = single("GlobalMaxPool")
AVERAGE_POOL = single("AveragePool")
GLOBAL_AVERAGE_POOL = single("GlobalAveragePool")
REDUCE_MEAN = single("ReduceMean", spatial_mean)
RESIZE = single("Resize", spatial_resize)
NEAREST_RESIZE = single("Resize", nearest_resize)
PAD = single("Pad", zero_padding)
SOFTMAX = single("Softmax")
LAYER_NORM = single("LayerNormalization", one_result)

MOVEMENT = {
    "Reshape": "q.reshape",
    "Flatten": "q.reshape",
    "Squeeze": "q.reshape",
    "Unsqueeze": "q.reshape",
    "Identity": "q.reshape",
    "Transpose": "q.transpose",
    "Slice": "q.slice",
    "Split": "q.slice",
    "DepthToSpace": "q.depth_to_space",
    "SpaceToDepth": "q.depth_to_space",
    "Gather": "q.gather",
    "Expand": "q.expand",
    "Tile": "q.expand",
}
"""Ops that move values without changing them, and the integer op that each becomes."""


def movement(op_type: str) -> Pattern:
    """One movement op; its parameters may be computed (a shape) but are never quantized."""
    return single(op_type)


def _no_constants(node: Node) -> str | None:
    for value in node.inputs:
        if constant_behind(value) is not None:
            return f"the operand {value!r} of '{node.label}' is a constant"
    return None


@pattern
def concat(op: Any) -> Any:
    """Concat of activations."""
    return op.Concat(rest("xs"), _check=_no_constants)
