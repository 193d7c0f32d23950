"""Small Q/DQ models for the linter, made node by node, and a way to run them as written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[Any]

FLOAT, INT8, UINT8, INT32 = (
    TensorProto.FLOAT,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT32,
)

ZERO = np.int8(0)


class Net:
    """A model that is being made: nodes get names, arrays become initializers."""

    def __init__(self, opset: int = 21) -> None:
        self.opset = opset
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.inputs: list[tuple[str, int, Sequence[Any]]] = []
        self.domains: set[str] = set()
        self.count = 0

    def input(self, name: str, shape: Sequence[Any], element: int = FLOAT) -> str:
        self.inputs.append((name, element, shape))
        return name

    def constant(self, array: Any, name: str = "", element: int | None = None) -> str:
        """An initializer; ``element`` is for types that numpy lacks."""
        name = name or f"c{len(self.initializers)}"
        data = np.asarray(array)
        if element is None:
            self.initializers[name] = numpy_helper.from_array(data, name)
        else:
            dtype = helper.tensor_dtype_to_np_dtype(element)
            self.initializers[name] = numpy_helper.from_array(data.astype(dtype), name)
        return name

    def node(self, op: str, *operands: str, name: str | None = None, **attributes: Any) -> str:
        """One node; gives its result, which is named after it."""
        self.count += 1
        label = f"{op.lower()}{self.count}" if name is None else name
        result = label or f"unnamed{self.count}"
        domain, _, op_type = op.rpartition(".")
        if domain:
            self.domains.add(domain)
        self.nodes.append(
            helper.make_node(
                op_type, operands, [f"{result}_y"], name=label, domain=domain, **attributes
            )
        )
        return f"{result}_y"

    def quantize(self, x: str, scale: Any = 0.05, zero: Any = ZERO, **more: Any) -> str:
        """QuantizeLinear; ``zero`` is an array of the stored type, or None for no operand."""
        return self._linear("QuantizeLinear", x, scale, zero, **more)

    def dequantize(self, x: str, scale: Any = 0.05, zero: Any = ZERO, **more: Any) -> str:
        """DequantizeLinear."""
        return self._linear("DequantizeLinear", x, scale, zero, **more)

    def _linear(
        self, op: str, x: str, scale: Any, zero: Any, element: int | None = None, **more: Any
    ) -> str:
        operands = [x, scale if isinstance(scale, str) else self.constant(np.float32(scale))]
        if zero is not None:
            operands.append(zero if isinstance(zero, str) else self.constant(zero, "", element))
        return self.node(op, *operands, **more)

    def pair(self, x: str, scale: Any = 0.05, zero: Any = ZERO, **more: Any) -> str:
        """QuantizeLinear and DequantizeLinear with the same parameters."""
        return self.dequantize(self.quantize(x, scale, zero, **more), scale, zero, **more)

    def weight(
        self, data: Array, axis: int | None, zero: Any = None, written: int | None = None
    ) -> str:
        """A float weight stored as int8 with scales along ``axis`` (None: one for all).

        ``written`` is the axis that the node says.
        """
        stored, scale = stored_weight(data, axis)
        zeros = np.zeros(scale.shape, np.int8) if zero is None else zero
        more = {} if axis is None else {"axis": axis if written is None else written}
        return self.dequantize(self.constant(stored), scale, zeros, **more)

    def model(self, *outputs: str, ir_version: int = 10) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(*item) for item in self.inputs],
            [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
            list(self.initializers.values()),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in sorted(self.domains)]
        made = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        typed = onnx.shape_inference.infer_shapes(made)
        for output, known in zip(made.graph.output, typed.graph.output, strict=True):
            output.CopyFrom(known)
        return made


def stored_weight(data: Array, axis: int | None) -> tuple[Array, Array]:
    """The int8 form of a weight and its scales, of the largest value of every channel."""
    others = None if axis is None else tuple(a for a in range(data.ndim) if a != axis)
    scale = np.asarray(np.abs(data).max(axis=others) / 127, np.float32)
    shape = [1] * data.ndim
    if axis is not None:
        shape[axis] = -1
    stored = np.clip(np.rint(data / scale.reshape(shape)), -127, 127).astype(np.int8)
    return stored, scale


def random(*shape: int, seed: int = 0) -> Array:
    """Normal numbers, of another size in every row and column, so that axes can be told apart."""
    generator = np.random.default_rng(seed)
    data = generator.normal(size=shape).astype(np.float32)
    if len(shape) > 1:
        rows = generator.uniform(0.2, 2.0, size=(shape[0], *[1] * (len(shape) - 1)))
        data *= rows.astype(np.float32)
    return data


def good_conv(opset: int = 21) -> Net:
    """A net of one Conv as TensorRT wants it, and its output ``y``; the net may be gone on with."""
    net = Net(opset)
    x = net.pair(net.input("x", ["n", 16, 8, 8]))
    w = net.weight(random(32, 16, 3, 3), 0)
    net.node("Conv", x, w, net.constant(random(32)), name="conv")
    return net


def run(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs in onnxruntime, every node as it is written: nothing fused, nothing optimized."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[Array] = session.run(None, dict(feeds))
    return outputs


def kernels(
    model: ModelProto, folder: Path, switched_on: str = "session.qdqisint8allowed"
) -> list[str]:
    """The ops that onnxruntime's CPU provider makes of a model with its optimizations.

    int8 activations stay int8, as on ARM; on x86 they would be made uint8 first.
    """
    path = folder / "optimized.onnx"
    _optimized(model, path, switched_on)
    return [node.op_type for node in onnx.load(path).graph.node]


def run_fused(model: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs in onnxruntime with its optimizations, exact on CPUs without VNNI too."""
    outputs: list[Array] = _optimized(model, None, "session.x64quantprecision").run(
        None, dict(feeds)
    )
    return outputs


def _optimized(model: ModelProto, path: Path | None, switched_on: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    options.add_session_config_entry(switched_on, "1")
    if path is not None:
        options.optimized_model_filepath = str(path)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
