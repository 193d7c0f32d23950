"""Elementwise ops on quantized tensors: add, sub, mul, lookup table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcc.ir.core import Array, Node
from qcc.ir.integer.operands import real, store
from qcc.ir.ops import Evaluate, OpDefinition, Operand, define


def _check_binary(node: Node) -> str | None:
    for value in (*node.inputs, *node.outputs):
        quant = None if value is None else value.tensor.quant
        if quant is not None and not quant.per_tensor:
            return f"'{value}' must be quantized per tensor"
    if node.output.tensor.quant is None:
        return "the result must have a quantized type"
    return None


def _binary(function: Callable[[Array, Array], Array]) -> Evaluate:
    def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        with np.errstate(all="ignore"):
            value = function(real(node, arrays, 0), real(node, arrays, 1))
        return [store(node, value)]

    return evaluate


def _define_binary(name: str, formula: str, function: Callable[[Array, Array], Array]) -> None:
    define(
        OpDefinition(
            name,
            (Operand("a"), Operand("b")),
            _binary(function),
            attributes={"low": None, "high": None},
            check=_check_binary,
            doc=f"Contract 5: quantize({formula}), clamped to [low, high]; operands broadcast. "
            "A float32 operand is used as it is.",
        )
    )


_define_binary("q.add", "dequantize(a) + dequantize(b)", np.add)
_define_binary("q.sub", "dequantize(a) - dequantize(b)", np.subtract)
_define_binary("q.mul", "dequantize(a) * dequantize(b)", np.multiply)


def _evaluate_lut(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x, table = np.asarray(arrays[0]), np.asarray(arrays[1])
    return [table[x.view(np.uint8)]]


def _check_lut(node: Node) -> str | None:
    table = node.operand(1)
    if table.constant is None or table.constant.shape != (256,):
        return "the table must be a constant of 256 entries"
    if node.operand(0).tensor.storage not in ("int8", "uint8"):
        return "the operand must be stored in 8 bits"
    return None


LUT = define(
    OpDefinition(
        "q.lut",
        (Operand("x"), Operand("table")),
        _evaluate_lut,
        check=_check_lut,
        doc="Contract 6: y = table[bit pattern of x]; any unary function of an 8-bit tensor.",
    )
)
