"""Small float nets, quantized for TensorRT, and a short text that says where Q/DQ stand in them.

The text has a line for each float op, ``result = Op(operands)``, and ends with what the graph
returns.  Operands are written

* ``x``: a float value;
* ``x:a``: the value ``x`` behind quantize and dequantize; values of one scale have one letter, and
  each further dequantize of the same stored value adds a prime;
* ``int8[0]``: a stored weight with a scale for each index of axis 0 (``int8``: one scale);
* ``float``: a float constant.  Constant integers (shapes, axes) are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from string import ascii_lowercase
from textwrap import dedent
from typing import Any

import numpy as np

from qcc.backends.tensorrt.config import CONFIG
from qcc.ir.core import Graph, Node, Value
from qcc.pipeline import QuantizedModel, convert, prepare
from tests.passes.float_models import Array, Net, feeds_for

SAMPLES = 2
CHANNELS = 16


class SmallNet(Net):
    """A Net whose results are called after their op and its number: ``conv1``, ``conv2``, ..."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.counts: Counter[str] = Counter()

    def ops(
        self, op: str, *operands: str | Array | float | None, results: int = 1, **attributes: Any
    ) -> list[str]:
        made = super().ops(op, *operands, results=results, **attributes)
        stem = op.rpartition(".")[2].lower()
        self.counts[stem] += 1
        names = [f"{stem}{self.counts[stem]}{made[i][-1] * (i > 0)}" for i in range(results)]
        node = self.nodes[-1]
        node.name = names[0]
        del node.output[:]
        node.output.extend(names)
        return names

    def image(self, name: str = "x", channels: int = CHANNELS, size: int = 6) -> str:
        """An input of one image."""
        return self.input(name, 1, channels, size, size)

    def conv(
        self,
        x: str,
        channels: int = CHANNELS,
        given: int = CHANNELS,
        kernel: int = 3,
        bias: bool = False,
        group: int = 1,
        **attributes: Any,
    ) -> str:
        """A square convolution that keeps the size of its image (unless it has strides)."""
        products = given // group * kernel**2
        weight = self.normal(channels, given // group, kernel, kernel) / np.float32(products**0.5)
        extra = [self.normal(channels)] if bias else []
        pads = [kernel // 2] * 4
        return self.op("Conv", x, weight, *extra, pads=pads, group=group, **attributes)

    def statistics(self, channels: int = CHANNELS) -> list[Array]:
        """Scale, bias, mean and variance of a BatchNormalization."""
        parts = [self.normal(channels) for _ in range(3)]
        return [*parts, abs(self.normal(channels)) + np.float32(0.5)]

    def scales(self, *factors: float) -> Array:
        """The factors of a Resize."""
        return np.array(factors, np.float32)


def quantized(graph: Graph, sizes: Mapping[str, int] | None = None) -> QuantizedModel:
    """``graph`` quantized for TensorRT on random samples; no group is given up for its noise."""
    prepared = prepare(graph, backend=CONFIG)
    prepared.calibrate([feeds_for(graph, sizes, seed) for seed in range(SAMPLES)])
    return convert(
        prepared,
        bias_correction=False,
        weight_rounding=False,
        equalization=False,
        least_local_db=-np.inf,
        least_arithmetic_db=-np.inf,
    )


def placement(graph: Graph, sizes: Mapping[str, int] | None = None) -> str:
    """Where Q/DQ stand in ``graph`` after it was quantized for TensorRT."""
    return rendered(quantized(graph, sizes).graph)


def check(graph: Graph, expected: str, sizes: Mapping[str, int] | None = None) -> None:
    """Quantize ``graph`` for TensorRT; ``expected`` is the (indented) text of the result."""
    found = placement(graph, sizes)
    assert found == dedent(expected).strip(), f"it is\n{found}"


def rendered(graph: Graph) -> str:
    """The text of a NUMBERED graph."""
    return _Rendering().text(graph)


class _Rendering:
    def __init__(self) -> None:
        self.letters: dict[object, str] = {}
        self.readings: dict[Value, list[Value]] = {}

    def text(self, graph: Graph) -> str:
        lines = [self.line(node) for node in graph.nodes if node.domain != "q"]
        returned = ", ".join(self.operand(value) for value in graph.outputs)
        return "\n".join([*lines, f"return {returned}"])

    def line(self, node: Node) -> str:
        results = ", ".join(value.name for value in node.outputs)
        found = [self.operand(value) for value in node.inputs if not _is_integer(value)]
        while found and found[-1] == "_":
            found.pop()
        return f"{results} = {node.op}({', '.join(found)})"

    def operand(self, value: Value | None) -> str:
        if value is None:
            return "_"
        if value.is_constant:
            return "float"
        producer = value.producer
        if producer is None or producer.op != "q.dequantize":
            return value.name
        stored = producer.operand(0)
        quant = stored.tensor.quant
        assert quant is not None
        assert quant.storage == "int8"
        assert set(quant.zero_points) == {0}
        if stored.is_constant:
            return "int8" if quant.axis is None else f"int8[{quant.axis}]"
        assert quant.axis is None
        assert stored.producer is not None
        known = self.readings.setdefault(stored, [])
        if value not in known:
            known.append(value)
        letter = self.letters.setdefault(quant.scale, ascii_lowercase[len(self.letters)])
        return f"{stored.producer.operand(0).name}:{letter}{chr(39) * known.index(value)}"


def _is_integer(value: Value | None) -> bool:
    return value is not None and value.is_constant and value.tensor.storage == "int64"
