"""Weights of matrix products as int4 in blocks along the inputs; activations stay float.

Each block of 128 inputs (64, 32 where the count asks for it) of an output has a scale of its own:
the one of several a little below ``absmax / 7`` that leaves the least squared error.  What is left
is ONNX: an int4 constant, DequantizeLinear with ``block_size`` (opset 21), the product in float.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Graph, Node
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType

BLOCKS = (128, 64, 32)
"""Inputs a block that kernels take, the preferred one first."""

HIGHEST, LOWEST = 7, -8

SHRINKS = tuple(float(factor) for factor in np.linspace(1.0, 0.7, 13))
"""Shares of ``absmax / 7`` that are tried as a scale."""

NO_BLOCKS = "its {} inputs cannot be cut into blocks of 128, 64 or 32"
VECTOR = "it has one output, so its weight is read once whatever its type"


def quantize_blocks(graph: Graph) -> dict[Node, str]:
    """Store the weights of matrix products as int4 in place; gives the products that stay, and why.

    Products are MatMul and Gemm with a constant matrix that no other kind of node reads.
    """
    rewriter = Rewriter(graph)
    refused: dict[Node, str] = {}
    for node in graph.nodes:
        weight = node.input(1) if node.op in ("MatMul", "Gemm") else None
        if weight is None or weight.constant is None or weight.tensor.rank != 2:
            continue
        axis = 1 if node.op == "Gemm" and attribute(node, "transB") else 0
        inputs, outputs = (weight.tensor.static_shape[i] for i in (axis, 1 - axis))
        block = next((size for size in BLOCKS if inputs % size == 0), None)
        if block is None or outputs == 1:
            refused[node] = NO_BLOCKS.format(inputs) if block is None else VECTOR
            continue
        data = np.asarray(weight.constant, np.float32)
        stored, scales = in_blocks(data, axis, block)
        real = rewriter.insert(
            "DequantizeLinear",
            [
                rewriter.constant(f"{weight.name}_int4", stored, TensorType(data.shape, "int4")),
                rewriter.constant(f"{weight.name}_scale", scales),
                rewriter.constant(
                    f"{weight.name}_zero_point",
                    np.zeros(scales.shape, ml_dtypes.int4),
                    TensorType(scales.shape, "int4"),
                ),
            ],
            [weight.type],
            attributes={"axis": axis, "block_size": block},
            output_names=[graph.fresh_name(f"{weight.name}_real")],
            before=node,
        )
        rewriter.replace_input(node, 1, real.output)
        rewriter.erase_dead(weight)
    return refused


def in_blocks(
    data: NDArray[np.float32], axis: int, block: int
) -> tuple[NDArray[ml_dtypes.int4], NDArray[np.float32]]:
    """A matrix as int4 and float32 scales, whose ``axis`` is ``block`` times shorter."""
    rows = np.moveaxis(data, axis, -1)
    blocks = rows.reshape(rows.shape[0], -1, block)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    whole = np.where(largest > 0, largest / HIGHEST, 1.0).astype(np.float32)
    best, least = whole, np.full(whole.shape, np.inf, np.float32)
    for shrink in SHRINKS:
        scales = (whole * np.float32(shrink)).astype(np.float32)
        error = ((_rounded(blocks, scales) * scales - blocks) ** 2).sum(axis=-1, keepdims=True)
        best = np.where(error < least, scales, best)
        least = np.minimum(error, least)
    stored = _rounded(blocks, best).reshape(rows.shape)
    return (
        np.ascontiguousarray(np.moveaxis(stored, -1, axis)).astype(ml_dtypes.int4),
        np.ascontiguousarray(np.moveaxis(best[..., 0], -1, axis)),
    )


def _rounded(blocks: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.clip(np.rint(blocks / scales), LOWEST, HIGHEST), np.float32)
