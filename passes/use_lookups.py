"""Products with one-hot rows become lookups, and what follows a lookup goes into its table.

JAX and TensorFlow write an embedding as ``MatMul(Cast(Equal(ids, [0 .. n - 1])), W)``: all but one
product of each sum is a product with 0.  ``Gather`` takes the row at once; ids that equal none of
the numbers give zeros, which a row behind the table's end gives, too.

An elementwise op of looked-up rows is the same op of the table, computed once and for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Array, Graph, Node, Stage, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Shape, TensorType
from qcc.passes.canonical_movement import RESHAPING, same_shape
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.manager import Pass
from qcc.passes.replacement import supersede

LARGEST_COPY = 1 << 16
"""Elements of a table that may be stored twice, where others read the original, too."""

ELEMENTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"}
    | {"Abs", "Neg", "Exp", "Sqrt", "Reciprocal", "Erf", "Tanh", "Sigmoid", "Gelu"}
    | {"Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Softplus", "Elu"}
)
"""Float ops whose results depend on one element of each operand."""

_INDICES = ("int32", "int64")


@dataclass(frozen=True)
class UseLookups(Pass):
    """Rewrite one-hot products, and elementwise ops of rows of constant tables.

    Sums of products with 0 are the one product that is left, but for the sign of a zero.
    """

    name: ClassVar[str] = "use-lookups"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        changes = rewriter.changes
        for node in tuple(graph.walk()):
            if node.op == "MatMul":
                one_hot_product(node, rewriter)
            elif node.op in ELEMENTWISE:
                move_into_table(node, rewriter)
        if rewriter.changes != changes:
            FoldConstants().run(graph, rewriter)


# -- products with one-hot rows --------------------------------------------------------------------


def one_hot_product(node: Node, rewriter: Rewriter) -> bool:
    """``MatMul(Cast(Equal(ids, [0 .. n - 1])), W)`` as a lookup; whether it was one."""
    weight = constant_array(node.input(1))
    if weight is None or weight.ndim != 2 or not node.output.tensor.is_float:
        return False
    ids = _one_hot_ids(node.operand(0), len(weight))
    if ids is None or not np.isfinite(weight).all():
        return False
    count = len(weight)
    kind = np.dtype(ids.tensor.storage)
    table = rewriter.constant(
        f"{node.label}_table", np.concatenate([weight, np.zeros_like(weight[:1])])
    )
    flat = _without_last_axis(ids, node, rewriter)
    # Any id below 0 becomes -1, which counts from the end, and any above becomes n: the zeros.
    limits = [
        rewriter.constant(f"{node.label}_{name}", np.asarray(value, kind))
        for name, value in (("least", -1), ("most", count))
    ]
    rows = rewriter.insert("Clip", [flat, *limits], [flat.tensor], before=node)
    supersede(node, "Gather", [table, rows.output], rewriter, {"axis": 0})
    return True


def _without_last_axis(ids: Value, node: Node, rewriter: Rewriter) -> Value:
    shape = (ids.tensor.shape or ())[:-1]
    source = ids.producer
    if source is not None and source.op in RESHAPING:
        before = source.operand(0)
        if same_shape(before.tensor.shape, shape):
            return before
    axes = rewriter.constant(f"{node.label}_axes", np.array([-1], np.int64))
    made = rewriter.insert("Squeeze", [ids, axes], [ids.tensor.with_shape(shape)], before=node)
    return made.output


def _one_hot_ids(value: Value, count: int) -> Value | None:
    """Integers ``[..., 1]`` of which ``value`` is the one-hot form of ``count`` columns."""
    cast = value.producer
    equal = None if cast is None or cast.op != "Cast" else cast.operand(0).producer
    if equal is None or equal.op != "Equal":
        return None
    for ids, numbers in (equal.inputs, equal.inputs[::-1]):
        data = constant_array(numbers)
        if ids is None or data is None or not _counts(data, count):
            continue
        source = _before_expand(ids)
        shape = source.tensor.shape
        fits = shape is not None and len(shape) >= max(data.ndim, 2) and shape[-1] == 1
        if fits and source.tensor.element in _INDICES:
            return source
    return None


def _counts(data: Array, count: int) -> bool:
    """Whether ``data`` is ``0 .. count - 1`` along its last axis."""
    along = data.ndim > 0 and data.shape[-1] == data.size == count
    return along and bool(np.array_equal(data.ravel(), np.arange(count)))


def _before_expand(value: Value) -> Value:
    """The operand of an Expand that stretches nothing but the last axis, or ``value``."""
    expand = value.producer
    if expand is None or expand.op != "Expand":
        return value
    source = expand.operand(0)
    return source if _same_leading(source.tensor.shape, value.tensor.shape) else value


def _same_leading(a: Shape, b: Shape) -> bool:
    if a is None or b is None or len(a) != len(b):
        return False
    return all(x is not None and x == y for x, y in zip(a[:-1], b[:-1], strict=True))


# -- ops of looked-up rows -------------------------------------------------------------------------


def move_into_table(node: Node, rewriter: Rewriter) -> bool:
    """An elementwise op of a lookup's rows, and of constants that are the same for every row."""
    lookup = next(filter(None, map(_lookup, node.inputs)), None)
    if lookup is None or not node.output.tensor.is_float:
        return False
    table, rows = lookup.operand(0), lookup.output
    if any(user is not node for user in rows.users) or not _may_copy(table):
        return False
    row = table.tensor.static_shape[1:]
    operands = [
        table if value is rows else _for_each_row(value, row, rewriter) for value in node.inputs
    ]
    if any(new is None and old is not None for new, old in zip(operands, node.inputs, strict=True)):
        return False
    if not same_shape(node.output.tensor.shape, rows.tensor.shape):
        return False
    made = rewriter.insert(
        node.op,
        operands,
        [TensorType(table.tensor.shape, "float32")],
        attributes=dict(node.attributes),
        name=f"{node.label}_rows",
        before=lookup,
    )
    supersede(node, "Gather", [made.output, lookup.operand(1)], rewriter, {"axis": 0})
    return True


def _lookup(value: Value | None) -> Node | None:
    """The Gather of whole rows of a constant float table that makes ``value``."""
    node = None if value is None else value.producer
    if node is None or node.op != "Gather":
        return None
    table = node.operand(0)
    known = table.is_constant or _made_of_constants(table)
    if not known or not table.tensor.is_float or not table.tensor.is_static:
        return None
    rank = len(table.tensor.static_shape)
    return node if rank > 1 and int(attribute(node, "axis")) % rank == 0 else None


def _made_of_constants(table: Value) -> bool:
    """Whether a table is what an earlier op of this pass made."""
    node = table.producer
    return node is not None and all(
        value is None or value.is_constant or _made_of_constants(value) for value in node.inputs
    )


def _may_copy(table: Value) -> bool:
    size = int(np.prod(table.tensor.static_shape, dtype=np.int64))
    return len(table.uses) == 1 or size <= LARGEST_COPY


def _for_each_row(value: Value | None, row: tuple[int, ...], rewriter: Rewriter) -> Value | None:
    """A constant as the operand of an op of the table; None where rows have different ones."""
    data = constant_array(value)
    if value is None or data is None:
        return None
    leading = max(0, data.ndim - len(row))
    inner = data.reshape(data.shape[leading:]) if data.shape[:leading] == (1,) * leading else None
    if inner is None or np.broadcast_shapes(inner.shape, row) != row:
        return None
    return value if leading == 0 else rewriter.constant(value.name, inner)
