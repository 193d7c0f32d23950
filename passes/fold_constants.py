"""Evaluate at compile time what does not depend on the graph's inputs.

* ``Constant`` nodes become initializers.
* Nodes whose operands are all constant are evaluated by onnxruntime, one node a session, so the
  bytes are those that the model itself would have computed.
* Shape arithmetic (``Shape -> Gather -> Concat -> Reshape``) is followed element by element; what
  is known becomes constant, and a Reshape whose target is known but for one element gets ``-1``
  there, so that a dynamic batch leaves no shape chain behind.
* An ``If`` with a constant condition is replaced by its branch.

Random ops, quantize and dequantize nodes, and ops of unknown domains are never evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcc.errors import DataError, ModelError
from qcc.ir import ops
from qcc.ir.core import Array, Graph, Node, Value, constant_array
from qcc.ir.infer import infer_shapes
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Dim, TensorType
from qcc.passes.dimension_values import RULES, DimensionValues, numbers
from qcc.passes.manager import Pass
from qcc.passes.replacement import forward, refined, substitute

ROUNDS = 16
"""Each round folds and infers shapes again; chains that need more do not occur."""

NEVER_EVALUATED = frozenset(
    {
        "Bernoulli",
        "DequantizeLinear",
        "Dropout",
        "DynamicQuantizeLinear",
        "Multinomial",
        "QuantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

CONSTANT_DTYPES: Mapping[str, str | None] = {
    "value": None,
    "value_float": "float32",
    "value_floats": "float32",
    "value_int": "int64",
    "value_ints": "int64",
    "value_string": "object",
    "value_strings": "object",
}


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Fold constants; a result may be ``max_growth`` MiB larger than the operands it replaces."""

    name: ClassVar[str] = "fold-constants"
    exact: ClassVar[bool] = True

    max_growth: int = 16

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Fold ``graph`` and its subgraphs until nothing changes."""
        for _ in range(ROUNDS):
            before = rewriter.changes
            _Folder(rewriter, self.max_growth << 20).graph(graph, fixed_shapes=True)
            infer_shapes(graph)
            if rewriter.changes == before:
                return


class _Folder:
    """One sweep over a graph."""

    def __init__(self, rewriter: Rewriter, growth: int) -> None:
        self.rewriter = rewriter
        self.growth = growth
        self.known = DimensionValues()

    def graph(self, graph: Graph, fixed_shapes: bool) -> None:
        """Fold every node of ``graph``.

        ``fixed_shapes`` is False inside bodies: a value that a loop carries may change its shape
        from one turn to the next, and a branch that is never taken may not fit the shapes outside.
        """
        for node in graph.nodes:
            if node.graph is not graph:
                continue
            for body in node.subgraphs:
                self.graph(body, fixed_shapes=False)
            self.node(node, fixed_shapes)

    def node(self, node: Node, fixed_shapes: bool) -> None:
        """Apply the first rule that fits ``node``."""
        if node.domain or not node.outputs:
            return
        if node.op_type == "Constant":
            self.constant_node(node)
        elif node.op_type == "If":
            self.conditional(node)
        elif fixed_shapes and self.dimensions(node):
            return
        elif _evaluable(node) and self.fits(node.inputs, _promised_bytes(node)):
            self.evaluate(node)

    # -- the rules -------------------------------------------------------------------------------

    def constant_node(self, node: Node) -> None:
        """Turn a Constant node into an initializer."""
        data = constant_data(node)
        if data is not None:
            self.replace_by_constants(node, [data])

    def conditional(self, node: Node) -> None:
        """Replace an If with a constant condition by its branch."""
        condition = constant_array(node.input(0))
        if condition is None or condition.size != 1:
            return
        taken = bool(condition.reshape(()))
        inline_branch(node, attribute(node, "then_branch" if taken else "else_branch"), self)

    def dimensions(self, node: Node) -> bool:
        """Use what is known of shapes; True when ``node`` was replaced or changed."""
        special = SHAPE_CONSUMERS.get(node.op_type)
        if special is not None and special(node, self):
            return True
        if node.op_type not in RULES:
            return False
        found = numbers(self.known(node.output))
        if found is None or not node.output.tensor.is_static:
            return False
        type = node.output.tensor
        data = np.asarray(found, object).reshape(type.static_shape)
        bits = np.iinfo("int64" if type.element == "bool" else np.dtype(type.storage))
        if any(not bits.min <= item <= bits.max for item in found):
            return False
        return self.replace_by_constants(node, [data.astype(type.storage)])

    def evaluate(self, node: Node) -> None:
        """Replace ``node`` by its results, where onnxruntime can compute them and they fit."""
        results = evaluate_node(node)
        if results is None or not self.fits(node.inputs, sum(item.nbytes for item in results)):
            return
        self.replace_by_constants(node, results)

    # -- how ---------------------------------------------------------------------------------------

    def fits(self, operands: tuple[Value | None, ...], size: int) -> bool:
        """Whether ``size`` bytes may replace constants of the operands' size."""
        have = sum(0 if v is None or v.constant is None else v.constant.nbytes for v in operands)
        return size <= have + self.growth

    def replace_by_constants(self, node: Node, results: list[Array]) -> bool:
        """Put constants in the place of a node, under its results' names; False for an output."""
        graph = node.graph
        if graph is None or any(output.is_output for output in node.outputs):
            return False
        for output, data in zip(node.outputs, results, strict=True):
            constant = graph.add_constant(output.name, data)
            constant.doc, constant.metadata = output.doc, dict(output.metadata)
            self.rewriter.replace_uses(output, constant)
        operands = node.inputs
        self.rewriter.erase(node)
        for value in operands:
            self.rewriter.erase_dead(value)
        return True


def constant_data(node: Node) -> Array | None:
    """The array that a Constant node gives; None for a sparse one."""
    for name, dtype in CONSTANT_DTYPES.items():
        if name in node.attributes:
            value: Any = node.attributes[name]
            return np.asarray(value, dtype) if dtype else np.asarray(value)
    return None


def evaluate_node(node: Node) -> list[Array] | None:
    """The results of a node with constant operands; None where onnxruntime lacks the op."""
    from qcc.ref.float_region import FloatRegion, region_model

    try:
        return FloatRegion(region_model([node], [], list(node.outputs))).run([])
    except (ModelError, DataError):
        return None


def inline_branch(node: Node, branch: Graph, folder: _Folder) -> None:
    """Move the nodes and constants of ``branch`` in front of the If ``node`` and remove the If.

    Names are unique over the whole tree of graphs, so they stay.
    """
    rewriter, outer = folder.rewriter, node.graph
    if outer is None:
        return
    results = branch.outputs
    branch.set_outputs(())
    for inner in branch.nodes:
        rewriter.move(inner, before=node)
    moved: dict[Value, Value] = {}
    for constant in tuple(branch.constants.values()):
        moved[constant] = outer.add_constant(
            constant.name, np.asarray(constant.constant), constant.tensor
        )
        rewriter.replace_uses(constant, moved[constant])
    for output, result in zip(node.outputs, results, strict=True):
        value = moved.get(result, result)
        value.type = refined(value.type, output.type)
        keep = rewriter.insert("Identity", [value], [output.type], before=node)
        rewriter.replace_uses(output, keep.output)
        forward(keep, value, rewriter)
    condition = node.input(0)
    rewriter.erase(node)
    rewriter.erase_dead(condition)


def _evaluable(node: Node) -> bool:
    if node.op_type in NEVER_EVALUATED or node.subgraphs or not node.inputs:
        return False
    if ops.schema(node.op_type) is None:
        return False
    if not all(value is None or value.is_constant for value in node.inputs):
        return False
    types = [value.type for value in (*node.inputs, *node.outputs) if value is not None]
    return all(isinstance(t, TensorType) and t.quant is None for t in types)


def _promised_bytes(node: Node) -> int:
    """The size of the results as far as their types tell."""
    total = 0
    for output in node.outputs:
        type = output.tensor
        if type.is_static and type.element not in ("undefined", "string"):
            total += int(np.prod(type.static_shape, dtype=np.int64)) * _item_bytes(type.storage)
    return total


def _item_bytes(element: str) -> int:
    try:
        return np.dtype(element).itemsize
    except TypeError:  # bfloat16, float8, int4: at most two bytes
        return 2


# -- ops that consume a shape ----------------------------------------------------------------------


def _reshape(node: Node, folder: _Folder) -> bool:
    """Give Reshape a constant target: known integers, at most one -1, 0 where a dimension stays."""
    target = node.operand(1)
    known = folder.known(target)
    if known is None or attribute(node, "allowzero") or known.ndim != 1:
        return False
    if target.is_constant:
        _carry_symbol(node, list(known), folder.rewriter)
        return False
    folder.rewriter.set_type(
        node.output, refined(node.output.type, node.output.tensor.with_shape(_dims(known)))
    )
    source = node.operand(0).tensor.shape or ()
    chosen = [_target(item, index, source) for index, item in enumerate(known)]
    if sum(item is None or item == -1 for item in chosen) > 1:
        return False
    data = np.asarray([-1 if item is None else item for item in chosen], np.int64)
    name = f"{node.label}_shape"
    folder.rewriter.replace_input(node, 1, folder.rewriter.constant(name, data))
    folder.rewriter.erase_dead(target)
    return True


def _carry_symbol(node: Node, target: list[int], rewriter: Rewriter) -> None:
    """Where -1 stands for the one symbol that is left, say so in the type of the result."""
    source = node.operand(0).tensor.shape
    symbols = [dim for dim in source or () if isinstance(dim, str)]
    if source is None or len(symbols) != 1 or target.count(-1) != 1 or 0 in target:
        return
    if not all(isinstance(dim, int) or dim == symbols[0] for dim in source):
        return
    count = math.prod(dim for dim in source if isinstance(dim, int))
    if count != math.prod(item for item in target if item != -1):
        return
    shape = tuple(symbols[0] if item == -1 else item for item in target)
    old = node.output.tensor
    rewriter.set_type(node.output, old.with_shape(shape))


def _dims(known: Any) -> tuple[Dim, ...]:
    return tuple(item if isinstance(item, str) or _positive(item) else None for item in known)


def _positive(item: Any) -> bool:
    return isinstance(item, int) and item > 0


def _target(item: Any, index: int, source: tuple[Dim, ...]) -> int | None:
    if isinstance(item, int):
        return item
    if isinstance(item, str) and index < len(source) and source[index] == item:
        return 0
    return None


def _expand(node: Node, folder: _Folder) -> bool:
    """Remove an Expand whose every dimension provably stays."""
    known, shape = folder.known(node.operand(1)), node.operand(0).tensor.shape
    if known is None or shape is None or len(known) > len(shape):
        return False
    tail = shape[len(shape) - len(known) :]
    if not all(
        item == 1 or (item is not None and item == dim)
        for item, dim in zip(known, tail, strict=True)
    ):
        return False
    target = node.operand(1)
    substitute(node, node.operand(0), folder.rewriter)
    folder.rewriter.erase_dead(target)
    return True


SHAPE_CONSUMERS: Mapping[str, Callable[[Node, _Folder], bool]] = {
    "Reshape": _reshape,
    "Expand": _expand,
}
