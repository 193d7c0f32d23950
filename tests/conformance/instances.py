"""Random instances of backend patterns, as NUMBERED graphs.

An instance is grown from the pattern's own term: inner nodes first, then the operands that the node
at hand needs.  Nothing here knows a backend; what an op needs to be well formed is said once, in a
table by op type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.ir.core import Graph, Value
from qcc.ir.infer import infer_node
from qcc.ir.pattern import NodeTerm, Term, Variable
from qcc.ir.types import TensorType
from qcc.quant.backend_config import BackendPatternConfig
from qcc.quant.dtype_config import DTypeConfig, DTypeWithConstraints
from tests.passes.numbered import Numbered


@dataclass(frozen=True)
class Shapes:
    """Sizes of one instance."""

    batch: int
    channels: int
    height: int
    width: int
    outputs: int

    @property
    def image(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, self.height, self.width


SHAPES = (Shapes(1, 3, 9, 7, 17), Shapes(2, 8, 6, 5, 4))


def dtype_name(dtype: DTypeWithConstraints | str | None) -> str:
    """The dtype itself; int8 where none is given."""
    if isinstance(dtype, DTypeWithConstraints):
        return dtype.dtype
    return dtype or "int8"


class Instance:
    """Builds one pattern with operands of one dtype combination."""

    def __init__(self, builder: Numbered, dtypes: DTypeConfig, shapes: Shapes) -> None:
        self.b, self.shapes = builder, shapes
        self.storage = dtype_name(dtypes.input)
        self.result = dtype_name(dtypes.output)
        self.weight_storage = dtype_name(dtypes.weight)
        weight = dtypes.constraints("weight")
        self.least_weight = None if weight is None else weight.quant_min_lower_bound
        self._variables: dict[str, Value] = {}

    def build(self, config: BackendPatternConfig) -> None:
        """Add the pattern and make its result (quantized where the dtypes say so) an output."""
        value = self.node(config.pattern.term)
        if self.result != "float32":
            shares = config.observation_type.value.endswith("share_observer_with_input")
            value = self.stored(value, 0.05 if shares else 0.11)
        self.b.graph.set_outputs([*self.b.graph.outputs, value])

    # -- operands ---------------------------------------------------------------------------------

    def stored(self, value: Value, scale: float) -> Value:
        """A value quantized in the instance's activation type."""
        return self.b.q(value, scale, _ZERO_POINT[self.storage], self.storage)

    def activation(self, shape: tuple[int, ...]) -> Value:
        name = self.b.graph.fresh_name("x")
        return self.stored(self.b.input(name, *shape), 0.05)

    def weight(self, shape: tuple[int, ...], axis: int) -> Value:
        """A weight with a scale for each index of ``axis``, of what the dtypes allow."""
        return self.b.weight(shape, axis, self.weight_storage, least=self.least_weight)

    def operand(self, term: Term, make: Callable[[], Value]) -> Value | None:
        """A named operand is made once; inner nodes are built."""
        if isinstance(term, NodeTerm):
            return self.node(term)
        if not isinstance(term, Variable):
            return make()
        if term.name not in self._variables:
            self._variables[term.name] = make()
        return self._variables[term.name]

    # -- nodes ------------------------------------------------------------------------------------

    def node(self, term: NodeTerm) -> Value:
        """The result of a node term, its operands made first."""
        op = term.ops[0]
        operands, attributes = self.recipe(op)(self, term)
        return self.emit(op, operands, attributes)

    def recipe(self, op: str) -> Recipe:
        """How an op gets its operands and attributes."""
        return RECIPES.get(op, unary)

    def emit(self, op: str, operands: list[Value | None], attributes: dict[str, Any]) -> Value:
        graph = self.b.graph
        count = 2 if op == "Split" else 1
        node = graph.create_node(
            op,
            operands,
            [TensorType(None, "float32")] * count,
            attributes=attributes,
            name=graph.fresh_name(op.lower()),
        )
        for output, type_ in zip(node.outputs, infer_node(node), strict=True):
            output.type = type_
        return node.output


_ZERO_POINT = {"uint8": 121, "int8": -9}

Recipe = Callable[[Instance, NodeTerm], "tuple[list[Value | None], dict[str, Any]]"]


def unary(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """One activation (or inner node) and nothing else."""
    x = i.operand(term.operands[0], lambda: i.activation(i.shapes.image))
    return [x], {}


def _with(*constants: Any, **attributes: Any) -> Recipe:
    """One activation and constant parameters."""

    def recipe(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
        x = i.operand(term.operands[0], lambda: i.activation(i.shapes.image))
        made = [None if c is None else i.b.constant(_evaluated(c, i)) for c in constants]
        found = {name: _evaluated(a, i) for name, a in attributes.items()}
        return [x, *made], found

    return recipe


def _evaluated(value: Any, i: Instance) -> Any:
    return value(i.shapes) if callable(value) else value


def conv(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """3x3 with padding and strides of 1, so that a residual has the input's size."""
    s = i.shapes
    x = i.operand(term.operands[0], lambda: i.activation(s.image))
    weight = i.operand(term.operands[1], lambda: i.weight((s.outputs, s.channels, 3, 3), 0))
    bias = i.operand(term.operands[2], lambda: i.b.bias(s.outputs))
    return [x, weight, bias], {"pads": [1, 1, 1, 1]}


def conv_transpose(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """2x2 with strides of 2."""
    s = i.shapes
    x = i.operand(term.operands[0], lambda: i.activation(s.image))
    weight = i.operand(term.operands[1], lambda: i.weight((s.channels, s.outputs, 2, 2), 1))
    bias = i.operand(term.operands[2], lambda: i.b.bias(s.outputs))
    return [x, weight, bias], {"strides": [2, 2]}


def layer_norm(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """Over the last axis."""
    s = i.shapes
    x = i.operand(term.operands[0], lambda: i.activation(s.image))
    return [x, i.b.bias(s.width), i.b.bias(s.width)], {"axis": -1}


def gemm(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    s = i.shapes
    x = i.operand(term.operands[0], lambda: i.activation((s.height, 31)))
    weight = i.operand(term.operands[1], lambda: i.weight((s.outputs, 31), 0))
    bias = i.operand(term.operands[2], lambda: i.b.bias(s.outputs))
    return [x, weight, bias], {"transB": 1}


def matmul(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    s = i.shapes
    x = i.operand(term.operands[0], lambda: i.activation((s.batch, s.height, 31)))
    right = term.operands[1]
    if isinstance(right, Variable) and right.name == "b":
        other = i.operand(right, lambda: i.activation((s.batch, 31, s.outputs)))
    else:
        other = i.operand(right, lambda: i.weight((31, s.outputs), 1))
    return [x, other], {}


def binary(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """Two activations of one shape, a constant a channel, or one number, as the names say."""
    inner = [i.node(t) if isinstance(t, NodeTerm) else None for t in term.operands]
    built = next((value for value in inner if value is not None), None)
    shape = i.shapes.image if built is None else built.tensor.static_shape
    names = {t.name for t in term.operands if isinstance(t, Variable)}
    made: list[Value | None] = []
    for operand, value in zip(term.operands, inner, strict=True):
        name = operand.name if isinstance(operand, Variable) else ""
        made.append(value or i.operand(operand, _maker(i, name, shape, scalar="x" in names)))
    return made, {}


def _maker(i: Instance, name: str, shape: tuple[int, ...], *, scalar: bool) -> Callable[[], Value]:
    if name not in ("c", "d", "bias"):
        return lambda: i.activation(shape)
    if scalar:
        return lambda: i.b.constant(np.float32(1.75))
    if name == "bias":
        return lambda: i.b.bias(shape[-1])
    tail = (1,) * (len(shape) - 2)
    return lambda: i.b.constant(i.b.random.normal(size=(shape[1], *tail)).astype(np.float32))


def concat(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """Three activations along the channels."""
    del term
    s = i.shapes
    sizes = (s.channels, s.outputs, 4)
    return [i.activation((s.batch, c, s.height, s.width)) for c in sizes], {"axis": 1}


def depth_to_space(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """Blocks of two."""
    del term
    s = i.shapes
    return [i.activation((s.batch, 4 * s.outputs, s.height, s.width))], {"blocksize": 2}


def space_to_depth(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """Blocks of two."""
    del term
    s = i.shapes
    return [i.activation((s.batch, s.channels, 2 * s.height, 2 * s.width))], {"blocksize": 2}


def squeeze(i: Instance, term: NodeTerm) -> tuple[list[Value | None], dict[str, Any]]:
    """An axis of one element."""
    del term
    s = i.shapes
    return [i.activation((s.batch, 1, s.height, s.width)), i.b.constant(np.array([1]))], {}


def _ints(*values: int) -> Any:
    return np.array(values, np.int64)


RECIPES: dict[str, Recipe] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "LayerNormalization": layer_norm,
    "Gemm": gemm,
    "MatMul": matmul,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"), binary),
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Squeeze": squeeze,
    "Clip": _with(np.float32(-0.7), np.float32(1.9)),
    "PRelu": _with(np.array([0.2], np.float32)),
    "MaxPool": _with(kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1]),
    "AveragePool": _with(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "ReduceMean": _with(_ints(2, 3)),
    "Resize": _with(None, np.array([1, 1, 2, 2], np.float32), mode=b"linear"),
    "Pad": _with(_ints(0, 0, 1, 2, 0, 1, 0, 3)),
    "Reshape": _with(lambda s: _ints(s.batch, s.channels * s.height, s.width)),
    "Unsqueeze": _with(_ints(1)),
    "Transpose": _with(perm=[0, 2, 1, 3]),
    "Slice": _with(_ints(1, 4), _ints(100, 0), _ints(2, 3), _ints(2, -1)),
    "Split": _with(lambda s: _ints(1, s.height - 1), axis=2),
    "Gather": _with(_ints(2, 0, 1), axis=1),
    "Expand": _with(lambda s: _ints(3, *s.image)),
    "Tile": _with(_ints(1, 2, 1, 3)),
    "Softmax": _with(axis=1),
}
"""Op type to what its instances need; other ops take one activation."""


def graph_of(config: BackendPatternConfig, seed: int = 0) -> tuple[Graph, Numbered]:
    """All dtype combinations of a pattern, in two sizes, side by side in one graph."""
    builder = Numbered(seed)
    for dtypes in config.dtype_configs:
        for shapes in SHAPES:
            Instance(builder, dtypes, shapes).build(config)
    return builder.graph, builder
