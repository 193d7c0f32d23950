"""Fold batch-norms, and other scales and shifts by channel, into the weights beside them.

``y[c] = a[c] * x[c] + b[c]`` is what a BatchNormalization is at inference, and what Mul, Div, Add
and Sub by a constant are.  A chain of these behind Conv, ConvTranspose, Gemm or MatMul is composed
in float64 and folded at once, so each weight and bias is rounded once.  A BatchNormalization in
front of an unpadded linear op folds into that.  One that finds neither becomes Mul and Add.

Algorithm: Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (CVPR 2018), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Graph, Node, Stage, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.affine import Affine, affine_node, batch_norm
from qcc.passes.constants import ints
from qcc.passes.linear_weights import Linear, linear
from qcc.passes.manager import Pass
from qcc.passes.replacement import refined, supersede


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold scales and shifts into the linear ops beside them.

    ``keep_names``: the folded op's result takes the name of the value that it now computes (the
    last one of the chain), so that names mean the same numbers as in the model; by default it keeps
    its own.
    """

    name: ClassVar[str] = "fold-batchnorm"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    keep_names: bool = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        for node in graph.walk():
            if node.graph is not None:
                fold_behind(node, rewriter, self.keep_names)
        for node in graph.walk():
            if node.graph is not None and node.op == "BatchNormalization":
                _ = fold_in_front(node, rewriter) or write_out(node, rewriter)


def fold_behind(node: Node, rewriter: Rewriter, keep_names: bool) -> bool:
    """Fold the chain of scales and shifts behind the linear op ``node`` into it."""
    found = linear(node)
    if found is None:
        return False
    chain, total = _chain(node, found, rewriter)
    if not chain or total is None or not _worth_it(node, chain):
        return False
    last = chain[-1]
    found.apply(total, rewriter)
    result, name = found.result, last.output.name
    rewriter.set_type(result, refined(result.type, last.output.type))
    rewriter.replace_uses(last.output, result)
    operands = [operand for member in chain for operand in member.inputs]
    for member in reversed(chain):
        rewriter.erase(member)
    for operand in operands:
        if operand is not None and operand.is_constant:
            rewriter.erase_dead(operand)
    if keep_names:
        result.name = name
    return True


def _worth_it(node: Node, chain: list[Node]) -> bool:
    """A lone bias behind MatMul stays: MatMul has nowhere to put it but another Add."""
    return node.op != "MatMul" or len(chain) > 1 or chain[0].op not in ("Add", "Sub")


def _chain(node: Node, found: Linear, rewriter: Rewriter) -> tuple[list[Node], Affine | None]:
    """The nodes behind ``node`` that scale and shift its channels, and what they do together."""
    chain: list[Node] = []
    total: Affine | None = None
    value = node.output
    while True:
        following = [user for user in value.users if affine_node(user, value, found.axis_of(value))]
        if not following:
            return chain, total
        if len(value.uses) != 1:
            _refuse(following[0], value, rewriter)
            return chain, total
        step = affine_node(following[0], value, found.axis_of(value))
        if step is None or following[0].graph is not node.graph:
            return chain, total
        if step.size not in (1, found.channels):
            return chain, total
        total = step.spread(found.channels) if total is None else total.then(step)
        chain.append(following[0])
        value = following[0].output


def _refuse(node: Node, value: Value, rewriter: Rewriter) -> None:
    others = [user.label for user in value.users if user is not node]
    by = f"used by node '{others[0]}'" if others else "a graph output"
    sentence = f"'{node.label}' stays behind '{value.name}', which is also {by}"
    if node.op == "BatchNormalization":
        rewriter.refuse(node, sentence)


def fold_in_front(node: Node, rewriter: Rewriter) -> bool:
    """Fold a BatchNormalization into the one linear op that reads it, where nothing is padded.

    With padding it is exact only if nothing is shifted: the op pads with zeros *behind* the norm.
    """
    affine = batch_norm(node)
    value = node.output
    if affine is None or len(value.uses) != 1 or value.is_output:
        return False
    user = value.users[0]
    found = linear(user)
    if found is None or user.graph is not node.graph or user.operand(0) is not value:
        return False
    if user.op == "ConvTranspose" or user.op == "MatMul" or attribute(user, "transA"):
        return False
    padded = any(ints(user, "pads") or ()) or "auto_pad" in user.attributes
    if padded and np.any(affine.shift != 0.0):
        rewriter.refuse(node, f"'{node.label}' shifts what '{user.label}' pads with zeros")
        return False
    if affine.size != found.input_channels:
        return False
    found.apply_in_front(affine, rewriter)
    rewriter.replace_input(user, 0, node.operand(0))
    rewriter.erase(node)
    return True


def write_out(node: Node, rewriter: Rewriter) -> bool:
    """Write a BatchNormalization that folds nowhere as Mul and Add."""
    affine, rank = batch_norm(node), node.operand(0).tensor.rank
    if affine is None or rank is None or rank < 2:
        return False
    shape = (affine.size, *(1,) * (rank - 2))
    scale, shift = (
        rewriter.constant(f"{node.label}_{what}", data.astype(np.float32).reshape(shape))
        for what, data in (("scale", affine.scale), ("shift", affine.shift))
    )
    scaled = rewriter.insert(
        "Mul",
        [node.operand(0), scale],
        [node.output.type],
        name=rewriter.graph.fresh_name(f"{node.label}_mul"),
        before=node,
    )
    operands = node.inputs[1:]
    supersede(node, "Add", [scaled.output, shift], rewriter)
    for value in operands:
        rewriter.erase_dead(value)
    return True
