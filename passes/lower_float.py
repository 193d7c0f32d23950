"""Float ops that native code fuses become q.float_* ops: convolutions, products by weights, pools.

A convolution or a product by constant weights takes what follows it and nothing else reads: the
addition of another tensor of its shape, then a Relu or a Clip.  A bias that is added to a product
becomes its bias.  Nodes that do not fit stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from qcc.ir.core import Array, Graph, Node, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.lower.cleanup import fold_float_constants
from qcc.passes.lower.pooling import resize_attributes

Fused: TypeAlias = "dict[str, tuple[str, ...]]"
"""Label of the first float node of each new node to the labels of all that it computes."""


def lower_float(graph: Graph) -> Fused:
    """Rewrite the float nodes of a LOWERED graph in place; says which became one node."""
    rewriter = Rewriter(graph)
    fold_float_constants(graph, rewriter)
    fused: Fused = {}
    for node in graph.nodes:
        if node.graph is not graph or node.domain or node.op not in _READERS or not _fits(node):
            continue
        found = _READERS[node.op](node)
        if found is not None:
            labels = tuple(member.label for member in found.members)
            fused[labels[0]] = labels
            _replace(found, rewriter)
    return fused


@dataclass(frozen=True)
class _Found:
    """A new node: its op, operands and attributes, and the float nodes that it computes."""

    op: str
    members: tuple[Node, ...]
    operands: tuple[Value | Array | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def result(self) -> Value:
        """What it computes."""
        return self.members[-1].output


def _replace(found: _Found, rewriter: Rewriter) -> None:
    first, last = found.members[0], found.members[-1]
    operands = [
        rewriter.constant(f"{first.label}_constant", value)
        if isinstance(value, np.ndarray)
        else value
        for value in found.operands
    ]
    while operands[-1] is None:
        operands.pop()
    made = rewriter.insert(
        found.op,
        operands,
        [found.result.tensor],
        attributes=found.attributes,
        name=first.name,
        before=last,
    )
    rewriter.replace_uses(last.output, made.output)
    for node in reversed(found.members):
        if node.graph is None:
            continue
        read = node.inputs
        rewriter.erase(node)
        for value in read:
            rewriter.erase_dead(value)


def _fits(node: Node) -> bool:
    """Whether operands and result are float32 of static shape and have elements.

    What sizes a Resize has does not matter here.
    """
    operands = node.inputs[:1] if node.op == "Resize" else node.inputs
    values = [value for value in (*operands, node.output) if value is not None]
    return all(
        value.tensor.is_static
        and value.tensor.element == "float32"
        and 0 not in value.tensor.static_shape
        for value in values
    )


def _constant(value: Value | None) -> Array | None:
    if value is None or value.constant is None:
        return None
    return np.asarray(value.constant)


# -- what follows --------------------------------------------------------------------------------


def _reader(value: Value, *ops: str) -> Node | None:
    """The node of one of ``ops`` that alone reads ``value``."""
    users = value.users
    if value.is_output or len(value.uses) != 1 or users[0].domain or users[0].op not in ops:
        return None
    return users[0] if _fits(users[0]) else None


def _other(node: Node, value: Value) -> Value | None:
    """The other operand of a node of two."""
    others = [operand for operand in node.inputs if operand is not value]
    return others[0] if len(node.inputs) == 2 and len(others) == 1 else None


def _with_bias(found: _Found, channels: int) -> _Found:
    """A constant of one number a column that is added to a product without bias."""
    adder = _reader(found.result, "Add")
    added = None if adder is None else _constant(_other(adder, found.result))
    if found.operands[2] is not None or adder is None or added is None:
        return found
    same = adder.output.tensor.static_shape == found.result.tensor.static_shape
    if not same or added.size != channels or added.shape[-1:] != (channels,):
        return found
    operands = (*found.operands[:2], added.reshape(-1), *found.operands[3:])
    return replace(found, members=(*found.members, adder), operands=operands)


def _with_residual(found: _Found) -> _Found:
    adder = _reader(found.result, "Add")
    added = None if adder is None else _other(adder, found.result)
    if adder is None or added is None or added.is_constant:
        return found
    shapes = {value.tensor.static_shape for value in (found.result, added, adder.output)}
    if len(shapes) > 1:
        return found
    return replace(found, members=(*found.members, adder), operands=(*found.operands[:3], added))


def _with_bounds(found: _Found) -> _Found:
    bounder = _reader(found.result, "Relu", "Clip")
    bounds = None if bounder is None else bounds_of(bounder)
    if bounder is None or bounds is None:
        return found
    low, high = bounds
    attributes = {**found.attributes, "low": low, "high": high}
    return replace(found, members=(*found.members, bounder), attributes=attributes)


def bounds_of(node: Node) -> tuple[float | None, float | None] | None:
    """The bounds of a Relu or Clip; None where they are not constant numbers."""
    if node.op == "Relu":
        return 0.0, None
    found: list[float | None] = []
    for value in (node.input(1), node.input(2)):
        data = _constant(value)
        if value is not None and (data is None or np.isnan(data).any()):
            return None
        found.append(None if data is None else float(data.reshape(())))
    return found[0], found[1]


# -- ops -------------------------------------------------------------------------------------------


def _conv(node: Node) -> _Found | None:
    x, weight, bias = node.operand(0), _constant(node.operand(1)), _constant(node.input(2))
    if weight is None or (node.input(2) is not None and bias is None):
        return None
    if weight.ndim not in (3, 4) or "auto_pad" in node.attributes or _pads_negative(node):
        return None
    attributes = {
        name: attribute(node, name)
        for name in ("strides", "pads", "dilations")
        if attribute(node, name)
    }
    attributes["group"] = int(attribute(node, "group"))
    operands = (x, node.operand(1), node.input(2), None)
    return _with_bounds(_with_residual(_Found("q.float_conv", (node,), operands, attributes)))


def _pads_negative(node: Node) -> bool:
    return any(pad < 0 for pad in attribute(node, "pads") or ())


def _gemm(node: Node) -> _Found | None:
    weight, given = _constant(node.operand(1)), node.input(2)
    bias = _constant(given)
    if weight is None or attribute(node, "transA") or (given is not None and bias is None):
        return None
    weight = weight.T if attribute(node, "transB") else weight
    columns = weight.shape[1]
    if bias is not None and (
        bias.size not in (1, columns) or (bias.ndim > 1 and bias.shape[0] != 1)
    ):
        return None
    scaled = np.ascontiguousarray(weight * np.float32(attribute(node, "alpha")))
    start = None
    if bias is not None:
        start = np.broadcast_to(bias.reshape(-1) * np.float32(attribute(node, "beta")), columns)
        start = np.ascontiguousarray(start)
    found = _Found("q.float_matmul", (node,), (node.operand(0), scaled, start, None))
    return _with_bounds(_with_residual(found))


def _matmul(node: Node) -> _Found | None:
    weight = _constant(node.operand(1))
    if weight is None or weight.ndim != 2 or node.operand(0).is_constant:
        return None
    operands = (node.operand(0), node.operand(1), None, None)
    found = _Found("q.float_matmul", (node,), operands)
    return _with_bounds(_with_residual(_with_bias(found, weight.shape[1])))


_WINDOW = ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")


def _pool(node: Node) -> _Found | None:
    """MaxPool and AveragePool, where every window holds an element of the image."""
    if len(node.outputs) != 1 or "auto_pad" in node.attributes or _pads_negative(node):
        return None
    kind = "max" if node.op == "MaxPool" else "average"
    names = _WINDOW if kind == "max" else (*_WINDOW, "count_include_pad")
    attributes = {name: attribute(node, name) for name in names if attribute(node, name)}
    if len(attributes["kernel_shape"]) > 2 or _has_empty_window(node):
        return None
    return _Found(f"q.float_{kind}_pool", (node,), (node.operand(0),), attributes)


def _has_empty_window(node: Node) -> bool:
    """Whether some window lies in the padding alone."""
    source, target = (value.tensor.static_shape[2:] for value in (node.operand(0), node.output))
    kernel = attribute(node, "kernel_shape")
    rank = len(kernel)
    strides, dilations = (attribute(node, name) or [1] * rank for name in ("strides", "dilations"))
    pads = attribute(node, "pads") or [0] * rank
    for axis in range(rank):
        for start in range(-pads[axis], target[axis] * strides[axis] - pads[axis], strides[axis]):
            taps = range(start, start + kernel[axis] * dilations[axis], dilations[axis])
            if not any(0 <= place < source[axis] for place in taps):
                return True
    return False


def _global_pool(node: Node) -> _Found | None:
    shape = node.operand(0).tensor.static_shape
    if len(shape) not in (3, 4):
        return None
    kind = "max" if node.op == "GlobalMaxPool" else "average"
    attributes = {"kernel_shape": list(shape[2:])}
    return _Found(f"q.float_{kind}_pool", (node,), (node.operand(0),), attributes)


def _resize(node: Node) -> _Found | None:
    x = node.operand(0)
    attributes = resize_attributes(node, x)
    if isinstance(attributes, str):
        return None
    return _Found("q.resize", (node,), (x,), attributes)


_READERS: dict[str, Callable[[Node], _Found | None]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "Resize": _resize,
}
"""Float op to the function that reads it as a q.float_* op, or gives None."""
