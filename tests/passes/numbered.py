"""Small NUMBERED graphs by hand: float ops between q.dequantize and q.quantize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Graph, Stage, Value
from qcc.ir.types import Quant, TensorType, float32


class Numbered:
    """Builds a NUMBERED graph; values are float, `q` puts a quantize/dequantize pair on one."""

    def __init__(self, seed: int = 0) -> None:
        self.graph = Graph()
        self.graph.stage = Stage.NUMBERED
        self.random = np.random.default_rng(seed)

    def input(self, name: str, *shape: int) -> Value:
        return self.graph.add_input(name, float32(*shape))

    def constant(self, data: Any) -> Value:
        return self.graph.add_constant(self.graph.fresh_name("c"), np.asarray(data))

    def op(
        self, op: str, inputs: Sequence[Value | None], shape: Sequence[int], **attributes: Any
    ) -> Value:
        node = self.graph.create_node(
            op,
            inputs,
            [float32(*shape)],
            attributes=attributes,
            name=self.graph.fresh_name(op.lower()),
        )
        return node.output

    def q(
        self, value: Value, scale: float = 0.05, zero: int = 128, storage: str = "uint8"
    ) -> Value:
        quant = Quant.make(storage, scale, zero)
        shape = value.tensor.static_shape
        stored = self.graph.create_node("q.quantize", [value], [TensorType(shape, quant)])
        return self.graph.create_node("q.dequantize", [stored.output], [float32(*shape)]).output

    def weight(
        self,
        shape: Sequence[int],
        axis: int | None = 0,
        storage: str = "int8",
        zero: int = 0,
        scale: float = 0.01,
        least: int | None = None,
    ) -> Value:
        low, high = numerics.STORAGE_RANGE[storage]
        low = low if least is None else least
        data = self.random.integers(low, high + 1, shape).astype(storage)
        count = 1 if axis is None else shape[axis]
        scales = (scale * (1 + self.random.random(count))).astype(np.float32)
        quant = Quant.make(storage, scales, zero, axis)
        stored = self.graph.add_constant(
            self.graph.fresh_name("w"), data, TensorType(tuple(shape), quant)
        )
        return self.graph.create_node("q.dequantize", [stored], [float32(*shape)]).output

    def bias(self, count: int) -> Value:
        return self.constant(self.random.normal(size=count).astype(np.float32))

    def done(self, *outputs: Value) -> Graph:
        self.graph.set_outputs(outputs)
        return self.graph

    def feeds(self, spread: float = 4.0) -> dict[str, Array]:
        return {
            value.name: self.random.normal(scale=spread, size=value.tensor.static_shape).astype(
                np.float32
            )
            for value in self.graph.inputs
        }
