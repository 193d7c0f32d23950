"""Random quantized networks: every op that native code knows, in random shapes and orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from qcc.ir.core import Graph, Value
from qcc.ir.infer import infer_node
from qcc.ir.types import TensorType
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.quant.backend_config import BackendConfig
from tests.conformance.prepared import Prepared
from tests.passes.numbered import Numbered

SIDES = (1, 2, 3, 5, 7, 8, 9)
CHANNELS = (1, 3, 4, 7, 8, 9, 15, 16, 17, 33)


class RandomNetwork:
    """Grows a network from one image input; ``pool`` holds the stored values made so far."""

    channels: tuple[int, ...] = CHANNELS
    """What a convolution can give."""

    def __init__(self, seed: int) -> None:
        self.b = Numbered(seed)
        self.random = self.b.random
        self.storage = "int8" if self.random.random() < 0.25 else "uint8"
        shape = (int(self.random.integers(1, 3)), *(self.pick(s) for s in (CHANNELS, SIDES, SIDES)))
        self.pool = [self.quantized(self.b.input("x", *shape))]

    def pick(self, options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def quantized(self, value: Value, scale: float | None = None) -> Value:
        zero = int(self.random.integers(40, 200)) - (128 if self.storage == "int8" else 0)
        scale = float(self.random.uniform(0.02, 0.2)) if scale is None else scale
        return self.b.q(value, scale, zero, self.storage)

    def emit(self, op: str, operands: list[Value | None], **attributes: Any) -> Value:
        graph = self.b.graph
        node = graph.create_node(
            op,
            operands,
            [TensorType(None, "float32")],
            attributes=attributes,
            name=graph.fresh_name(op.lower()),
        )
        node.output.type = infer_node(node)[0]
        return node.output

    def grow(self, steps: int) -> Graph:
        """Add ``steps`` random ops; what nothing reads becomes an output."""
        for _ in range(steps):
            x = self.pick(self.pool[-3:])
            self.pool.append(self.quantized(self.pick(GROWERS)(self, x)))
        outputs = [value for value in self.pool if not value.users]
        return self.b.done(*outputs)


def grow_conv(n: RandomNetwork, x: Value) -> Value:
    _, channels, height, width = x.tensor.static_shape
    depthwise = n.random.random() < 0.3
    outputs = channels if depthwise else n.pick(n.channels)
    kernel = [int(k) for k in n.random.integers(1, 4, 2)]
    pads = [int(n.random.integers(0, k)) for k in (*kernel, *kernel)]
    fits = all(size + pads[i] + pads[i + 2] >= kernel[i] for i, size in enumerate((height, width)))
    if not fits:
        kernel, pads = [1, 1], [0, 0, 0, 0]
    weight = n.b.weight((outputs, 1 if depthwise else channels, *kernel))
    y = n.emit(
        "Conv",
        [x, weight, n.b.bias(outputs) if n.random.random() < 0.7 else None],
        pads=pads,
        strides=[int(s) for s in n.random.integers(1, 3, 2)],
        group=channels if depthwise else 1,
    )
    same = [v for v in n.pool if v.tensor.shape == y.tensor.shape]
    if same and n.random.random() < 0.5:
        y = n.emit("Add", [y, n.pick(same)])
    return n.emit("Relu", [y]) if n.random.random() < 0.5 else y


def _binary(n: RandomNetwork, x: Value) -> Value:
    op = n.pick(("Add", "Mul", "Sub"))
    same = [v for v in n.pool if v.tensor.shape == x.tensor.shape]
    kind = n.pick(("same", "gate", "constant"))
    if kind == "same":
        return n.emit(op, [x, n.pick(same)])
    if kind == "gate":
        return n.emit(op, [x, n.quantized(n.emit("GlobalAveragePool", [x]))])
    data = n.random.normal(size=(x.tensor.static_shape[1], 1, 1)).astype(np.float32)
    return n.emit(op, [x, n.b.constant(data)])


def _concat(n: RandomNetwork, x: Value) -> Value:
    shape = x.tensor.static_shape
    fitting = [
        v for v in n.pool if (*v.tensor.static_shape[:1], *v.tensor.static_shape[2:])
        == (shape[0], *shape[2:])
    ]  # fmt: skip
    return n.emit("Concat", [x, n.pick(fitting), x], axis=1)


def grow_pool(n: RandomNetwork, x: Value) -> Value:
    op = n.pick(("MaxPool", "AveragePool"))
    return n.emit(op, [x], kernel_shape=[2, 3], strides=[1, 2], pads=[1, 1, 0, 1])


def _shuffle(n: RandomNetwork, x: Value) -> Value:
    batch, channels, height, width = x.tensor.static_shape
    if channels % 2:
        return n.emit("Transpose", [x], perm=[0, 1, 3, 2])
    shapes = [(batch, 2, channels // 2, height, width), (batch, channels, height, width)]
    split = n.emit("Reshape", [x, n.b.constant(np.array(shapes[0]))])
    turned = n.emit("Transpose", [split], perm=[0, 2, 1, 3, 4])
    return n.emit("Reshape", [turned, n.b.constant(np.array(shapes[1]))])


def _slice(n: RandomNetwork, x: Value) -> Value:
    axis = int(n.random.integers(1, 4))
    size = x.tensor.static_shape[axis]
    step = int(n.random.integers(1, 3)) if size > 1 else 1
    bounds = [n.b.constant(np.array([v])) for v in (0, size, axis, step)]
    return n.emit("Slice", [x, *bounds])


def _pad(n: RandomNetwork, x: Value) -> Value:
    pads = np.concatenate([[0, 0], n.random.integers(0, 3, 2), [0, 0], n.random.integers(0, 3, 2)])
    return n.emit("Pad", [x, n.b.constant(pads.astype(np.int64))])


def _resize(n: RandomNetwork, x: Value) -> Value:
    scales = n.b.constant(np.array([1, 1, 2, 1.5], np.float32))
    mode = n.pick((b"nearest", b"linear"))
    return n.emit("Resize", [x, None, scales], mode=mode)


def grow_unary(n: RandomNetwork, x: Value) -> Value:
    return n.emit(n.pick(("Sigmoid", "Tanh", "HardSwish", "Neg")), [x])


GROWERS: tuple[Callable[[RandomNetwork, Value], Value], ...] = (
    grow_conv, grow_conv, grow_conv, grow_conv, _binary, _concat, grow_pool, _shuffle, _slice, _pad,
    _resize, grow_unary,
)  # fmt: skip


def prepared_network(network: RandomNetwork, steps: int, backend: BackendConfig) -> Prepared:
    """A network of ``steps`` ops without any part that is left to onnxruntime."""
    graph = network.grow(steps)
    feeds = network.b.feeds()
    report = lower(graph, backend.patterns)
    outline_float(graph, report.refusals)
    assert "q.region" not in {node.op for node in graph.nodes}, report.refusals
    return Prepared.of(graph, feeds)
