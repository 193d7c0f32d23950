"""absorb-channel-scales: activations quantized by channel become quantized per tensor.

NNCF gives the input of a depthwise convolution a scale for each channel.  Between the convolution
that makes such a value and the depthwise ones that read it, a channel can be measured in any unit:
divided by its scale in the weights and bias of the first, multiplied in the weights of the others.
The stored integers are the same, up to how float32 rounds.  The zero points of all channels must be
equal, and between the two there may be a Relu, or a Clip that the saturation implies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Graph, Node, Stage, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.manager import Pass

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AbsorbChannelScales(Pass):
    """Move the channels' scales of activations into the weights on both sides."""

    name: ClassVar[str] = "absorb-channel-scales"
    requires: ClassVar[Stage | None] = Stage.NUMBERED
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite the main graph in place: bodies of control flow hold nothing quantized."""
        for node in graph.nodes:
            if node.op != "q.quantize" or node.graph is not graph:
                continue
            quant = node.output.tensor.quant
            if quant is None or quant.axis != 1:
                continue
            found = _site(node, quant)
            if isinstance(found, str):
                rewriter.refuse(
                    node, f"'{node.output.name}' keeps a scale for each channel: {found}"
                )
            else:
                _absorb(found, rewriter)


@dataclass(frozen=True)
class _Site:
    """A value quantized by channel, the convolution that makes it, and those that read it.

    ``clip`` is a Clip between them that the saturation implies.
    """

    quantize: Node
    quant: Quant
    maker: Node
    clip: Node | None
    readers: tuple[Node, ...]


def _site(node: Node, quant: Quant) -> _Site | str:
    if len(set(quant.zero_point)) > 1:
        return "its channels have different zero points"
    value, clip = node.operand(0), None
    activation = value.producer
    private = is_private(value)
    if activation is not None and activation.op in ("Relu", "Clip"):
        if activation.op == "Clip":
            clip = activation
        value = activation.operand(0)
        private = private and is_private(value)
    if not private:
        return "other nodes read the value before it is quantized"
    if clip is not None and not _is_implied(clip, quant):
        return f"'{clip.label}' clips within what it can store"
    maker = value.producer
    if (
        maker is None
        or maker.op != "Conv"
        or stored_weight(maker) is None
        or not has_plain_bias(maker)
    ):
        return "no convolution with constant 8-bit weights makes it"
    readers = _readers(node.output, len(quant.scale))
    if readers is None:
        return "not only depthwise convolutions read it"
    return _Site(node, quant, maker, clip, readers)


def _readers(stored: Value, channels: int) -> tuple[Node, ...] | None:
    """The depthwise convolutions that read a stored value; None where others do, too."""
    found: list[Node] = []
    for user in stored.users:
        if user.op != "q.dequantize" or user.output.is_output or stored.is_output:
            return None
        found.extend(user.output.users)
    fits = all(_is_depthwise(reader, channels) and stored_weight(reader) for reader in found)
    return tuple(dict.fromkeys(found)) if fits else None


def is_private(value: Value) -> bool:
    """Whether ``value`` has one use, by a node."""
    return len(value.uses) == 1 and not value.is_output


def stored_weight(conv: Node) -> Value | None:
    """The stored weight of a convolution, which nothing else reads through its dequantize."""
    maker = conv.operand(1).producer
    if maker is None or maker.op != "q.dequantize" or not is_private(maker.output):
        return None
    quant = maker.operand(0).tensor.quant
    if not maker.operand(0).is_constant or quant is None or quant.axis not in (None, 0):
        return None
    return maker.operand(0)


def has_plain_bias(conv: Node) -> bool:
    """Whether the bias is absent, a float constant, or a stored one behind its own dequantize."""
    bias = conv.input(2)
    if bias is None or bias.is_constant:
        return True
    maker = bias.producer
    stored = maker is not None and maker.op == "q.dequantize" and maker.operand(0).is_constant
    return stored and is_private(bias)


def _is_depthwise(node: Node, channels: int) -> bool:
    return node.op == "Conv" and int(attribute(node, "group")) == channels


def _is_implied(clip: Node, quant: Quant) -> bool:
    """Whether both bounds of a Clip lie at or beyond what each channel can store."""
    bottom, top = quant.range
    zero, scales = quant.zero_point[0], quant.scales.astype(np.float64)
    for index, ends in ((1, (bottom - zero + 0.5) * scales), (2, (top - zero - 0.5) * scales)):
        bound = clip.input(index)
        data = constant_array(bound)
        if bound is None:
            continue
        if data is None:
            return False
        limit = float(data.reshape(()))
        if np.any(limit > ends) if index == 1 else np.any(limit < ends):
            return False
    return True


def _absorb(site: _Site, rewriter: Rewriter) -> None:
    quant = site.quant
    unit = max(quant.scale)
    ratio = quant.scales.astype(np.float64) / unit
    _scale_weight(site.maker, 1 / ratio, rewriter)
    _scale_bias(site.maker, 1 / ratio, rewriter)
    for reader in site.readers:
        outputs = reader.operand(1).tensor.static_shape[0]
        _scale_weight(reader, np.repeat(ratio, outputs // len(ratio)), rewriter)
    if site.clip is not None:
        rewriter.replace(site.clip, [site.clip.operand(0)])
    stored = site.quantize.output
    whole = Quant.make(quant.storage, unit, quant.zero_point[0], None, *quant.range)
    rewriter.set_type(stored, stored.tensor.with_element(whole))


def _scale_weight(conv: Node, factors: Floats, rewriter: Rewriter) -> None:
    stored, dequantize = stored_weight(conv), conv.operand(1).producer
    assert stored is not None
    assert dequantize is not None
    rescale(dequantize, stored, factors, rewriter)


def rescale(dequantize: Node, stored: Value, factors: Floats, rewriter: Rewriter) -> None:
    """Multiply the scales of a stored constant by positive ``factors``.

    There is one an entry of the constant's first axis, which its scales are along then.
    """
    quant = stored.tensor.quant
    assert quant is not None
    scales = np.broadcast_to(quant.scales.astype(np.float64), factors.shape) * factors
    zeros = np.broadcast_to(quant.zero_points, factors.shape)
    scaled = Quant.make(quant.storage, scales, zeros, 0, *quant.range)
    type_ = TensorType(stored.tensor.shape, scaled)
    constant = rewriter.constant(stored.name, np.asarray(stored.constant), type_)
    rewriter.replace_input(dequantize, 0, constant)
    rewriter.erase_dead(stored)


def _scale_bias(conv: Node, factors: Floats, rewriter: Rewriter) -> None:
    bias = conv.input(2)
    if bias is None:
        return
    if bias.producer is not None:
        rescale(bias.producer, bias.producer.operand(0), factors, rewriter)
        return
    data = np.asarray(bias.constant).astype(np.float64) * factors
    rewriter.replace_input(conv, 2, rewriter.constant(bias.name, data.astype(np.float32)))
    rewriter.erase_dead(bias)
