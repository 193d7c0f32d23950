"""A small network, quantized by other tools in every form that they write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.passes.float_models import Array, Net

SHAPE = (1, 3, 12, 12)


def network(opset: int = 17) -> onnx.ModelProto:
    """Convolutions, a depthwise one, a skip connection, pools, a join and two linear layers."""
    net = Net(3)
    x = net.input("x", *SHAPE)
    y = net.op("Relu", net.op("Conv", x, weight(net, 8, 3, 3, 3), bias(net, 8), pads=[1, 1, 1, 1]))
    z = net.op("Conv", y, weight(net, 8, 1, 3, 3), bias(net, 8), group=8, pads=[1, 1, 1, 1])
    z = net.op("Conv", net.op("Relu", z), weight(net, 8, 8, 1, 1), bias(net, 8))
    y = net.op("Relu", net.op("Add", y, z))
    a = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    b = net.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("GlobalAveragePool", net.op("Concat", a, b, axis=1))
    y = net.op("Reshape", y, np.array([1, 16]))
    y = net.op("Relu", net.op("Gemm", y, weight(net, 12, 16), bias(net, 12), transB=1))
    model = net.model(net.op("MatMul", y, weight(net, 12, 5)))
    # Every op here means the same from opset 13 on.
    del model.opset_import[1:]
    model.opset_import[0].version = opset
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info(model.graph.output[0].name, onnx.TensorProto.FLOAT, [1, 5])
    )
    return model


def weight(net: Net, *shape: int) -> Array:
    """Weights that keep the size of what they are multiplied with."""
    fan_in = int(np.prod(shape[1:]))
    return np.asarray(net.normal(*shape) * np.float32(1.4 / np.sqrt(fan_in)))


def bias(net: Net, count: int) -> Array:
    """Small enough that nothing depends on it alone."""
    return np.asarray(net.normal(count) * np.float32(0.1))


def feeds(count: int = 8, seed: int = 0) -> list[dict[str, Array]]:
    """Inputs of :func:`network`."""
    random = np.random.default_rng(seed)
    return [{"x": random.standard_normal(SHAPE).astype(np.float32)} for _ in range(count)]


def static_model(folder: Path, *, opset: int = 17, **options: Any) -> Path:
    """What onnxruntime's static quantizer writes; ``options`` are its own."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.waiting: Iterator[dict[str, Array]] = iter(feeds())

        def get_next(self) -> dict[str, Array] | None:
            return next(self.waiting, None)

    onnx.save(network(opset), folder / "float.onnx")
    quantize_static(folder / "float.onnx", folder / "static.onnx", Reader(), **options)
    return folder / "static.onnx"


def dynamic_model(folder: Path, **options: Any) -> Path:
    """What its dynamic quantizer writes."""
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(network(), folder / "float.onnx")
    quantize_dynamic(folder / "float.onnx", folder / "dynamic.onnx", **options)
    return folder / "dynamic.onnx"


def run_literally(path: Path, feed: dict[str, Array]) -> Array:
    """What the file says: onnxruntime without optimizations."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feed)[0])
