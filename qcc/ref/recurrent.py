"""LSTM and GRU of float32 sequences (contracts 17 and 18): numpy reference and what is covered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc import curves, numerics
from qcc.fused import sums_of_products
from qcc.ir.core import Array, Node
from qcc.ir.ops import attribute

FloatArray = NDArray[np.float32]
F32 = np.float32

RECURRENT = ("LSTM", "GRU")
GATES = {"LSTM": 4, "GRU": 3}
"""Gates of a unit, in ONNX's order: input, output, forget, cell; update, reset, hidden."""
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_ACTIVATIONS = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"]}
STATE_OPERANDS = {"LSTM": (5, 6), "GRU": (5,)}
"""The operands that hold the initial state."""
_SEQUENCE_LENGTHS, _PEEPHOLES = 4, 7


@dataclass(frozen=True)
class Recurrence:
    """The sizes of an LSTM or GRU; ``backward`` says of each direction whether time runs back."""

    kind: str
    steps: int
    batch: int
    inputs: int
    hidden: int
    backward: tuple[bool, ...]
    reset_after: bool = False
    """GRU: the reset gate multiplies the product of the state, not the state (ONNX's
    ``linear_before_reset``)."""

    @property
    def gates(self) -> int:
        """Gates of one unit."""
        return GATES[self.kind]


def recurrence_of(node: Node) -> Recurrence | str:
    """What an LSTM or GRU computes, or the sentence why native code cannot."""
    refusal = _refusal(node)
    if refusal is not None:
        return refusal
    steps, batch, inputs = node.operand(0).tensor.static_shape
    return Recurrence(
        node.op,
        steps,
        batch,
        inputs,
        node.operand(2).tensor.static_shape[-1],
        _DIRECTIONS[_text(attribute(node, "direction"))],
        node.op == "GRU" and bool(attribute(node, "linear_before_reset")),
    )


def is_known_recurrence(node: Node) -> bool:
    """Whether :func:`recurrence_of` knows the form of ``node``."""
    return isinstance(recurrence_of(node), Recurrence)


def _refusal(node: Node) -> str | None:
    lengths = node.input(_SEQUENCE_LENGTHS)
    weights = [node.input(index) for index in (1, 2, 3)]
    given = _names(attribute(node, "activations"))
    directions = len(_DIRECTIONS.get(_text(attribute(node, "direction")), ()))
    checks: list[tuple[bool, str]] = [
        (not node.operand(0).tensor.is_static, "has sizes that are not known"),
        (lengths is not None, "gives lengths of sequences"),
        (node.op == "LSTM" and node.input(_PEEPHOLES) is not None, "has peepholes"),
        (attribute(node, "clip") is not None, "clips its gates"),
        (bool(attribute(node, "input_forget")), "couples its input and forget gates"),
        (bool(attribute(node, "layout")), "has the batch as its first axis"),
        (given not in ([], _ACTIVATIONS[node.op] * directions), "has other activations"),
        (any(v is not None and v.constant is None for v in weights), "computes its weights"),
    ]
    found = next((what for fails, what in checks if fails), None)
    return None if found is None else f"{node.op} '{node.label}' {found}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _names(values: Any) -> list[str]:
    return [_text(value).lower() for value in values or ()]


# -- arithmetic ------------------------------------------------------------------------------------


def evaluate_recurrent(node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
    """Y, Y_h and (LSTM) Y_c of a node of a known form, as many as it has outputs."""
    sizes = recurrence_of(node)
    if isinstance(sizes, str):
        raise ValueError(sizes)
    x, weights, hidden = (np.asarray(arrays[i], F32) for i in range(3))
    bias = _operand(arrays, 3, (len(sizes.backward), 2 * sizes.gates * sizes.hidden))
    shape = (len(sizes.backward), sizes.batch, sizes.hidden)
    states = [_operand(arrays, i, shape) for i in STATE_OPERANDS[node.op]]
    run: Callable[..., list[FloatArray]] = lstm if node.op == "LSTM" else gru
    options = {} if node.op == "LSTM" else {"reset_after": sizes.reset_after}
    found = []
    for d, backward in enumerate(sizes.backward):
        ordered = x[::-1] if backward else x
        y, *last = run(ordered, weights[d], hidden[d], bias[d], *(s[d] for s in states), **options)
        found.append([y[::-1] if backward else y, *last])
    joined = [
        np.stack(parts, 1 if index == 0 else 0)
        for index, parts in enumerate(zip(*found, strict=True))
    ]
    return tuple(np.ascontiguousarray(array) for array in joined[: len(node.outputs)])


def _operand(arrays: Sequence[Array | None], index: int, shape: tuple[int, ...]) -> FloatArray:
    """An optional operand, or zeros."""
    found = arrays[index] if index < len(arrays) else None
    return np.zeros(shape, F32) if found is None else np.asarray(found, F32)


def lstm(
    x: FloatArray,
    weights: FloatArray,
    hidden: FloatArray,
    bias: FloatArray,
    h: FloatArray,
    c: FloatArray,
) -> list[FloatArray]:
    """Contract 17 in one direction: Y ``[T, B, H]`` and the last states ``[B, H]``.

    ``x`` is ``[T, B, I]``, ``weights`` ``[4H, I]``, ``hidden`` ``[4H, H]``, ``bias`` ``[8H]``; the
    states are ``[B, H]``.
    """
    units = hidden.shape[1]
    ahead = _products(x, weights, bias[: 4 * units] + bias[4 * units :])
    y = np.empty((*x.shape[:2], units), F32)
    with np.errstate(all="ignore"):
        for step, start in enumerate(ahead):
            gates = _products(h, hidden, start)
            opened = numerics.sigmoid(gates[:, : 3 * units])
            i, o, f = (opened[:, n * units : (n + 1) * units] for n in range(3))
            c = _fused(f, c, i * curves.tanh(gates[:, 3 * units :]))
            h = _one_nan(o * curves.tanh(c))
            y[step] = h
    return [y, _one_nan(h), _one_nan(c)]


def gru(
    x: FloatArray,
    weights: FloatArray,
    hidden: FloatArray,
    bias: FloatArray,
    h: FloatArray,
    *,
    reset_after: bool,
) -> list[FloatArray]:
    """Contract 18 in one direction: Y ``[T, B, H]`` and the last state ``[B, H]``.

    ``x`` is ``[T, B, I]``, ``weights`` ``[3H, I]``, ``hidden`` ``[3H, H]``, ``bias`` ``[6H]``; the
    state is ``[B, H]``.
    """
    units = hidden.shape[1]
    two = 2 * units
    inner = bias[3 * units :]
    start = bias[: 3 * units] + inner
    if reset_after:
        start[two:] = bias[two : 3 * units]
    ahead = _products(x, weights, start)
    y = np.empty((*x.shape[:2], units), F32)
    with np.errstate(all="ignore"):
        for step, first in enumerate(ahead):
            opened = numerics.sigmoid(_products(h, hidden[:two], first[:, :two]))
            z, r = opened[:, :units], opened[:, units:]
            if reset_after:
                product = _products(h, hidden[two:], inner[two:])
                candidate = curves.tanh(_fused(r, product, first[:, two:]))
            else:
                candidate = curves.tanh(_products(r * h, hidden[two:], first[:, two:]))
            h = _fused(z, h, (F32(1) - z) * candidate)
            y[step] = h
    return [y, _one_nan(h)]


def _products(a: FloatArray, b: FloatArray, start: Any) -> FloatArray:
    """``start + a @ b.T`` by fused multiply-adds; leading axes of ``a`` are rows."""
    rows = a.reshape(-1, 1, a.shape[-1])
    if np.ndim(start) > 1:
        start = np.asarray(start).reshape(len(rows), 1, -1)
    found = sums_of_products(rows, np.ascontiguousarray(b.T)[None], start)
    return found.reshape(*a.shape[:-1], len(b))


def _fused(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """``fma(a, b, c)`` element by element."""
    flat = sums_of_products(a.reshape(1, -1, 1), b.reshape(-1, 1, 1), c.reshape(1, -1, 1))
    return flat.reshape(a.shape)


def _one_nan(values: FloatArray) -> FloatArray:
    return np.where(np.isnan(values), F32(np.nan), values)
