"""correct-bias: remove the mean error that quantization adds to each output channel.

Empirical bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2; as torch.ao's
``bias_correction``): layer by layer, with the earlier layers already corrected, the mean of each
channel of a Conv, Gemm or MatMul is measured on the float and on the numbered graph over the same
kept samples, before the activation, and the difference is taken off the bias, which is int32 or,
for backends that take no other, float32.

A MatMul over sequences is left alone: its rows are tokens, often most of them padding, and the mean
error over all is not that of those which count (``docs/accuracy.md``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.passes.quantize_weights import BIAS_LIMIT, quantize_bias
from qcc.passes.walk import Watch


@dataclass(frozen=True)
class BiasSpot:
    """Where a weighted group adds its bias: the node, and the channel axis of its result."""

    node: Node
    index: int
    axis: int

    @property
    def watch(self) -> Watch:
        """What to measure: the node's result."""
        return Watch(self.node.output, self.axis)


def bias_spot(group: FusionGroup) -> BiasSpot | None:
    """Where the bias of a group is, or could be; None where there is nothing to correct."""
    if not group.is_weighted:
        return None
    anchor = group.anchor
    if anchor.op == "MatMul":
        add = group.roles.get("add")
        if add is None or group.bias is None or anchor.output.tensor.rank != 2:
            return None
        return BiasSpot(add, 1 - add.inputs.index(anchor.output), -1)
    return BiasSpot(anchor, 2, -1 if anchor.op == "Gemm" else 1)


def give_biases(graph: Graph, plan: FusionPlan) -> None:
    """A zero bias for every Conv, ConvTranspose and Gemm group that has none."""
    rewriter = Rewriter(graph)
    for group in plan.groups:
        spot = bias_spot(group)
        if spot is None or spot.node.input(spot.index) is not None:
            continue
        node = spot.node
        x = constant_behind(node.operand(0)).tensor.quant
        weight = constant_behind(node.operand(1)).tensor.quant
        assert x is not None
        assert weight is not None
        channels = constant_behind(node.operand(1)).tensor.static_shape[group.weight_axis or 0]
        if node.op == "ConvTranspose":  # its weight holds the output channels of one group
            channels *= int(attribute(node, "group"))
        zeros = np.zeros(channels, np.float32)
        if group.bias_dtype == "float32":
            plain = rewriter.constant(f"{node.label}_bias", zeros)
            rewriter.set_inputs(node, [*node.inputs[:2], plain])
            continue
        data, quant = quantize_bias(zeros, x.scale[0], weight)
        value = rewriter.constant(f"{node.label}_bias", data, TensorType((channels,), quant))
        made = rewriter.insert(
            "q.dequantize",
            [value],
            [TensorType((channels,), "float32")],
            output_names=[graph.fresh_name(f"{node.label}_bias_real")],
            before=node,
        )
        rewriter.set_inputs(node, [*node.inputs[:2], made.output])


def constant_behind(value: Value) -> Value:
    """What the q.dequantize that gives ``value`` reads; ``value`` where it is a constant itself."""
    producer = value.producer
    if producer is None:
        assert value.is_constant
        return value
    return producer.operand(0)


def shift_bias(spot: BiasSpot, delta: NDArray[np.float64]) -> None:
    """Take ``delta`` (real units, one a channel) off the stored bias at ``spot``."""
    bias = constant_behind(spot.node.operand(spot.index))
    quant = bias.tensor.quant
    if bias.constant is None or not np.isfinite(delta).all():
        return
    if quant is None:
        exact = np.asarray(bias.constant, np.float64)
        bias.constant = (exact - delta.reshape(exact.shape)).astype(np.float32)
        return
    steps = np.rint(delta / quant.scales.astype(np.float64))
    moved = np.asarray(bias.constant, np.float64) - steps
    bias.constant = np.clip(moved, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)
