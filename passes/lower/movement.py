"""Ops that move values: attributes become static, and bytes move instead of floats.

:func:`movement_of` reads a float ONNX movement op as q.* movement ops.  :func:`move_bytes` uses it
in both directions: a q.dequantize sinks below the movement that reads it, and a q.quantize rises
above the movement that makes its operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from qcc import numerics
from qcc.ir import ops
from qcc.ir.core import Array, Graph, Node, Value, constant_array
from qcc.ir.ops import attribute
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.lower.group import Group, float_constant, stored


@dataclass(frozen=True)
class Move:
    """One q.* movement op: its attributes, result shape and extra constant operands."""

    op: str
    shape: tuple[int, ...]
    attributes: Mapping[str, Any]
    fill: float | None = None
    """For q.pad: the real value of the padding, stored with the operand's quantization."""
    indices: Array | None = None
    """For q.gather: the constant second operand."""


Moves: TypeAlias = tuple[Move, ...]
"""Movement ops applied one after the other."""


def _reshape(node: Node, output: Value) -> Moves | str:
    shape = output.tensor.static_shape
    return (Move("q.reshape", shape, {"shape": list(shape)}),)


def _transpose(node: Node, output: Value) -> Moves | str:
    rank = len(output.tensor.static_shape)
    perm = attribute(node, "perm") or list(reversed(range(rank)))
    return (Move("q.transpose", output.tensor.static_shape, {"perm": [int(p) for p in perm]}),)


def _slice(node: Node, output: Value) -> Moves | str:
    shape = node.operand(0).tensor.static_shape
    given = [constant_array(node.input(i)) for i in range(1, 5)]
    if given[0] is None or given[1] is None:
        return f"the bounds of Slice '{node.label}' are not constant"
    count = given[0].size
    axes = np.arange(count) if given[2] is None else given[2]
    steps = np.ones(count, np.int64) if given[3] is None else given[3]
    begin, end, step = [0] * len(shape), list(shape), [1] * len(shape)
    for start, stop, axis, stride in zip(given[0], given[1], axes, steps, strict=True):
        a = int(axis) % len(shape)
        begin[a], end[a], step[a] = slice(int(start), int(stop), int(stride)).indices(shape[a])
    return (slice_move(begin, end, step, output.tensor.static_shape),)


def slice_move(
    begin: Sequence[int], end: Sequence[int], step: Sequence[int], shape: tuple[int, ...]
) -> Move:
    """A q.slice with normalised bounds."""
    attributes = {"starts": list(begin), "stops": list(end), "steps": list(step)}
    return Move("q.slice", shape, attributes)


def _split(node: Node, output: Value) -> Moves | str:
    shape = node.operand(0).tensor.static_shape
    axis = int(attribute(node, "axis") or 0) % len(shape)
    begin, end = [0] * len(shape), list(shape)
    for value in node.outputs[: output.index]:
        begin[axis] += value.tensor.static_shape[axis]
    end[axis] = begin[axis] + output.tensor.static_shape[axis]
    return (slice_move(begin, end, [1] * len(shape), output.tensor.static_shape),)


def _gather(node: Node, output: Value) -> Moves | str:
    indices = constant_array(node.input(1))
    if indices is None:
        return f"the indices of Gather '{node.label}' are not constant"
    shape = node.operand(0).tensor.static_shape
    axis = int(attribute(node, "axis") or 0) % len(shape)
    picked = np.where(indices < 0, indices + shape[axis], indices).astype(np.int64)
    flat = picked.ravel()
    run = flat.size > 0 and bool(np.all(np.diff(flat) == 1))
    if not run:
        return (Move("q.gather", output.tensor.static_shape, {"axis": axis}, indices=picked),)
    begin, end = [0] * len(shape), list(shape)
    begin[axis], end[axis] = int(flat[0]), int(flat[-1]) + 1
    sliced = list(shape)
    sliced[axis] = flat.size
    moves = [slice_move(begin, end, [1] * len(shape), tuple(sliced))]
    result = output.tensor.static_shape
    if result != tuple(sliced):
        moves.append(Move("q.reshape", result, {"shape": list(result)}))
    return tuple(moves)


def _pad(node: Node, output: Value) -> Moves | str:
    mode = attribute(node, "mode")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    pads = constant_array(node.input(1))
    fill = float_constant(node.input(2))
    axes = constant_array(node.input(3))
    if pads is None or (fill is None and node.input(2) is not None):
        return f"the pads or the value of Pad '{node.label}' are not constant"
    rank = len(output.tensor.static_shape)
    if axes is None:
        axes = np.arange(rank)
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[int(axis) % rank] = int(pads[i])
        full[int(axis) % rank + rank] = int(pads[i + len(axes)])
    if min(full, default=0) < 0:
        return f"Pad '{node.label}' with negative pads has no integer form"
    if mode != "constant":
        return _pad_with_elements(node, mode, full)
    value = 0.0 if fill is None else float(np.asarray(fill).reshape(()))
    return (Move("q.pad", output.tensor.static_shape, {"pads": full}, fill=value),)


_REPEATING: dict[str, Literal["reflect", "edge", "wrap"]] = {
    "reflect": "reflect",
    "edge": "edge",
    "wrap": "wrap",
}
"""Modes of Pad that repeat elements, by numpy's names."""


def _pad_with_elements(node: Node, mode: str, pads: Sequence[int]) -> Moves | str:
    """Axis after axis, every element of the result is looked up."""
    sizes = list(node.operand(0).tensor.static_shape)
    short = any(pad >= size for pad, size in zip(pads, sizes * 2, strict=True))
    if mode not in _REPEATING or (mode == "reflect" and short):
        return f"Pad '{node.label}' in mode '{mode}' has no integer form"
    moves = []
    for axis, size in enumerate(list(sizes)):
        around = (pads[axis], pads[axis + len(sizes)])
        if around == (0, 0):
            continue
        indices = np.pad(np.arange(size), around, mode=_REPEATING[mode]).astype(np.int64)
        sizes[axis] = indices.size
        moves.append(Move("q.gather", tuple(sizes), {"axis": axis}, indices=indices))
    return tuple(moves)


def _depth_to_space(node: Node, output: Value) -> Moves | str:
    mode = attribute(node, "mode")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    attributes = {"blocksize": int(attribute(node, "blocksize")), "mode": mode}
    return (Move("q.depth_to_space", output.tensor.static_shape, attributes),)


def _space_to_depth(node: Node, output: Value) -> Moves | str:
    n, c, h, w = node.operand(0).tensor.static_shape
    b = int(attribute(node, "blocksize"))
    split = (n, c, h // b, b, w // b, b)
    turned = (n, b, b, c, h // b, w // b)
    result = output.tensor.static_shape
    return (
        Move("q.reshape", split, {"shape": list(split)}),
        Move("q.transpose", turned, {"perm": [0, 3, 5, 1, 2, 4]}),
        Move("q.reshape", result, {"shape": list(result)}),
    )


def _expand(node: Node, output: Value) -> Moves | str:
    shape = output.tensor.static_shape
    return (Move("q.expand", shape, {"shape": list(shape)}),)


def _tile(node: Node, output: Value) -> Moves | str:
    repeats = constant_array(node.input(1))
    if repeats is None:
        return f"the repeats of Tile '{node.label}' are not constant"
    shape = node.operand(0).tensor.static_shape
    split = tuple(d for size in shape for d in (1, size))
    wide = tuple(d for r, size in zip(repeats, shape, strict=True) for d in (int(r), size))
    result = output.tensor.static_shape
    return (
        Move("q.reshape", split, {"shape": list(split)}),
        Move("q.expand", wide, {"shape": list(wide)}),
        Move("q.reshape", result, {"shape": list(result)}),
    )


def _identity(node: Node, output: Value) -> Moves | str:
    return ()


MOVEMENT: dict[str, Callable[[Node, Value], Moves | str]] = {
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Expand": _expand,
    "Tile": _tile,
    "Identity": _identity,
    "Dropout": _identity,
}
"""Float ONNX op to the function that reads it as q.* movement ops."""


def movement_of(node: Node, output: Value) -> Moves | str:
    """The q.* ops that give ``output`` of a movement node, or a sentence why there are none."""
    reader = MOVEMENT.get(node.op)
    if reader is None:
        return f"'{node.label}' does more than move values"
    if not (node.operand(0).tensor.is_static and output.tensor.is_static):
        return f"'{node.label}' has no static shape"
    if 0 in (*node.operand(0).tensor.static_shape, *output.tensor.static_shape):
        return f"'{node.label}' moves an empty tensor"
    return reader(node, output)


def emit_moves(moves: Moves, x: Value, rewriter: Rewriter, before: Node, name: str = "") -> Value:
    """Insert ``moves`` on ``x`` before a node; movement of constants is done here and now."""
    for move in moves:
        attributes = dict(move.attributes)
        if move.fill is not None:
            attributes["value"] = _stored_fill(move.fill, x.tensor.quant)
        operands = [x]
        if move.indices is not None:
            operands.append(rewriter.constant("indices", move.indices))
        node = rewriter.insert(
            move.op,
            operands,
            [TensorType(move.shape, moved_element(move, x.tensor))],
            attributes=attributes,
            name=name,
            before=before,
        )
        x = fold_movement(node, rewriter) or node.output
    return x


def _stored_fill(fill: float, quant: Quant | None) -> int | float:
    if quant is None:
        return fill
    low, high = quant.range
    stored_value = numerics.quantize(
        np.float32(fill),
        np.float32(quant.scale[0]),
        quant.zero_point[0],
        quant.storage,
        low=low,
        high=high,
    )
    return int(stored_value)


def moved_element(move: Move, type_: TensorType) -> str | Quant:
    """The element of the result; a channel axis follows a transposition.

    Raises ValueError where a per-channel quantization cannot follow the movement.
    """
    quant = type_.quant
    if quant is None or quant.axis is None:
        return type_.element
    if move.op == "q.transpose":
        return quant.with_axis(list(move.attributes["perm"]).index(quant.axis % len(move.shape)))
    raise ValueError(f"{move.op} of a tensor that is quantized per channel")


def fold_movement(node: Node, rewriter: Rewriter) -> Value | None:
    """The constant result of a movement node whose operands are constants; erases the node."""
    arrays = [constant_array(value) for value in node.inputs]
    definition = ops.definition(node.op)
    if definition is None or any(array is None for array in arrays):
        return None
    (data,) = definition.evaluate(node, arrays)
    folded = rewriter.constant(f"{node.operand(0).name}_moved", data, node.output.tensor)
    operands = node.inputs
    rewriter.replace(node, [folded])
    for operand in operands:
        rewriter.erase_dead(operand)
    return folded


def _can_move(type_: TensorType, moves: Moves) -> bool:
    quant = type_.quant
    return quant is None or quant.per_tensor or all(m.op == "q.transpose" for m in moves)


def lower_movement(group: Group, rewriter: Rewriter) -> str | None:
    """A movement op behind a q.dequantize moves stored values instead."""
    return sink_dequantize(group.root, rewriter)


def sink_dequantize(node: Node, rewriter: Rewriter) -> str | None:
    """``movement(q.dequantize(x))`` becomes ``q.dequantize(q.movement(x))``."""
    x = stored(node.input(0))
    if x is None:
        return f"the input of '{node.label}' is not quantized"
    plans = []
    for output in node.outputs:
        moves = movement_of(node, output) if output.uses else ()
        if isinstance(moves, str):
            return moves
        if not _can_move(x.tensor, moves):
            return f"'{node.label}' moves a tensor that is quantized per channel"
        plans.append(moves)
    for output, moves in zip(node.outputs, plans, strict=True):
        if not output.uses:
            continue
        moved = emit_moves(moves, x, rewriter, node, node.name)
        real = rewriter.insert("q.dequantize", [moved], [output.tensor], before=node)
        rewriter.replace_uses(output, real.output)
    _erase(node, rewriter)
    return None


def raise_quantize(quantizer: Node, rewriter: Rewriter) -> bool:
    """``q.quantize(movement(x))`` becomes ``q.movement(q.quantize(x))``; whether it was done.

    Only where the quantizer alone reads the moved floats, and no more elements are quantized so.
    """
    value = quantizer.operand(0)
    node, quant = value.producer, quantizer.output.tensor.quant
    if node is None or quant is None or not quant.per_tensor or node.op not in MOVEMENT:
        return False
    if value.is_output or len(value.users) != 1 or len(node.outputs) != 1:
        return False
    source = node.operand(0)
    if not source.tensor.is_float:
        return False
    moves = movement_of(node, value)
    if isinstance(moves, str) or _elements(source) > _elements(value):
        return False
    early = rewriter.insert(
        "q.quantize", [source], [source.tensor.with_element(quant)], before=quantizer
    )
    moved = emit_moves(moves, early.output, rewriter, quantizer, node.name)
    rewriter.replace(quantizer, [moved])
    _erase(node, rewriter)
    return True


def _elements(value: Value) -> int:
    return int(np.prod(value.tensor.static_shape, dtype=np.int64))


def moves_natively(node: Node) -> bool:
    """Whether :func:`lower_float_movement` can lower a node on elements that native code moves."""
    if node.op not in MOVEMENT or node.operand(0).tensor.element not in _MOVED_ELEMENTS:
        return False
    plans = [(value, movement_of(node, value)) for value in node.outputs if value.uses]
    # Nothing to do for a graph output is not nothing: its name would be lost.
    return all(not isinstance(p, str) and (p or not v.is_output) for v, p in plans)


_MOVED_ELEMENTS = ("float32", "int32", "int64")


def lower_float_movement(node: Node, rewriter: Rewriter) -> str | None:
    """A movement op on any unquantized element becomes q.* movement ops."""
    plans = [movement_of(node, output) if output.uses else () for output in node.outputs]
    for moves in plans:
        if isinstance(moves, str):
            return moves
    for output, moves in zip(node.outputs, plans, strict=True):
        if output.uses and not isinstance(moves, str):
            moved = emit_moves(moves, node.operand(0), rewriter, node, node.name)
            rewriter.replace_uses(output, moved)
    _erase(node, rewriter)
    return None


def joins_natively(node: Node) -> bool:
    """Whether :func:`lower_float_concat` can lower a node: a Concat of elements that move."""
    types = [value.tensor for value in (*node.inputs, *node.outputs) if value is not None]
    return (
        node.op == "Concat"
        and all(type_.is_static and 0 not in type_.static_shape for type_ in types)
        and {type_.element for type_ in types} <= set(_MOVED_ELEMENTS)
    )


def lower_float_concat(node: Node, rewriter: Rewriter) -> None:
    """A Concat of unquantized elements becomes a q.concat, which copies them."""
    axis = int(attribute(node, "axis")) % len(node.output.tensor.static_shape)
    made = rewriter.insert(
        "q.concat",
        [value for value in node.inputs if value is not None],
        [node.output.tensor],
        attributes={"axis": axis},
        name=node.name,
        before=node,
    )
    rewriter.replace(node, [made.output])


def _erase(node: Node, rewriter: Rewriter) -> None:
    if any(output.uses for output in node.outputs):
        return
    operands = node.inputs
    rewriter.erase(node)
    for operand in operands:
        rewriter.erase_dead(operand)


def move_bytes(graph: Graph, rewriter: Rewriter) -> None:
    """Sink every q.dequantize below, and raise every q.quantize above, ops that only move."""
    for node in graph.nodes:
        if node.graph is graph and node.op in MOVEMENT and stored(node.input(0)) is not None:
            sink_dequantize(node, rewriter)
    changed = True
    while changed:
        changed = False
        for node in reversed(graph.nodes):
            if node.graph is graph and node.op == "q.quantize":
                changed |= raise_quantize(node, rewriter)
