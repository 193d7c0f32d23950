"""Small quantized models for runtime tests."""

from __future__ import annotations

import numpy as np

from qcc.ir.core import Array, Graph
from qcc.ir.types import Quant, TensorType
from tests.passes.numbered import Numbered


def small_net(seed: int = 0) -> tuple[Graph, dict[str, Array]]:
    """Two convolutions with a residual and a mean; input x [1,3,8,8], output [1,8,1,1]."""
    b = Numbered(seed)
    x = b.q(b.input("x", 1, 3, 8, 8))
    first = b.op("Conv", [x, b.weight((8, 3, 3, 3)), b.bias(8)], (1, 8, 8, 8), pads=[1, 1, 1, 1])
    first = b.q(b.op("Relu", [first], (1, 8, 8, 8)), 0.1, 0)
    second = b.op(
        "Conv", [first, b.weight((8, 8, 3, 3)), b.bias(8)], (1, 8, 8, 8), pads=[1, 1, 1, 1]
    )
    y = b.q(b.op("Relu", [b.op("Add", [second, first], (1, 8, 8, 8))], (1, 8, 8, 8)), 0.2, 0)
    y = b.q(b.op("GlobalAveragePool", [y], (1, 8, 1, 1)), 0.1, 10)
    y.name = "y"
    b.graph.reserve_name("y")
    return b.done(y), b.feeds()


def net_with_region() -> tuple[Graph, dict[str, Array]]:
    """A convolution, two float ops that only onnxruntime has, and another convolution."""
    b = Numbered(1)
    shape = (1, 4, 5, 5)
    x = b.q(b.input("x", *shape))
    y = b.q(b.op("Conv", [x, b.weight((4, 4, 1, 1))], shape), 0.2)
    y = b.q(b.op("Softplus", [b.op("Erf", [y], shape)], shape))
    y = b.q(b.op("Conv", [y, b.weight((4, 4, 1, 1))], shape), 0.1)
    return b.done(y), b.feeds()


def net_with_free_batch() -> tuple[Graph, dict[str, Array]]:
    """A convolution of images in batches of any size."""
    b = Numbered(2)
    x = b.graph.add_input("x", TensorType(("N", 3, 4, 4), "float32"))
    stored = b.graph.create_node("q.quantize", [x], [_typed(x.tensor)])
    real = b.graph.create_node("q.dequantize", [stored.output], [x.tensor])
    y = b.graph.create_node(
        "Conv",
        [real.output, b.weight((8, 3, 1, 1)), b.bias(8)],
        [TensorType(("N", 8, 4, 4), "float32")],
        name="conv",
        output_names=["y"],
    )
    return b.done(y.output), {"x": np.ones((2, 3, 4, 4), np.float32)}


def _typed(type_: TensorType) -> TensorType:

    return type_.with_element(Quant.make("uint8", 0.05, 128))
