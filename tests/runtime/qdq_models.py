"""Small Q/DQ models as ONNX files hold them, one node between dequantize and quantize."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SCALE = 0.05


@dataclass
class QdqModel:
    """Nodes and initializers in the order of the calls; the input is ``x`` [1, 4, 8, 8]."""

    opset: int = 21
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, data: Any, dtype: str = "float32") -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(data, dtype), name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"n{out}", **attributes))
        return out

    def quantize(
        self, value: str, zero: int = 0, dtype: str = "uint8", scale: float = SCALE
    ) -> str:
        """A QuantizeLinear alone."""
        return self.node("QuantizeLinear", value, *self._parameters(scale, zero, dtype))

    def dequantize(
        self, value: str, zero: int = 0, dtype: str = "uint8", scale: float = SCALE
    ) -> str:
        """A DequantizeLinear alone."""
        return self.node("DequantizeLinear", value, *self._parameters(scale, zero, dtype))

    def both(self, value: str, zero: int = 0, dtype: str = "uint8", scale: float = SCALE) -> str:
        """Quantized and dequantized again."""
        stored = self.quantize(value, zero, dtype, scale)
        return self.dequantize(stored, zero, dtype, scale)

    def weight(self, *shape: int, dtype: str = "int8") -> str:
        """Stored weights behind a DequantizeLinear."""
        data = np.random.default_rng(len(self.nodes)).integers(0, 100, shape)
        stored = self.constant(f"w{len(self.tensors)}", data, dtype)
        return self.dequantize(stored, 0, dtype, 0.01)

    def bias(self, size: int) -> str:
        """An int32 bias behind a DequantizeLinear."""
        stored = self.constant(f"b{len(self.tensors)}", np.arange(size), "int32")
        return self.dequantize(stored, 0, "int32", 0.01 * SCALE)

    def model(self, *outputs: str) -> ModelProto:
        """The whole model; ``outputs`` are of unknown shape."""
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])
        graph = helper.make_graph(self.nodes, "g", [x], made, self.tensors)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def _parameters(self, scale: float, zero: int, dtype: str) -> tuple[str, str]:
        count = len(self.tensors)
        return (
            self.constant(f"scale{count}", np.float32(scale)),
            self.constant(f"zero{count}", zero, dtype),
        )
