"""Inputs that choose branches: a copy of a model for given values of them has no branches left.

An ``If`` whose condition depends on nothing but small integer or boolean inputs (a sample rate, a
flag) is decided by their values.  For known values it is replaced by its branch, and what remains
is an ordinary graph that can be compiled natively.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qcc.ir.core import Graph, Value
from qcc.ir.rewrite import Rewriter
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.specialize import specialize_graph
from qcc.ref.evaluate import captured_values

_STEERING_ELEMENTS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "int64")
_OF_SHAPES = ("Shape", "Size")


def steering_inputs(graph: Graph) -> tuple[Value, ...]:
    """The inputs, of one integer or boolean each, that alone decide some ``If`` of the graph.

    Conditions inside the branches are not looked at.  Empty where there is no such ``If``.
    """
    found: dict[Value, None] = {}
    for node in graph.nodes:
        leaves = _leaves(node.operand(0)) if node.op == "If" else set()
        if leaves and all(_is_small(leaf) for leaf in leaves):
            found.update(dict.fromkeys(value for value in graph.inputs if value in leaves))
    return tuple(found)


def _leaves(condition: Value) -> set[Value]:
    """The graph inputs whose values a condition depends on (their shapes do not count)."""
    leaves, seen, waiting = set[Value](), set[Value](), [condition]
    while waiting:
        value = waiting.pop()
        if value in seen or value.is_constant:
            continue
        seen.add(value)
        if value.producer is None:
            leaves.add(value)
        elif value.producer.op not in _OF_SHAPES:
            waiting += captured_values(value.producer)
    return leaves


def _is_small(value: Value) -> bool:
    type_ = value.tensor
    single = type_.is_static and int(np.prod(type_.static_shape, dtype=np.int64)) == 1
    return single and type_.element in _STEERING_ELEMENTS


def with_values(
    graph: Graph, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Graph:
    """A copy for given values of some inputs and shapes of all; the inputs themselves stay.

    Raises :class:`DataError` for an unknown input or a shape that the model denies.
    """
    copy = graph.clone()
    rewriter = Rewriter(copy)
    for value in copy.inputs:
        if value.name in values:
            data = np.asarray(values[value.name], np.dtype(value.tensor.storage))
            data = data.reshape(value.tensor.static_shape)
            rewriter.replace_uses(value, rewriter.constant(f"{value.name}_value", data))
    fixed = specialize_graph(copy, shapes)
    rewriter = Rewriter(fixed)
    Canonicalize().run(fixed, rewriter)
    EliminateDead().run(fixed, rewriter)
    return fixed
