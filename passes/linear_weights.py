"""The ops with constant weights, seen alike: scale their output or input channels, add a bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcc.ir.core import Node, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.passes.affine import Affine, Float64
from qcc.passes.constants import reals

FORMS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass
class Linear:
    """A linear op with a constant float32 weight; ``result`` is its output, or the biased sum.

    ``channels`` counts output channels, ``input_channels`` input channels.
    """

    node: Node
    weight: Float64
    bias: Float64 | None
    channels: int
    input_channels: int
    result: Value

    def axis_of(self, value: Value) -> int | None:
        """The channel axis of the op's result (or of something of the same shape)."""
        if self.node.op in ("Conv", "ConvTranspose"):
            return 1
        rank = value.tensor.rank
        return None if rank is None else rank - 1

    def apply(self, affine: Affine, rewriter: Rewriter) -> None:
        """Scale and shift the output channels by ``affine`` (of exactly ``channels`` channels)."""
        bias = affine.shift if self.bias is None else self.bias * affine.scale + affine.shift
        self._store(self._scale_outputs(affine.scale), bias, rewriter)

    def apply_in_front(self, affine: Affine, rewriter: Rewriter) -> None:
        """Compute on ``affine(x)`` instead of x; exact where the op pads nothing."""
        by_input = self._by_input()
        shift = affine.shift.reshape(by_input.shape[0], -1)
        moved = np.einsum("gi,gio->go", shift, by_input.sum(-1)).reshape(-1)
        bias = moved if self.bias is None else self.bias + moved
        self._store(self._scale_inputs(affine.scale), bias, rewriter)

    # -- the layouts of weights --------------------------------------------------------------------

    def _scale_outputs(self, scale: Float64) -> Float64:
        weight, rank = self.weight, self.weight.ndim
        if self.node.op == "Conv":
            return np.asarray(weight * scale.reshape(-1, *(1,) * (rank - 1)))
        if self.node.op == "ConvTranspose":  # [C_in, C_out / groups, ...]
            groups = int(attribute(self.node, "group"))
            by_group = weight.reshape(groups, -1, *weight.shape[1:])
            factors = scale.reshape(groups, 1, -1, *(1,) * (rank - 2))
            return np.asarray((by_group * factors).reshape(weight.shape))
        if self.node.op == "Gemm" and attribute(self.node, "transB"):
            return np.asarray(weight * scale.reshape(-1, 1))
        return weight * scale

    def _by_input(self) -> Float64:
        """The weight of Conv or Gemm as [groups, inputs a group, outputs a group, taps]."""
        weight = self.weight
        if self.node.op == "Conv":
            groups = int(attribute(self.node, "group"))
            split = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
            return np.asarray(split.transpose(0, 2, 1, 3))
        matrix = weight.T if attribute(self.node, "transB") else weight
        return matrix[None, :, :, None]

    def _scale_inputs(self, scale: Float64) -> Float64:
        weight = self.weight
        if self.node.op == "Conv":
            groups = int(attribute(self.node, "group"))
            split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
            factors = scale.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
            return np.asarray((split * factors).reshape(weight.shape))
        rows = scale.reshape(1, -1) if attribute(self.node, "transB") else scale.reshape(-1, 1)
        return weight * rows

    def _store(self, weight: Float64, bias: Float64, rewriter: Rewriter) -> None:
        node, old = self.node, self.node.inputs[1:]
        new_weight = rewriter.constant(
            _base(node.operand(1)), np.ascontiguousarray(weight, np.float32)
        )
        rewriter.replace_input(node, 1, new_weight)
        if node.op == "MatMul":
            self.result = self._add_behind(bias, rewriter)
        else:
            have = node.input(2)
            name = f"{node.label}_bias" if have is None else _base(have)
            new_bias = rewriter.constant(name, bias.astype(np.float32))
            rewriter.set_inputs(node, [node.operand(0), new_weight, new_bias])
        for value in old:
            rewriter.erase_dead(value)

    def _add_behind(self, bias: Float64, rewriter: Rewriter) -> Value:
        graph, node = self.node.graph, self.node
        if graph is None or not np.any(bias):
            return node.output
        position = graph.nodes.index(node) + 1
        before = graph.nodes[position]  # the chain that is folded follows, so there is one
        constant = rewriter.constant(f"{node.label}_bias", bias.astype(np.float32))
        add = rewriter.insert(
            "Add",
            [node.output, constant],
            [node.output.type],
            name=rewriter.graph.fresh_name(f"{node.label}_add"),
            before=before,
        )
        return add.output


def _base(value: Value) -> str:
    return value.name if value.name.endswith("_folded") else f"{value.name}_folded"


def linear(node: Node) -> Linear | None:
    """``node`` as a linear op with constant float32 weights and bias, else None."""
    if node.op not in FORMS or len(node.inputs) < 2 or not node.output.tensor.is_float:
        return None
    weight = _float32(node.input(1))
    if weight is None or weight.ndim < 2 or (node.op in ("MatMul", "Gemm") and weight.ndim != 2):
        return None
    if node.op == "Gemm" and (attribute(node, "alpha") != 1.0 or attribute(node, "beta") != 1.0):
        return None
    channels, inputs = _channels(node, weight.shape)
    given = node.input(2)
    bias = _float32(given)
    if given is not None:
        if bias is None or any(dim != 1 for dim in bias.shape[:-1]):
            return None
        if bias.size not in (1, channels):
            return None
        bias = np.broadcast_to(bias.reshape(-1), (channels,))
    return Linear(node, weight, bias, channels, inputs, node.output)


def _float32(value: Value | None) -> Float64 | None:
    if value is None or value.constant is None or value.tensor.storage != "float32":
        return None
    return reals(value)


def _channels(node: Node, shape: tuple[int, ...]) -> tuple[int, int]:
    """(output channels, input channels)."""
    groups = int(attribute(node, "group") or 1)
    if node.op == "Conv":
        return shape[0], shape[1] * groups
    if node.op == "ConvTranspose":
        return shape[1] * groups, shape[0]
    if attribute(node, "transB"):
        return shape[0], shape[1]
    return shape[1], shape[0]
