"""absorb-affine: what is multiplied and added behind a quantized convolution goes into its weights.

Models exported from quantization-aware training keep a batch normalization, and the division that
undoes its factor in the fake-quantized weights, behind the convolution.  A factor for each channel
is a factor of the scales of the weights, whose integers stay; what is added becomes the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.ir.core import Array, Graph, Node, Stage, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.absorb_channel_scales import has_plain_bias, is_private, rescale, stored_weight
from qcc.passes.manager import Pass

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AbsorbAffine(Pass):
    """Move factors and terms of channels into the weights and bias of the convolution in front."""

    name: ClassVar[str] = "absorb-affine"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite the main graph in place: bodies of control flow hold nothing quantized."""
        for node in graph.nodes:
            if node.op == "Conv" and node.graph is graph and stored_weight(node) is not None:
                _absorb(node, rewriter)


@dataclass(frozen=True)
class _Affine:
    """``factor * x + term`` for each channel, and the nodes that compute it."""

    factor: Floats
    term: Floats
    nodes: tuple[Node, ...] = ()

    def followed_by(self, factor: Floats, term: Floats, node: Node) -> _Affine:
        return _Affine(self.factor * factor, self.term * factor + term, (*self.nodes, node))


def _absorb(conv: Node, rewriter: Rewriter) -> None:
    if not has_plain_bias(conv):
        return
    stored = stored_weight(conv)
    assert stored is not None
    found = _affine_behind(conv, stored.tensor.static_shape[0])
    # A term alone may be a bias that lowering takes by itself.
    if not found.nodes or not np.isfinite(found.factor).all() or not np.all(found.factor):
        return
    if np.any(found.factor < 0) and not _can_be_negated(stored):
        return
    last = found.nodes[-1]
    bias = _bias(conv, len(found.factor)) * found.factor + found.term
    _multiply_weight(conv, stored, found.factor, rewriter)
    constant = rewriter.constant(f"{conv.label}_bias", bias.astype(np.float32))
    old = conv.input(2)
    rewriter.set_inputs(conv, [*conv.inputs[:2], constant])
    rewriter.erase_dead(old)
    rewriter.replace_uses(last.output, conv.output)
    rewriter.erase_dead(last.output)


def _affine_behind(conv: Node, channels: int) -> _Affine:
    found = _Affine(np.ones(channels), np.zeros(channels))
    value, rank = conv.output, conv.operand(1).tensor.rank or 0
    while is_private(value):
        node = value.users[0]
        step = _step(node, value, channels, rank)
        if step is None:
            break
        found = found.followed_by(*step, node)
        value = node.output
    return found


def _step(node: Node, value: Value, channels: int, rank: int) -> tuple[Floats, Floats] | None:
    """Factor and term of one node that reads ``value``; None where it is none of these."""
    if node.op == "BatchNormalization":
        return _normalization(node, value)
    if node.op not in ("Add", "Div", "Mul", "Sub") or len(node.inputs) != 2:
        return None
    at = 0 if node.operand(0) is value else 1
    numbers = _by_channel(constant_array(node.operand(1 - at)), channels, rank)
    if numbers is None or (at == 1 and node.op == "Div"):
        return None
    one, zero = np.ones(channels), np.zeros(channels)
    if node.op in ("Mul", "Div"):
        if node.op == "Div" and not np.all(numbers):
            return None
        return (numbers if node.op == "Mul" else 1 / numbers), zero
    if node.op == "Add":
        return one, numbers
    return (one, -numbers) if at == 0 else (-one, numbers)


def _normalization(node: Node, value: Value) -> tuple[Floats, Floats] | None:
    given = [constant_array(node.input(index)) for index in range(1, 5)]
    training = bool(attribute(node, "training_mode"))
    if node.operand(0) is not value or training or any(data is None for data in given):
        return None
    if any(output.uses for output in node.outputs[1:]):
        return None
    scale, bias, mean, variance = (np.asarray(data, np.float64) for data in given)
    factor = scale / np.sqrt(variance + float(attribute(node, "epsilon")))
    return factor, bias - mean * factor


def _by_channel(data: Array | None, channels: int, rank: int) -> Floats | None:
    """A constant that broadcasts as one number a channel (axis 1 of ``rank``)."""
    if data is None or data.dtype != np.float32:
        return None
    if data.size == 1:
        return np.full(channels, float(data.reshape(())))
    spatial = rank - 2
    if data.size != channels or data.ndim < spatial + 1 or data.ndim > rank:
        return None
    if data.shape[data.ndim - spatial - 1] != channels:
        return None
    return data.reshape(-1).astype(np.float64)


def _can_be_negated(stored: Value) -> bool:
    quant = stored.tensor.quant
    if quant is None or any(quant.zero_point):
        return False
    low, _ = numerics.STORAGE_RANGE[quant.storage]
    return low < 0 and int(np.asarray(stored.constant).min()) > low


def _multiply_weight(conv: Node, stored: Value, factor: Floats, rewriter: Rewriter) -> None:
    """Multiply the scales; integers of channels with a negative factor change their sign."""
    dequantize = conv.operand(1).producer
    assert dequantize is not None
    if np.any(factor < 0):
        data = np.asarray(stored.constant)
        signs = np.sign(factor).reshape(-1, *[1] * (data.ndim - 1))
        negated = (data.astype(np.int64) * signs.astype(np.int64)).astype(data.dtype)
        type_ = TensorType(stored.tensor.shape, stored.tensor.element)
        constant = rewriter.constant(stored.name, negated, type_)
        rewriter.replace_input(dequantize, 0, constant)
        rewriter.erase_dead(stored)
        stored = constant
    rescale(dequantize, stored, np.abs(factor), rewriter)


def _bias(conv: Node, channels: int) -> Floats:
    bias = conv.input(2)
    if bias is None:
        return np.zeros(channels)
    if bias.constant is not None:
        return np.asarray(bias.constant, np.float64)
    assert bias.producer is not None
    stored = bias.producer.operand(0)
    quant = stored.tensor.quant
    assert quant is not None
    real = numerics.dequantize(
        np.asarray(stored.constant), quant.scales, quant.zero_points, axis=quant.axis
    )
    return real.astype(np.float64)
