"""Small networks of the kinds that real ones are made of, quantized for export targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qcc.backends.registry import backend_config
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph, Value
from qcc.ir.types import float32
from qcc.pipeline import convert, prepare
from tests.passes.flow_models import conv, feeds, residual_net, weights

Net = Callable[[], Graph]


def started() -> tuple[GraphBuilder, Value]:
    """A builder, and a first convolution's result [1, 8, 16, 16]."""
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 16, 16))
    return b, b.op.Relu(conv(b, x, 8, name="stem"))


def tail(b: GraphBuilder, x: Value) -> Graph:
    """A pool and a Gemm whose result leaves the model."""
    flat = b.op.Flatten(b.op.GlobalAveragePool(x))
    channels = x.tensor.static_shape[1]
    return b.output(b.op.Gemm(flat, weights(5, channels), weights(5, seed=8), transB=1))


def silu_net() -> Graph:
    """Conv, x * Sigmoid(x), Conv, as in EfficientNet."""
    b, x = started()
    for name in ("a", "b"):
        made = conv(b, x, 8, name=name)
        x = b.op.Mul(made, b.op.Sigmoid(made))
    return tail(b, x)


def bottleneck_net() -> Graph:
    """Pointwise, depthwise and linear pointwise convolution with a skip, as in MobileNetV2."""
    b, x = started()
    wide = b.op.Clip(conv(b, x, 16, name="expand", k=1), np.float32(0), np.float32(6))
    w = weights(16, 1, 3, 3, seed=4)
    deep = b.op.Conv(wide, w, group=16, pads=[1] * 4, kernel_shape=[3, 3])
    deep = b.op.Clip(deep, np.float32(0), np.float32(6))
    return tail(b, b.op.Add(conv(b, deep, 8, name="project", k=1), x))


def fire_net() -> Graph:
    """Two convolutions joined, and a pool, as in SqueezeNet."""
    b, x = started()
    parts = [b.op.Relu(conv(b, x, 8, name=f"c{k}", k=k)) for k in (1, 3)]
    x = b.op.MaxPool(b.op.Concat(*parts, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    return tail(b, b.op.Relu(conv(b, x, 8, name="last")))


def decoder_net() -> Graph:
    """A clamped skip joined with an unclamped transposed convolution, as in U-Net."""
    b, skip = started()
    x = b.op.MaxPool(skip, kernel_shape=[2, 2], strides=[2, 2])
    x = b.op.Relu(conv(b, x, 8, name="low"))
    w = weights(8, 8, 2, 2, seed=5)
    x = b.op.ConvTranspose(x, w, weights(8, seed=6), strides=[2, 2], kernel_shape=[2, 2])
    return tail(b, b.op.Relu(conv(b, b.op.Concat(skip, x, axis=1), 8, name="joined")))


def pyramid_net() -> Graph:
    """Nearest resizing and a sum, an average pool, and an output in the image's layout."""
    b, x = started()
    low = b.op.Relu(conv(b, x, 8, name="a"))
    low = b.op.AveragePool(low, kernel_shape=[2, 2], strides=[2, 2])
    high = b.op.Resize(low, None, np.array([1, 1, 2, 2], np.float32), mode="nearest")
    both = b.op.Relu(conv(b, b.op.Add(high, x), 8, name="b"))
    return b.output(b.op.Transpose(conv(b, both, 4, name="c", k=1), perm=[0, 2, 3, 1]))


NETS: dict[str, Net] = {
    net.__name__: net
    for net in (residual_net, silu_net, bottleneck_net, fire_net, decoder_net, pyramid_net)
}


def exported(net: Net, target: str, **changes: Any) -> Graph:
    """The NUMBERED graph for a target; noisy groups stay quantized, since weights are random."""
    graph = net()
    prepared = prepare(graph, None, backend_config(target)).calibrate(feeds(graph))
    options = {"least_local_db": -100.0, "least_arithmetic_db": -100.0, **changes}
    return convert(prepared, **options).graph
