"""use-float16: everything that is not quantized computes in float16 (strongly typed export).

Inputs and outputs of the model keep their types, with a Cast behind and in front of them.  An op
computes in float16 where its schema allows that for all of its float32 operands and results;
operands that are float32 by definition (the scales of a Resize) stay so.  Sums and powers stay
float32: 65504 is the largest number of float16, and sums of squares pass it soon.

Scales are rounded to float16, since Q/DQ take them in the type of their float side, and stored
weights keep their integers: that moves a weight by less than rounding it to float16 would.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import ClassVar

import numpy as np

from qcc.errors import ConfigError
from qcc.ir.core import Graph, Node, Stage, Use, Value
from qcc.ir.ops import schema
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.manager import Pass

HALF, FULL = "float16", "float32"

LARGEST = float(np.finfo(np.float16).max)
LEAST_SCALE = float(np.finfo(np.float16).smallest_subnormal)

_ONNX_TYPES = {FULL: 1, HALF: 10}

WIDE = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"}
    | {"ReduceLogSumExp", "CumSum", "Pow", "Exp", "Reciprocal", "Range", "NonMaxSuppression"}
)
"""Ops whose results pass the range of float16 easily."""

CONTROL_FLOW = (
    "'{}' holds a body of its own, whose types a caller fixes: export such models with float32"
)
INTEGER_BIAS = (
    "'{}' is an int32 bias, whose scale is too small for float16: float16 is for targets with "
    "float biases, such as tensorrt"
)


@dataclass(frozen=True)
class UseFloat16(Pass):
    """Turn the float32 side of a NUMBERED graph into float16."""

    name: ClassVar[str] = "use-float16"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place; raises ConfigError for what cannot be float16."""
        _check(graph)
        for value in tuple(graph.values()):
            if isinstance(value.type, TensorType) and value.type.quant is not None:
                rewriter.set_type(value, value.tensor.with_element(rounded(value.type.quant)))
        _Halving(graph, rewriter).run()


def _check(graph: Graph) -> None:
    for node in graph.nodes:
        if node.subgraphs:
            raise ConfigError(CONTROL_FLOW.format(node.label))
        if node.op == "q.dequantize" and node.operand(0).tensor.storage == "int32":
            raise ConfigError(INTEGER_BIAS.format(node.operand(0).name))


def rounded(quant: Quant) -> Quant:
    """``quant`` with scales that float16 can hold."""
    scales = np.clip(quant.scales, LEAST_SCALE, LARGEST).astype(np.float16).astype(np.float32)
    return replace(quant, scale=tuple(float(scale) for scale in scales))


@dataclass
class _Halving:
    graph: Graph
    rewriter: Rewriter
    casts: dict[tuple[Value, str], Value] = field(default_factory=dict)

    def run(self) -> None:
        for node in self.graph.nodes:
            self._node(node)
        for index, value in enumerate(self.graph.outputs):
            if _is(value, HALF):
                self._widen_output(index, value)

    def _node(self, node: Node) -> None:
        operands, results = halves(node)
        for index, value in enumerate(node.inputs):
            if value is None or not (_is(value, FULL) or _is(value, HALF)):
                continue
            wanted = HALF if operands[index] else FULL
            if not _is(value, wanted):
                self.rewriter.replace_input(node, index, self._as(value, wanted, node))
                self.rewriter.erase_dead(value)
        for value, half in zip(node.outputs, results, strict=True):
            if half and _is(value, FULL):
                self.rewriter.set_type(value, value.tensor.with_element(HALF))
                _retarget(node, self.rewriter)

    def _as(self, value: Value, element: str, before: Node) -> Value:
        """``value`` in another type: a constant of its own, or one Cast for all who need it."""
        known = self.casts.get((value, element))
        if known is not None:
            return known
        if value.constant is not None:
            data = np.asarray(value.constant, np.float64)
            data = np.where(np.isfinite(data), np.clip(data, -LARGEST, LARGEST), data)
            made = self.rewriter.constant(
                f"{value.name}_{element}",
                data.astype(element),
                value.tensor.with_element(element),
            )
        else:
            made = self.rewriter.insert(
                "Cast",
                [value],
                [value.tensor.with_element(element)],
                attributes={"to": _ONNX_TYPES[element]},
                output_names=[self.graph.fresh_name(f"{value.name}_{element}")],
                before=before,
            ).output
        self.casts[value, element] = made
        return made

    def _widen_output(self, index: int, value: Value) -> None:
        """The caller's float32 result, under its name."""
        made = self.rewriter.insert(
            "Cast",
            [value],
            [value.tensor.with_element(FULL)],
            attributes={"to": _ONNX_TYPES[FULL]},
            output_names=[self.graph.fresh_name(f"{value.name}_{HALF}")],
        ).output
        self.graph.replace_use(Use(self.graph, index), made)
        value.name, made.name = made.name, value.name


def _is(value: Value, element: str) -> bool:
    return isinstance(value.type, TensorType) and value.type.element == element


def halves(node: Node) -> tuple[list[bool], list[bool]]:
    """Which operands and results of ``node`` can be float16: all that are no float32 by definition.

    None of them, where one that is float cannot.
    """
    if node.op in ("q.quantize", "q.dequantize"):
        return [True], [True]
    known = None if node.domain or node.op in WIDE else _allowed(node.op)
    none = [False] * len(node.inputs), [False] * len(node.outputs)
    if known is None:
        return none
    taken = [_at(known[0], index) for index in range(len(node.inputs))]
    given = [_at(known[1], index) for index in range(len(node.outputs))]
    for kind, value in zip((*taken, *given), (*node.inputs, *node.outputs), strict=True):
        if kind == _NEITHER and value is not None and (_is(value, FULL) or _is(value, HALF)):
            return none
    return [kind == HALF for kind in taken], [kind == HALF for kind in given]


_NEITHER = ""


def _at(kinds: tuple[str, ...], index: int) -> str:
    """The entry of a parameter; a variadic last one stands for all that follow."""
    return kinds[min(index, len(kinds) - 1)] if kinds else _NEITHER


@cache
def _allowed(op: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """For every parameter of an op what it can be: float16, float32 by definition, or neither."""
    found = schema(op)
    if found is None:
        return None
    allowed = {item.type_param_str: item.allowed_type_strs for item in found.type_constraints}

    def kind(type_: str) -> str:
        if type_ == "tensor(float)":
            return FULL
        return HALF if "tensor(float16)" in allowed.get(type_, ()) else _NEITHER

    inputs, outputs = ([kind(p.type_str) for p in side] for side in (found.inputs, found.outputs))
    return tuple(inputs), tuple(outputs)


def _retarget(node: Node, rewriter: Rewriter) -> None:
    """An op that names the type of its result says float16 now."""
    if node.op == "Cast" and node.attributes.get("to") == _ONNX_TYPES[FULL]:
        rewriter.set_attribute(node, "to", _ONNX_TYPES[HALF])
    fill = node.attributes.get("value")
    if node.op in ("ConstantOfShape", "Constant") and isinstance(fill, np.ndarray):
        rewriter.set_attribute(node, "value", fill.astype(np.float16))
