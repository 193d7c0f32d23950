"""Push transpositions down through ops that do not care about the order of axes.

A rule looks at one node whose operands are transposed and gives an equal node on the operands as
they were, followed by one transposition.  Transpositions therefore only move forward; they end at
their inverse (and vanish), at a reshape that they cannot pass, at a region or at a graph output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.lower.movement import fold_movement
from qcc.passes.reshape_axes import commute_reshape, regrouping, slice_of_split

Perm: TypeAlias = "tuple[int, ...]"


def transposed_type(type_: TensorType, perm: Sequence[int]) -> TensorType:
    """The type after ``transpose(perm)``; a channel axis follows."""
    shape = tuple(type_.static_shape[p] for p in perm)
    quant = type_.quant
    if quant is not None and quant.axis is not None:
        moved = quant.with_axis(list(perm).index(quant.axis % len(perm)))
        return TensorType(shape, moved)
    return type_.with_shape(shape)


def insert_transpose(
    rewriter: Rewriter, value: Value, perm: Sequence[int], before: Node | None
) -> Value:
    """``value`` transposed by ``perm``; a constant is transposed here and now."""
    made = rewriter.insert(
        "q.transpose",
        [value],
        [transposed_type(value.tensor, perm)],
        attributes={"perm": [int(p) for p in perm]},
        before=before,
    )
    return fold_movement(made, rewriter) or made.output


def inverse(perm: Sequence[int]) -> Perm:
    """The permutation that undoes ``perm``."""
    return tuple(int(i) for i in np.argsort(perm))


def transpose_of(value: Value | None) -> tuple[Value, Perm] | None:
    """``(x, perm)`` where ``value`` is ``q.transpose(x)``, else None."""
    if value is None or value.producer is None or value.producer.op != "q.transpose":
        return None
    node = value.producer
    return node.operand(0), tuple(int(p) for p in attribute(node, "perm"))


def _by_axis(values: Sequence[int], perm: Perm) -> list[int]:
    """A list with one entry an axis of the transposed tensor, for the axes of the original."""
    result = [0] * len(perm)
    for axis, value in enumerate(values):
        result[perm[axis]] = int(value)
    return result


class Sinker:
    """Applies the rules to a graph until nothing changes."""

    def __init__(self, graph: Graph, rewriter: Rewriter) -> None:
        self.graph = graph
        self.rewriter = rewriter
        self._settled: set[Node] = set()

    def run(self) -> None:
        """Sink and cancel, then let bytes move where floats would, then simplify what stays."""
        self._repeat(self._step)
        self._repeat(self._raise_above_dequantize)
        self._share()
        self._repeat(self._simplify)

    def _repeat(self, step: Callable[[Node], bool]) -> None:
        changed = True
        while changed:
            changed = False
            for node in self.graph.nodes:
                if node.graph is self.graph:
                    changed |= step(node)

    def _share(self) -> None:
        """Readers of a value in one order of axes read one transposition."""
        found: dict[tuple[Value, Perm], Value] = {}
        for node in self.graph.nodes:
            above = transpose_of(node.output) if node.op == "q.transpose" else None
            if above is None or node.output.is_output:
                continue
            first = found.setdefault(above, node.output)
            if first is not node.output:
                self.rewriter.replace(node, [first])

    # -- one step ---------------------------------------------------------------------------------

    def _step(self, node: Node) -> bool:
        if node.domain == "q" and not any(output.uses for output in node.outputs):
            self.rewriter.erase(node)
            return True
        if node.op == "q.transpose":
            return self._merge(node)
        rule = _RULES.get(node.op)
        return rule is not None and rule(self, node)

    def _merge(self, node: Node) -> bool:
        perm = tuple(int(p) for p in attribute(node, "perm"))
        if perm == tuple(range(len(perm))):
            self.rewriter.replace(node, [node.operand(0)])
            return True
        above = transpose_of(node.operand(0))
        if above is None:
            return False
        x, first = above
        both = [first[p] for p in perm]
        self.rewriter.replace(node, [insert_transpose(self.rewriter, x, both, node)])
        return True

    def sink(self, node: Node, inputs: Sequence[Value | None], perm: Perm, **changes: Any) -> bool:
        """Put an equal node on untransposed ``inputs`` and one transposition behind it."""
        type_ = transposed_type(node.output.tensor, inverse(perm))
        made = self.rewriter.insert(
            node.op,
            inputs,
            [type_],
            attributes={**node.attributes, **changes},
            name=node.name,
            before=node,
        )
        if node in self._settled:
            self._settled.add(made)
        turned = insert_transpose(self.rewriter, made.output, perm, node)
        self.rewriter.replace(node, [turned])
        return True

    # -- rules ------------------------------------------------------------------------------------

    def unary(self, node: Node) -> bool:
        """The order of axes does not matter at all; further operands are kept."""
        above = transpose_of(node.input(0))
        if above is None or not _per_tensor(node):
            return False
        x, perm = above
        return self.sink(node, [x, *node.inputs[1:]], perm)

    def many(self, node: Node) -> bool:
        """Elementwise ops of several operands, which broadcast."""
        rank = len(node.output.tensor.static_shape)
        perm = self._common_perm(node)
        if perm is None or len(perm) != rank:
            return False
        operands = [
            value if value is None else self._untransposed(value, perm, node)
            for value in node.inputs
        ]
        return self.sink(node, operands, perm)

    def concat(self, node: Node) -> bool:
        """Concat along the axis that takes its place."""
        perm = self._common_perm(node)
        if perm is None:
            return False
        operands = [self._untransposed(value, perm, node) for value in node.inputs if value]
        return self.sink(node, operands, perm, axis=perm[int(attribute(node, "axis"))])

    def _common_perm(self, node: Node) -> Perm | None:
        """The permutation that most operands have; None where none has, or it was tried before.

        Operands that are not transposed get the inverse transposition, once for a node.
        """
        values = [value for value in node.inputs if value is not None and not value.is_constant]
        full = [v for v in values if v.tensor.static_shape == node.output.tensor.static_shape]
        if node.op == "q.concat":
            full = values
        perms = [found[1] if found else None for found in map(transpose_of, full)]
        present = [perm for perm in perms if perm is not None]
        if not present:
            return None
        chosen = max(dict.fromkeys(present), key=present.count)
        if all(perm == chosen for perm in perms):
            return chosen
        if node in self._settled or 2 * present.count(chosen) < len(perms):
            return None
        self._settled.add(node)
        return chosen

    def _untransposed(self, value: Value, perm: Perm, before: Node) -> Value:
        """``value`` (which broadcasts against a tensor transposed by ``perm``) turned back."""
        above = transpose_of(value)
        if above is not None and above[1] == perm:
            return above[0]
        shape = value.tensor.static_shape
        if all(d == 1 for d in shape) and len(shape) <= 1:
            return value
        if len(shape) < len(perm):
            shape = (1,) * (len(perm) - len(shape)) + shape
            value = self._reshaped(value, shape, before)
        return insert_transpose(self.rewriter, value, inverse(perm), before)

    def _reshaped(self, value: Value, shape: Sequence[int], before: Node) -> Value:
        made = self.rewriter.insert(
            "q.reshape",
            [value],
            [value.tensor.with_shape(tuple(shape))],
            attributes={"shape": list(shape)},
            before=before,
        )
        return fold_movement(made, self.rewriter) or made.output

    def pad(self, node: Node) -> bool:
        """Padding of the axes that take their place."""
        above = transpose_of(node.operand(0))
        if above is None:
            return False
        x, perm = above
        pads = attribute(node, "pads")
        begins, ends = pads[: len(perm)], pads[len(perm) :]
        return self.sink(node, [x], perm, pads=_by_axis(begins, perm) + _by_axis(ends, perm))

    def slice(self, node: Node) -> bool:
        """Slices of the axes that take their place; one index of a split axis needs no split."""
        above = transpose_of(node.operand(0))
        if above is None:
            return self._slice_before_reshape(node)
        x, perm = above
        changes = {
            name: _by_axis(attribute(node, name), perm) for name in ("starts", "stops", "steps")
        }
        return self.sink(node, [x], perm, **changes)

    def _slice_before_reshape(self, node: Node) -> bool:
        """``slice(reshape(x))`` that takes one index of an axis that the reshape split off."""
        source = node.operand(0).producer
        if source is None or source.op != "q.reshape":
            return False
        x, shape = source.operand(0), node.operand(0).tensor.static_shape
        bounds = [[int(i) for i in attribute(node, n)] for n in ("starts", "stops", "steps")]
        found = slice_of_split(x.tensor.static_shape, shape, *bounds)
        if found is None:
            return False
        starts, stops, steps = found
        sizes = [len(range(*bound)) for bound in zip(starts, stops, steps, strict=True)]
        sliced = self.rewriter.insert(
            "q.slice",
            [x],
            [x.tensor.with_shape(tuple(sizes))],
            attributes={"starts": starts, "stops": stops, "steps": steps},
            name=node.name,
            before=node,
        )
        result = self._reshaped(sliced.output, node.output.tensor.static_shape, node)
        self.rewriter.replace(node, [result])
        return True

    def expand(self, node: Node) -> bool:
        """Expansion of the axes that take their place."""
        above = transpose_of(node.operand(0))
        shape = [int(d) for d in attribute(node, "shape")]
        if above is None or len(shape) != len(above[1]):
            return False
        x, perm = above
        return self.sink(node, [x], perm, shape=_by_axis(shape, perm))

    def gather(self, node: Node) -> bool:
        """Gather by a list of indices along the axis that takes its place."""
        above = transpose_of(node.operand(0))
        if above is None or len(node.operand(1).tensor.static_shape) != 1:
            return False
        x, perm = above
        axis = perm[int(attribute(node, "axis")) % len(perm)]
        return self.sink(node, [x, node.operand(1)], perm, axis=axis)

    def softmax(self, node: Node) -> bool:
        """Only where the axis becomes the last one, which is where the kernel sums."""
        above = transpose_of(node.operand(0))
        if above is None:
            return False
        x, perm = above
        axis = perm[int(attribute(node, "axis")) % len(perm)]
        return axis == len(perm) - 1 and self.sink(node, [x], perm, axis=axis)

    def reduce_mean(self, node: Node) -> bool:
        """The mean over the axes that take their place."""
        above = transpose_of(node.operand(0))
        if above is None:
            return False
        x, perm = above
        axes = sorted(perm[int(a) % len(perm)] for a in attribute(node, "axes"))
        if attribute(node, "keepdims"):
            return self.sink(node, [x], perm, axes=axes)
        left = [p for p in perm if p not in axes]
        order = sorted(left)
        return self.sink(node, [x], tuple(order.index(p) for p in left), axes=axes)

    def reshape(self, node: Node) -> bool:
        """A reshape that splits or joins neighbouring axes commutes with the transposition."""
        shape = tuple(int(d) for d in attribute(node, "shape"))
        source = node.operand(0)
        if source.tensor.static_shape == shape:
            self.rewriter.replace(node, [source])
            return True
        if source.producer is not None and source.producer.op == "q.reshape":
            self.rewriter.set_inputs(node, [source.producer.operand(0)])
            return True
        above = transpose_of(source)
        if above is None:
            return False
        x, perm = above
        found = commute_reshape(x.tensor.static_shape, perm, shape)
        if found is not None:
            return self.sink(node, [x], found[1], shape=list(found[0]))
        return self._regroup(node, x, perm, shape) or self._fold_into_matmul(node, x, perm)

    def _regroup(self, node: Node, x: Value, perm: Perm, shape: tuple[int, ...]) -> bool:
        """A channel shuffle: shuffle channels last, and give the image turned to NCHW behind it."""
        order = regrouping(x.tensor.static_shape, perm, shape)
        if order is None:
            return False
        ordered = [x.tensor.static_shape[axis] for axis in order]
        found = commute_reshape(ordered, [order.index(p) for p in perm], shape)
        if found is None or found[1] != (0, 3, 1, 2):
            return False
        shuffled = insert_transpose(self.rewriter, x, order, node)
        return self.sink(node, [shuffled], found[1], shape=list(found[0]))

    def _fold_into_matmul(self, node: Node, x: Value, perm: Perm) -> bool:
        """``reshape(transpose(x))`` to rows that a constant matrix multiplies: permute its rows."""
        users = node.output.users
        shape = node.output.tensor.static_shape
        turned = node.operand(0).tensor.static_shape
        # The first axes stay; all others are flattened into one.
        if len(shape) != 2 or perm[0] != 0 or shape[0] != turned[0] or node.output.is_output:
            return False
        if len(users) != 1 or users[0].op != "q.matmul" or users[0].input(0) is not node.output:
            return False
        weight = users[0].operand(1)
        if weight.constant is None or len(weight.tensor.static_shape) != 2:
            return False
        back = [p - 1 for p in inverse(perm)[1:]]
        rows = np.arange(shape[1]).reshape(turned[1:]).transpose(back).ravel()
        data = np.ascontiguousarray(np.asarray(weight.constant)[rows])
        permuted = self.rewriter.constant(f"{weight.name}_rows", data, weight.tensor)
        self.rewriter.replace_input(users[0], 1, permuted)
        self.rewriter.set_inputs(node, [x])
        self.rewriter.erase_dead(weight)
        return True

    # -- after sinking ----------------------------------------------------------------------------

    def _raise_above_dequantize(self, node: Node) -> bool:
        """``transpose(dequantize(x))`` moves floats; ``dequantize(transpose(x))`` moves bytes."""
        if node.op == "q.transpose" and self._merge(node):
            return True
        if node.op != "q.transpose" or node.operand(0).producer is None:
            return False
        source = node.operand(0).producer
        if source is None or source.op != "q.dequantize" or len(source.output.uses) != 1:
            return False
        perm = attribute(node, "perm")
        turned = insert_transpose(self.rewriter, source.operand(0), perm, source)
        real = self.rewriter.insert("q.dequantize", [turned], [node.output.tensor], before=node)
        self.rewriter.replace(node, [real.output])
        self.rewriter.erase(source)
        return True

    def _simplify(self, node: Node) -> bool:
        """A transposition that only moves axes of one element is a reshape."""
        if node.domain == "q" and not any(output.uses for output in node.outputs):
            self.rewriter.erase(node)
            return True
        if node.op == "q.reshape":
            return node.input(0) is not None and _merge_reshape(self, node)
        if node.op != "q.transpose":
            return False
        shape = node.operand(0).tensor.static_shape
        moving = [p for p in attribute(node, "perm") if shape[p] != 1]
        if moving != sorted(moving):
            return False
        target = node.output.tensor.static_shape
        self.rewriter.replace(node, [self._reshaped(node.operand(0), target, node)])
        return True


def _merge_reshape(sinker: Sinker, node: Node) -> bool:
    source = node.operand(0)
    if source.tensor.static_shape == node.output.tensor.static_shape:
        sinker.rewriter.replace(node, [source])
        return True
    if source.producer is None or source.producer.op != "q.reshape":
        return False
    sinker.rewriter.set_inputs(node, [source.producer.operand(0)])
    return True


def _per_tensor(node: Node) -> bool:
    values = (node.input(0), node.output)
    quants = [v.tensor.quant for v in values if v is not None]
    return all(q is None or q.per_tensor for q in quants)


_RULES: dict[str, Callable[[Sinker, Node], bool]] = {
    "q.quantize": Sinker.unary,
    "q.dequantize": Sinker.unary,
    "q.requantize": Sinker.unary,
    "q.lut": Sinker.unary,
    "q.add": Sinker.many,
    "q.sub": Sinker.many,
    "q.mul": Sinker.many,
    "Add": Sinker.many,
    "Sub": Sinker.many,
    "Mul": Sinker.many,
    "Div": Sinker.many,
    "Max": Sinker.many,
    "Min": Sinker.many,
    "Relu": Sinker.unary,
    "Neg": Sinker.unary,
    "Clip": Sinker.unary,
    "Sigmoid": Sinker.unary,
    "Pow": Sinker.unary,
    "Sqrt": Sinker.unary,
    "Reciprocal": Sinker.unary,
    "Tanh": Sinker.unary,
    "Gelu": Sinker.unary,
    "HardSigmoid": Sinker.unary,
    "HardSwish": Sinker.unary,
    "LeakyRelu": Sinker.unary,
    "q.concat": Sinker.concat,
    "q.pad": Sinker.pad,
    "q.slice": Sinker.slice,
    "q.expand": Sinker.expand,
    "q.gather": Sinker.gather,
    "q.softmax": Sinker.softmax,
    "Softmax": Sinker.softmax,
    "q.reduce_mean": Sinker.reduce_mean,
    "q.reshape": Sinker.reshape,
}
"""Op to the rule that lets a transposition pass it."""
