"""Multiply-accumulates of an ONNX model, counted from the shapes that one run really has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]

MATRIX_OPS = ("MatMul", "Gemm")


def _conv(node: Any, shape: Mapping[str, Shape]) -> int:
    return math.prod(shape[node.output[0]]) * math.prod(shape[node.input[1]][1:])


def _conv_transpose(node: Any, shape: Mapping[str, Shape]) -> int:
    return math.prod(shape[node.input[0]]) * math.prod(shape[node.input[1]][1:])


def _matmul(node: Any, shape: Mapping[str, Shape]) -> int:
    return math.prod(shape[node.output[0]]) * shape[node.input[0]][-1]


def _gemm(node: Any, shape: Mapping[str, Shape]) -> int:
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(shape[node.output[0]]) * shape[node.input[0]][0 if turned else 1]


def _recurrent(node: Any, shape: Mapping[str, Shape]) -> int:
    """Every step of every sequence multiplies with all of W and R, whichever axis is time."""
    steps = math.prod(shape[node.input[0]][:2])
    return steps * (math.prod(shape[node.input[1]]) + math.prod(shape[node.input[2]]))


COUNTS = {
    "Conv": (_conv, (1,), True),
    "ConvTranspose": (_conv_transpose, (0, 1), False),
    "MatMul": (_matmul, (0,), True),
    "Gemm": (_gemm, (0,), True),
    "LSTM": (_recurrent, (0, 1, 2), False),
    "GRU": (_recurrent, (0, 1, 2), False),
    "RNN": (_recurrent, (0, 1, 2), False),
}
"""An op's count, the inputs whose shapes it reads, and whether it reads the output's."""


def count_macs(model: Path, feed: Mapping[str, Any]) -> dict[str, int]:
    """Multiply-accumulates of one run on ``feed`` by op type.

    The shapes are those of the values themselves: the model runs once in onnxruntime with them as
    outputs.  Bodies of If, Loop and Scan are not looked into.
    """
    import onnx

    proto = onnx.load(str(model))
    nodes = [node for node in proto.graph.node if node.op_type in COUNTS]
    shape: dict[str, Shape] = {i.name: tuple(i.dims) for i in proto.graph.initializer}
    shape.update({name: tuple(array.shape) for name, array in feed.items()})
    wanted = {
        name
        for node in nodes
        for name in (
            *(node.input[i] for i in COUNTS[node.op_type][1]),
            *(node.output[:1] if COUNTS[node.op_type][2] else ()),
        )
        if name not in shape
    }
    shape.update(_shapes_in_a_run(proto, sorted(wanted), feed))
    found: dict[str, int] = {}
    for node in nodes:
        found[node.op_type] = found.get(node.op_type, 0) + COUNTS[node.op_type][0](node, shape)
    return found


def _shapes_in_a_run(proto: Any, names: list[str], feed: Mapping[str, Any]) -> dict[str, Shape]:
    import onnx
    import onnxruntime as ort

    if not names:
        return {}
    declared = {output.name for output in proto.graph.output}
    proto.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in names if name not in declared
    )
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    arrays = session.run(names, dict(feed))
    return {name: tuple(array.shape) for name, array in zip(names, arrays, strict=True)}
