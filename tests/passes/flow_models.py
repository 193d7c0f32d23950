"""Small float graphs for the quantization flow, with sample inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Array, Graph, Value
from qcc.ir.types import float32

RNG = np.random.default_rng


def weights(*shape: int, seed: int = 0, spread: float = 0.3) -> Array:
    """Normal float32 weights."""
    return (RNG(seed).normal(size=shape) * spread).astype(np.float32)


def conv(b: GraphBuilder, x: Value, out: int, *, name: str, bias: bool = True, k: int = 3) -> Value:
    """A padded Conv of ``out`` channels."""
    channels = x.tensor.static_shape[1]
    w = weights(out, channels, k, k, seed=out + k)
    extra = [weights(out, seed=out + 1)] if bias else []
    made: Value = b.op.Conv(x, w, *extra, pads=[k // 2] * 4, kernel_shape=[k, k], _name=name)
    return made


def residual_net() -> Graph:
    """Conv-Relu, Conv, Add-Relu, pool, Gemm, Softmax."""
    b = GraphBuilder()
    x = b.input("x", float32(1, 3, 8, 8))
    first = b.op.Relu(conv(b, x, 8, name="first"), _name="relu1")
    second = conv(b, first, 8, name="second", bias=False)
    joined = b.op.Relu(b.op.Add(second, first, _name="add"), _name="relu2")
    pooled = b.op.GlobalAveragePool(joined, _name="pool")
    flat = b.op.Flatten(pooled, _name="flat")
    logits = b.op.Gemm(flat, weights(5, 8, seed=9), weights(5, seed=8), transB=1, _name="fc")
    return b.output(b.op.Softmax(logits, _name="soft"))


def feeds(graph: Graph, count: int = 6, seed: int = 3) -> list[dict[str, Array]]:
    """Normal float32 inputs of a graph of static shapes."""
    random = RNG(seed)
    return [
        {v.name: random.normal(size=v.tensor.static_shape).astype(np.float32) for v in graph.inputs}
        for _ in range(count)
    ]


def names(nodes: Sequence[Any]) -> list[str]:
    """The labels of nodes."""
    return [node.label for node in nodes]
