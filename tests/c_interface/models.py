"""Small models that show each part of the C interface, as float ONNX models with feeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

import qcc
from qcc.ir.core import Array
from qcc.runtime.executable import Executable
from tests.passes.float_models import Net

COUNT = 4
"""Feeds of a model."""


@dataclass(frozen=True)
class CModel:
    """A model, feeds for it, and what it is compiled with."""

    model: onnx.ModelProto
    feeds: tuple[dict[str, Array], ...]
    precision: str = "int8"

    def compiled(self, target: str) -> Executable:
        """Code for one instruction set."""
        model = self.model.SerializeToString()
        made = qcc.compile(model, self.feeds, target=target, precision=self.precision)
        assert isinstance(made, Executable)
        return made


def _feeds(net: Net, **bounds: int) -> tuple[dict[str, Array], ...]:
    """Normal floats, and integers below ``bounds`` for inputs that are named there."""
    random = np.random.default_rng(7)

    def array(info: onnx.ValueInfoProto) -> Array:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        if info.name in bounds:
            return random.integers(0, bounds[info.name], shape)
        return random.standard_normal(shape).astype(np.float32)

    return tuple({info.name: array(info) for info in net.inputs} for _ in range(COUNT))


def _image_network(net: Net) -> str:
    x = net.input("x", 1, 3, 13, 11)
    y = net.op("Conv", x, 0.2 * net.normal(12, 3, 3, 3), net.normal(12), strides=[2, 2])
    y = net.op("Relu", y)
    z = net.op("Conv", y, 0.2 * net.normal(12, 1, 3, 3), pads=[1, 1, 1, 1], group=12)
    y = net.op("Add", net.op("Relu", z), y)
    y = net.op("GlobalAveragePool", net.op("Relu", y))
    return net.op("Gemm", net.op("Flatten", y), 0.3 * net.normal(12, 7), net.normal(7))


def small_cnn(precision: str = "int8") -> CModel:
    """Convolutions, a depthwise one, a residual, a mean and a product."""
    net = Net(1)
    y = _image_network(net)
    return CModel(net.model(y), _feeds(net), precision)


def several() -> CModel:
    """Two inputs, three outputs: a product of each, and their sum."""
    net = Net(2)
    a, b = net.input("left/image", 3, 17), net.input("b", 3, 17)
    p = net.op("MatMul", a, 0.3 * net.normal(17, 9))
    q = net.op("MatMul", b, 0.3 * net.normal(17, 9))
    return CModel(net.model(p, q, net.op("Add", p, q)), _feeds(net))


def constant_output() -> CModel:
    """Beside a product: an output that is a constant, and one that is the input reshaped."""
    net = Net(3)
    x = net.input("x", 2, 9)
    y = net.op("MatMul", x, net.normal(9, 5))
    same = net.op("Transpose", net.op("Unsqueeze", x, np.array([0])), perm=[1, 0, 2])
    return CModel(net.model(y, net.operand(net.normal(3, 7)), same), _feeds(net))


def copies_only() -> CModel:
    """Nothing is computed: a constant, and the input itself."""
    net = Net(4)
    x = net.input("x", 1, 5)
    outputs = net.operand(net.normal(3)), net.op("Transpose", x, perm=[0, 1])
    return CModel(net.model(*outputs), _feeds(net), "float32")


def without_inputs() -> CModel:
    """A sum of constants."""
    net = Net(8)
    y = net.op("Add", net.normal(3, 5), net.normal(3, 5))
    return CModel(net.model(y), _feeds(net), "float32")


def lookup() -> CModel:
    """Rows of a table of 11 by an integer input, and a product with them."""
    net = Net(5)
    rows = net.op("Gather", net.normal(11, 6), net.input("rows", 4, element="int64"))
    y = net.op("MatMul", rows, net.normal(6, 8))
    return CModel(net.model(y), _feeds(net, rows=11))


def float32_cnn() -> CModel:
    """The small network, not quantized."""
    return small_cnn("float32")


def lstm() -> CModel:
    """An LSTM over five steps and a product with its last hidden state."""
    net = Net(6)
    x = net.input("x", 5, 1, 7)
    weights = [0.4 * net.normal(1, 24, 7), 0.4 * net.normal(1, 24, 6), net.normal(1, 48)]
    _, last, _ = net.ops("LSTM", x, *weights, results=3, hidden_size=6)
    y = net.op("MatMul", net.op("Reshape", last, np.array([1, 6])), net.normal(6, 3))
    return CModel(net.model(y), _feeds(net))


MODELS: dict[str, Callable[[], CModel]] = {
    "small_cnn": small_cnn,
    "several": several,
    "constant_output": constant_output,
    "copies_only": copies_only,
    "without_inputs": without_inputs,
    "lookup": lookup,
    "float32_cnn": float32_cnn,
    "lstm": lstm,
}
