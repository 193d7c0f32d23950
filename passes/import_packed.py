"""import-packed: products by weights packed into few bits become products by DequantizeLinear.

``com.microsoft.MatMulNBits`` holds the transposed weights in blocks of ``block_size`` along their
rows, ``bits`` a value, lowest bits first, with a scale and a zero point a block.  ONNX says the
same with a DequantizeLinear by blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np

from qcc.ir.core import Array, Graph, Node, Stage, Value, constant_array
from qcc.ir.infer import infer_shapes
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.manager import Pass

PACKED_OP = "com.microsoft.MatMulNBits"

FLOAT = TensorType(None, "float32")


@dataclass(frozen=True)
class ImportPacked(Pass):
    """Unpack the weights of MatMulNBits."""

    name: ClassVar[str] = "import-packed"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        for node in tuple(graph.walk()):
            if node.op != PACKED_OP:
                continue
            found = unpacked(node)
            if isinstance(found, str):
                rewriter.refuse(node, f"'{node.label}' stays MatMulNBits: {found}")
            else:
                _replace(node, found, rewriter)
        if rewriter.changes:
            infer_shapes(graph)


@dataclass(frozen=True)
class Unpacked:
    """Weights as they are stored [K, N], with float32 scales and zero points [blocks, N].

    Zero points are of the stored type, or float32.
    """

    stored: Array
    scales: Array
    zero_points: Array
    block: int

    @property
    def real(self) -> Array:
        """The weights as float32."""
        rows = self.stored.shape[0]
        spread = [
            np.repeat(numbers, self.block, axis=0)[:rows].astype(np.float32)
            for numbers in (self.scales, self.zero_points)
        ]
        return np.asarray((self.stored.astype(np.float32) - spread[1]) * spread[0], np.float32)


def unpacked(node: Node) -> Unpacked | str:
    """The weights of a MatMulNBits, or why they are not known."""
    rows, columns = int(node.attributes["K"]), int(node.attributes["N"])
    bits, block = int(node.attributes.get("bits", 4)), int(node.attributes["block_size"])
    packed, scales, zeros = (constant_array(node.input(index)) for index in (1, 2, 3))
    if bits not in (2, 4, 8):
        return f"its weights have {bits} bits"
    if node.input(4) is not None:
        return "its rows are sorted by groups"
    if packed is None or scales is None or (node.input(3) is not None and zeros is None):
        return "its weights are computed by the model"
    if scales.dtype != np.float32:
        return "its scales are not float32"
    blocks = -(-rows // block)
    dtype = np.dtype(ml_dtypes.uint4 if bits == 4 else np.uint8)
    stored = unpack_bits(packed.reshape(columns, -1), bits)[:, :rows]
    if zeros is None:
        zeros = np.full((columns, blocks), 1 << (bits - 1), np.uint8)
    elif zeros.dtype == np.uint8:
        zeros = unpack_bits(zeros.reshape(columns, -1), bits)[:, :blocks]
    zeros = zeros.reshape(columns, blocks)
    return Unpacked(
        np.ascontiguousarray(stored.T).astype(dtype),
        np.ascontiguousarray(scales.reshape(columns, blocks).T),
        np.ascontiguousarray(zeros.T).astype(dtype if zeros.dtype == np.uint8 else np.float32),
        block,
    )


def unpack_bits(packed: Array, bits: int) -> Array:
    """Values of ``bits`` bits from uint8 [rows, bytes], lowest bits first: uint8 [rows, values]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (packed[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(values.reshape(packed.shape[0], -1))


def _replace(node: Node, found: Unpacked, rewriter: Rewriter) -> None:
    weight = _weight(node, found, rewriter)
    operands = node.inputs
    result = rewriter.insert(
        "MatMul", [node.operand(0), weight], [FLOAT], name=node.name, before=node
    ).output
    bias = node.input(5)
    if bias is not None:
        result = rewriter.insert("Add", [result, bias], [FLOAT], before=node).output
    rewriter.replace(node, [result])
    for operand in operands:
        rewriter.erase_dead(operand)


def _weight(node: Node, found: Unpacked, rewriter: Rewriter) -> Value:
    """A DequantizeLinear by blocks; a float constant where zero points are no integers."""
    name = node.operand(1).name
    if found.zero_points.dtype != found.stored.dtype:
        return rewriter.constant(f"{name}_float", found.real)
    operands = [
        rewriter.constant(f"{name}_{part}", data)
        for part, data in (
            ("unpacked", found.stored),
            ("scale", found.scales),
            ("zero_point", found.zero_points),
        )
    ]
    return rewriter.insert(
        "DequantizeLinear",
        operands,
        [TensorType(tuple(found.stored.shape), "float32")],
        attributes={"axis": 0, "block_size": found.block},
        name=rewriter.graph.fresh_name(f"{name}_real"),
        before=node,
    ).output
