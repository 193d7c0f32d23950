"""Re-fuse layer normalization, written out, into LayerNormalization.

``(x - mean(x)) / sqrt(var(x) + eps) * gamma + beta`` with the variance as ``mean((x - mean)^2)`` or
``mean(x^2) - mean^2``, means as ReduceMean or scaled ReduceSum, and Div, Reciprocal or a power of
-0.5 for the root.  ONNX normalizes the last axes only; any others are transposed to the end.
Ba et al., "Layer Normalization", 2016.  Without the mean it is RMSNorm, which has no op at the
pinned opset and stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Dim
from qcc.passes.algebra import product, square
from qcc.passes.constants import reals, scalar, split_constant
from qcc.passes.manager import Pass
from qcc.passes.reductions import Reduced, at_least_zero, keeps_rank, lengths, mean, restored
from qcc.passes.replacement import supersede

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class LayerNorm:
    """A recognised layer normalization of ``source`` over ``axes``.

    ``gamma`` and ``beta`` have the sizes of these axes.
    """

    source: Value
    axes: tuple[int, ...]
    epsilon: float
    gamma: Float64
    beta: Float64 | None


@dataclass(frozen=True)
class RefuseLayerNorm(Pass):
    """Replace written-out layer norms by LayerNormalization; equal up to float rounding."""

    name: ClassVar[str] = "refuse-layernorm"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        for node in reversed(tuple(graph.walk())):
            if node.graph is None or node.op not in ("Add", "Mul", "Div"):
                continue
            found = layer_norm(node)
            if found is not None:
                _put(node, found, rewriter)


def layer_norm(node: Node) -> LayerNorm | None:
    """The layer normalization whose last op is ``node``, or None."""
    if not node.output.tensor.is_float:
        return None
    if node.op != "Add":
        return _normalized(node.output, None)
    pair = split_constant(node)
    if pair is None or len(pair[0].uses) != 1:
        return None
    beta = reals(pair[1])
    return None if beta is None else _normalized(pair[0], beta)


def _normalized(value: Value, beta: Float64 | None) -> LayerNorm | None:
    whole = product(value)
    if len(whole.numerators) != 1 or len(whole.roots) != 1 or whole.denominators:
        return None
    found = centred(whole.numerators[0])
    if found is None:
        return None
    epsilon = _variance_epsilon(whole.roots[0], whole.numerators[0], found)
    sizes, rank = lengths(found), found.source.tensor.rank
    if epsilon is None or sizes is None or rank is None:
        return None
    factors = [reals(tensor) for tensor in whole.tensors]
    gamma = np.full(sizes, whole.factor)
    for factor in factors:
        part = None if factor is None else _along(factor, found.axes, sizes, rank)
        if part is None:
            return None
        gamma = gamma * part
    shift = None if beta is None else _along(beta, found.axes, sizes, rank)
    if beta is not None and shift is None:
        return None
    return LayerNorm(found.source, found.axes, epsilon, gamma, shift)


def centred(value: Value) -> Reduced | None:
    """What ``value`` is, less its own mean: ``x - mean(x)``; else None."""
    node = value.producer
    if node is None or node.op != "Sub":
        return None
    source, subtracted = node.operand(0), node.operand(1)
    found = mean(subtracted)
    if found is None or found.source is not source:
        return None
    return found if keeps_rank(subtracted, source, found.axes) else None


def _variance_epsilon(radicand: Value, difference: Value, found: Reduced) -> float | None:
    """eps where ``radicand`` is the variance of ``found.source`` plus eps; else None."""
    if not keeps_rank(radicand, found.source, found.axes):
        return None
    inner = restored(radicand)
    node = inner.producer
    if node is None or node.op != "Add":
        return 0.0 if _is_variance(inner, difference, found) else None
    pair = split_constant(node)
    epsilon = None if pair is None else scalar(pair[1])
    if pair is None or epsilon is None or epsilon < 0.0:
        return None
    return epsilon if _is_variance(pair[0], difference, found) else None


def _is_variance(value: Value, difference: Value, found: Reduced) -> bool:
    value = at_least_zero(value)
    direct = mean(value)
    if direct is not None:
        squared = square(direct.source)
        if squared is None or direct.axes != found.axes:
            return False
        return squared is difference or centred(squared) == found
    node = value.producer
    if node is None or node.op != "Sub":
        return False
    of_square, squared_mean = mean(node.operand(0)), square(restored(node.operand(1)))
    if of_square is None or squared_mean is None or of_square.axes != found.axes:
        return False
    return square(of_square.source) is found.source and mean(squared_mean) == found


def _along(
    data: Float64, axes: tuple[int, ...], sizes: tuple[int, ...], rank: int
) -> Float64 | None:
    """A constant that varies along ``axes`` only, with just these dimensions; else None."""
    if data.ndim > rank:
        return None
    shape = (1,) * (rank - data.ndim) + data.shape
    if any(dim != 1 for axis, dim in enumerate(shape) if axis not in axes):
        return None
    own = tuple(shape[axis] for axis in axes)
    if any(dim not in (1, size) for dim, size in zip(own, sizes, strict=True)):
        return None
    return np.broadcast_to(data.reshape(own), sizes)


def _put(node: Node, found: LayerNorm, rewriter: Rewriter) -> None:
    """Write ``found`` in the place of ``node``, transposed where its axes are not the last ones."""
    rank = found.source.tensor.rank or 0
    others = [axis for axis in range(rank) if axis not in found.axes]
    order = [*others, *found.axes]
    source, last = found.source, order == list(range(rank))
    operands = node.inputs
    if not last:
        source = _transposed(source, order, node, rewriter)
    inputs = [source, _constant(node, "scale", found.gamma, rewriter)]
    if found.beta is not None:
        inputs.append(_constant(node, "shift", found.beta, rewriter))
    attributes = {"axis": len(others) - rank, "epsilon": float(np.float32(found.epsilon))}
    if last:
        supersede(node, "LayerNormalization", inputs, rewriter, attributes)
    else:
        norm = rewriter.insert(
            "LayerNormalization",
            inputs,
            [source.type],
            attributes=attributes,
            name=rewriter.graph.fresh_name(f"{node.label}_norm"),
            before=node,
        )
        back = [order.index(axis) for axis in range(rank)]
        supersede(node, "Transpose", [norm.output], rewriter, {"perm": back})
    for value in operands:
        rewriter.erase_dead(value)


def _transposed(value: Value, order: list[int], node: Node, rewriter: Rewriter) -> Value:
    shape = value.tensor.shape or ()
    dims: tuple[Dim, ...] = tuple(shape[axis] for axis in order)
    return rewriter.insert(
        "Transpose",
        [value],
        [value.tensor.with_shape(dims)],
        attributes={"perm": order},
        name=rewriter.graph.fresh_name(f"{node.label}_order"),
        before=node,
    ).output


def _constant(node: Node, what: str, data: Float64, rewriter: Rewriter) -> Value:
    return rewriter.constant(f"{node.label}_{what}", np.ascontiguousarray(data, np.float32))
