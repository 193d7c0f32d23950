"""Ops that move stored values without changing them: they work on any element type.

Operand and result have the same element; shapes and indices are attributes, so they are known at
compile time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qcc import numerics
from qcc.ir.core import Array, Node
from qcc.ir.integer.operands import store
from qcc.ir.ops import Evaluate, OpDefinition, Operand, attribute, define


def _check_element(node: Node) -> str | None:
    if node.operand(0).tensor.element != node.output.tensor.element:
        return "the operand and the result must have the same element type"
    return None


def _define_movement(name: str, evaluate: Evaluate, doc: str, **attributes: object) -> None:
    define(
        OpDefinition(
            name, (Operand("x"),), evaluate, attributes=attributes, check=_check_element, doc=doc
        )
    )


def _reshape(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    return [np.asarray(arrays[0]).reshape([int(d) for d in attribute(node, "shape")])]


def _transpose(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    perm = [int(p) for p in attribute(node, "perm")]
    return [np.ascontiguousarray(np.asarray(arrays[0]).transpose(perm))]


def _slice(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x = np.asarray(arrays[0])
    picks: list[slice] = [slice(None)] * x.ndim
    starts, stops, steps = (attribute(node, k) for k in ("starts", "stops", "steps"))
    for axis, (start, stop, step) in enumerate(zip(starts, stops, steps, strict=True)):
        picks[axis] = slice(start, None if step < 0 and stop < 0 else stop, step)
    return [np.ascontiguousarray(x[tuple(picks)])]


def _pad(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x = np.asarray(arrays[0])
    pads = [int(p) for p in attribute(node, "pads")]
    width = [(pads[i], pads[i + x.ndim]) for i in range(x.ndim)]
    return [np.pad(x, width, constant_values=x.dtype.type(attribute(node, "value")))]


def _depth_to_space(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x = np.asarray(arrays[0])
    size = int(attribute(node, "blocksize"))
    n, c, h, w = x.shape
    depth = c // (size * size)
    if attribute(node, "mode") == "DCR":
        y = x.reshape(n, size, size, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, depth, size, size, h, w).transpose(0, 1, 4, 2, 5, 3)
    return [np.ascontiguousarray(y.reshape(n, depth, h * size, w * size))]


def _expand(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    shape = [int(d) for d in attribute(node, "shape")]
    return [np.ascontiguousarray(np.broadcast_to(np.asarray(arrays[0]), shape))]


def _gather(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    x = np.asarray(arrays[0])
    indices = np.asarray(arrays[1]).astype(np.int64)
    return [np.ascontiguousarray(np.take(x, indices, axis=int(attribute(node, "axis"))))]


def _concat(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
    parts = []
    for value, array in zip(node.inputs, arrays, strict=True):
        if value is None:
            continue
        x = np.asarray(array)
        if value.tensor.element != node.output.tensor.element:
            quant = value.tensor.quant
            if quant is not None:
                x = numerics.dequantize(x, quant.scales, quant.zero_points, axis=quant.axis)
            x = store(node, x)
        parts.append(x)
    return [np.concatenate(parts, axis=int(attribute(node, "axis")))]


_define_movement(
    "q.reshape", _reshape, "Reshape to the attribute `shape` (no 0 or -1).", shape=None
)
_define_movement("q.transpose", _transpose, "Permute axes by `perm`.", perm=None)
_define_movement(
    "q.slice",
    _slice,
    "x[starts:stops:steps], one entry an axis, normalised to non-negative numbers (a negative step "
    "with stop -1 runs to the beginning).",
    starts=None,
    stops=None,
    steps=None,
)
_define_movement(
    "q.pad", _pad, "Constant padding with the stored `value`; pads as in ONNX.", pads=None, value=0
)
_define_movement(
    "q.depth_to_space",
    _depth_to_space,
    "ONNX DepthToSpace on [N, C, H, W].",
    blocksize=None,
    mode="DCR",
)
_define_movement("q.expand", _expand, "Broadcast to the attribute `shape`.", shape=None)

GATHER = define(
    OpDefinition(
        "q.gather",
        (Operand("x"), Operand("indices")),
        _gather,
        attributes={"axis": 0},
        check=_check_element,
        doc="Take slices along `axis`; indices of any integer type and shape.",
    )
)

CONCAT = define(
    OpDefinition(
        "q.concat",
        (Operand("x", variadic=True),),
        _concat,
        attributes={"axis": None},
        doc="Concatenate along `axis`; an operand of another quantization is requantized first.",
    )
)
