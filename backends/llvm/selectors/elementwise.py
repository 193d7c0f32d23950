"""q.lut, q.requantize, q.add, q.sub, q.mul, q.softmax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.buffers import shift_of
from qcc.ir.core import Node
from qcc.ir.integer.operands import quant_of


def native_table(node: Node) -> NDArray[np.uint8]:
    """The table of a q.lut in native units: indexed by, and giving, unsigned bytes."""
    table = np.asarray(node.operand(1).constant)
    index = np.arange(256) ^ shift_of(node.operand(0).tensor)
    values = table.view(np.uint8)[index]
    return np.asarray(values ^ shift_of(node.output.tensor), np.uint8)


def requantize_table(node: Node) -> NDArray[np.uint8]:
    """The 256 results of a q.requantize, in native units."""
    source, target = quant_of(node.operand(0)), quant_of(node.output)
    shift = shift_of(node.operand(0).tensor)
    stored = (np.arange(256) - shift).astype(np.int64)
    real = numerics.dequantize(stored, source.scales[0], source.zero_point[0])
    low, high = target.range
    y = numerics.quantize(
        real, target.scales[0], target.zero_point[0], target.storage, low=low, high=high
    )
    return (y.astype(np.int16) + shift_of(node.output.tensor)).astype(np.uint8)
