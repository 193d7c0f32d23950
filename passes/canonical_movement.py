"""Canonical forms of ops that only move, rename or copy elements.

Every rule takes a node, changes the graph through the rewriter and says whether it did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qcc.ir.core import Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Shape, TensorType
from qcc.passes.constants import integers, ints, scalar
from qcc.passes.replacement import forward

Rule = Callable[[Node, Rewriter], bool]

RESHAPING = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


def same_shape(a: Shape, b: Shape) -> bool:
    """Whether two shapes of one element count are provably equal."""
    if a is None or b is None or len(a) != len(b):
        return False
    differing = [(x, y) for x, y in zip(a, b, strict=True) if not (isinstance(x, int) and x == y)]
    # Equal counts leave one dimension no choice, as long as none of the others is zero.
    unknown = [pair for pair in differing if None in pair or not all_symbols(pair)]
    if any(isinstance(x, int) and isinstance(y, int) for x, y in differing):
        return False
    return len(unknown) <= 1 and (not unknown or 0 not in a)


def all_symbols(pair: tuple[object, object]) -> bool:
    """Whether both dimensions are the same symbol."""
    return isinstance(pair[0], str) and pair[0] == pair[1]


def identity(node: Node, rewriter: Rewriter) -> bool:
    """Identity(x) is x."""
    return forward(node, node.operand(0), rewriter)


def dropout(node: Node, rewriter: Rewriter) -> bool:
    """Dropout at inference is x."""
    training = node.input(2)
    if training is not None and scalar(training) != 0:
        return False
    return forward(node, node.operand(0), rewriter)


def single_operand(node: Node, rewriter: Rewriter) -> bool:
    """Concat, Sum, Min, Max or Mean of one operand is that operand."""
    return len(node.inputs) == 1 and forward(node, node.operand(0), rewriter)


def split_once(node: Node, rewriter: Rewriter) -> bool:
    """Split into one part is x."""
    return len(node.outputs) == 1 and forward(node, node.operand(0), rewriter)


def cast(node: Node, rewriter: Rewriter) -> bool:
    """Cast to the element type that x has is x."""
    source, result = node.operand(0).type, node.output.type
    if not isinstance(source, TensorType) or not isinstance(result, TensorType):
        return False
    known = source.element not in ("undefined", "string")
    return known and source.element == result.element and forward(node, node.operand(0), rewriter)


def reshape(node: Node, rewriter: Rewriter) -> bool:
    """Reshape to the shape that x has is x; Reshape of a reshaped x is Reshape of x."""
    source = node.operand(0)
    if same_shape(source.tensor.shape, node.output.tensor.shape):
        return forward(node, source, rewriter)
    before = source.producer
    if before is None or before.op not in RESHAPING or node.op != "Reshape":
        return False
    target = integers(node.input(1))
    if target is None or (0 in target and not attribute(node, "allowzero")):
        return False
    rewriter.replace_input(node, 0, before.operand(0))
    rewriter.erase_dead(source)
    return True


def permutation(node: Node) -> list[int] | None:
    """The permutation of a Transpose, the default resolved; None while the rank is unknown."""
    perm = ints(node, "perm")
    if perm is not None:
        return perm
    rank = node.operand(0).tensor.rank
    return None if rank is None else list(reversed(range(rank)))


def transpose(node: Node, rewriter: Rewriter) -> bool:
    """Transpose that keeps the order is x; two Transposes are one."""
    perm = permutation(node)
    if perm is None:
        return False
    if perm == sorted(perm):
        return forward(node, node.operand(0), rewriter)
    middle = node.operand(0)
    before = middle.producer
    inner = permutation(before) if before is not None and before.op == "Transpose" else None
    if before is None or inner is None:
        return False
    rewriter.set_attribute(node, "perm", [inner[axis] for axis in perm])
    rewriter.replace_input(node, 0, before.operand(0))
    rewriter.erase_dead(middle)
    return True


def pad(node: Node, rewriter: Rewriter) -> bool:
    """Pad by nothing is x."""
    pads = integers(node.input(1))
    return pads is not None and not any(pads) and forward(node, node.operand(0), rewriter)


def full_slice(node: Node, rewriter: Rewriter) -> bool:
    """Slice of everything is x."""
    shape = node.operand(0).tensor.shape
    starts, ends = integers(node.input(1)), integers(node.input(2))
    if shape is None or starts is None or ends is None:
        return False
    axes = list(range(len(starts))) if node.input(3) is None else integers(node.input(3))
    steps = [1] * len(starts) if node.input(4) is None else integers(node.input(4))
    if axes is None or steps is None or any(start != 0 for start in starts):
        return False
    for end, axis, step in zip(ends, axes, steps, strict=True):
        dim = shape[axis]
        bound = dim if isinstance(dim, int) else 2**31 - 1  # what exporters write for "to the end"
        if step != 1 or end < bound:
            return False
    return forward(node, node.operand(0), rewriter)


def expand(node: Node, rewriter: Rewriter) -> bool:
    """Expand to ones, or to the static shape that x has, is x."""
    target, source = integers(node.input(1)), node.operand(0).tensor.shape
    if target is None or source is None or len(target) > len(source):
        return False
    tail = source[len(source) - len(target) :]
    if not all(want in (1, have) for want, have in zip(target, tail, strict=True)):
        return False
    return forward(node, node.operand(0), rewriter)


def tile(node: Node, rewriter: Rewriter) -> bool:
    """Tile by ones is x."""
    repeats = integers(node.input(1))
    return (
        repeats is not None
        and all(count == 1 for count in repeats)
        and forward(node, node.operand(0), rewriter)
    )


def neutral_constant(node: Node, rewriter: Rewriter) -> bool:
    """``x * 1``, ``x / 1``, ``x + 0`` and ``x - 0`` are x where the constant broadcasts nothing."""
    neutral = 1.0 if node.op in ("Mul", "Div") else 0.0
    kept, constant = node.operand(0), node.operand(1)
    if not constant.is_constant and node.op in ("Mul", "Add"):
        kept, constant = constant, kept
    data = constant_array(constant)
    if data is None or kept.is_constant or data.dtype.kind not in "fiu":
        return False
    if not np.all(data == neutral) or not _no_broadcast(kept, constant):
        return False
    return forward(node, kept, rewriter)


def _no_broadcast(kept: Value, constant: Value) -> bool:
    shape, other = kept.tensor.shape, constant.tensor.static_shape
    if shape is None or len(other) > len(shape):
        return False
    tail = shape[len(shape) - len(other) :]
    return all(dim in (1, have) for dim, have in zip(other, tail, strict=True))


def resize(node: Node, rewriter: Rewriter) -> bool:
    """An empty operand of a Resize (a region or scales that do not count) is an absent one.

    Runtimes agree on absent operands; an empty tensor is one that some of them warn about.
    """
    given = [constant_array(value) for value in node.inputs]
    empty = [data is not None and data.size == 0 for data in given]
    if not any(empty[1:]):
        return False
    kept = [None if none else value for value, none in zip(node.inputs, empty, strict=True)]
    rewriter.set_inputs(node, kept)
    return True


MOVEMENT_RULES: Mapping[str, tuple[Rule, ...]] = {
    "Identity": (identity,),
    "Dropout": (dropout,),
    "Concat": (single_operand,),
    "Sum": (single_operand,),
    "Min": (single_operand,),
    "Max": (single_operand,),
    "Mean": (single_operand,),
    "Split": (split_once,),
    "Cast": (cast,),
    "Reshape": (reshape,),
    "Flatten": (reshape,),
    "Transpose": (transpose,),
    "Pad": (pad,),
    "Slice": (full_slice,),
    "Expand": (expand,),
    "Tile": (tile,),
    "Resize": (resize,),
    "Mul": (neutral_constant,),
    "Div": (neutral_constant,),
    "Add": (neutral_constant,),
    "Sub": (neutral_constant,),
}
"""Op type to its rules, tried in order."""
