"""LSTM and GRU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.buffers import Pointer
from qcc.backends.llvm.kernels.recurrent import RecurrentKernel
from qcc.backends.llvm.planner import Planner
from qcc.ir.core import Array, Node, Value, constant_array
from qcc.ir.ops import definition as operation
from qcc.ref.recurrent import STATE_OPERANDS, Recurrence, recurrence_of

_RESULTS = ("y", "h", "c")
_BIAS = 3


def select_recurrent(planner: Planner, node: Node) -> None:
    """All steps in one kernel; results that nobody reads are not written."""
    sizes = recurrence_of(node)
    if not isinstance(sizes, Recurrence):
        raise TypeError(sizes)
    states = {
        name: value
        for name, index in zip(("h", "c"), STATE_OPERANDS[node.op], strict=False)
        if (value := node.input(index)) is not None
    }
    results = {
        name: value for name, value in zip(_RESULTS, node.outputs, strict=False) if value.uses
    }
    kernel = RecurrentKernel(sizes, tuple(states), tuple(results), _wanted(sizes, results))
    pointers: dict[str, Pointer] = {"x": planner.source(node.operand(0)).pointer}
    for name, value in states.items():
        pointers[f"initial_{name}"] = planner.source(value).pointer
    for name, value in results.items():
        pointers[f"output_{name}"] = planner.result(value).pointer
    size = kernel.scratch_bytes(planner.isa)
    scratch = planner.dense(f"{node.label}.scratch", size, (size // 4,), 4)
    pointers["output_scratch"] = scratch.pointer
    weights, hidden, bias = (_constant(node, index) for index in (1, 2, _BIAS))
    assert weights is not None
    assert hidden is not None
    packed = kernel.pack(planner.isa, weights=weights, hidden=hidden, bias=bias)
    planner.emit(kernel, pointers, packed)


def _wanted(sizes: Recurrence, results: Mapping[str, Value]) -> tuple[int, ...]:
    """The steps of each direction that somebody reads; empty where that is all of them.

    Often only the last step is read: the direction that begins there is done after one.
    """
    if tuple(results) != ("y",) or sizes.steps == 1:
        return ()
    read = elements_read(results["y"])
    used = np.any(read.reshape(sizes.steps, len(sizes.backward), -1), axis=2, keepdims=True)
    counts = []
    for d, backward in enumerate(sizes.backward):
        steps = used[::-1, d, 0] if backward else used[:, d, 0]
        counts.append(max(1, int(np.flatnonzero(steps).max(initial=0)) + 1))
    return () if min(counts) == sizes.steps else tuple(counts)


def elements_read(value: Value) -> NDArray[np.bool_]:
    """Which elements of a value are read, followed through nodes that only move elements."""
    shape = value.tensor.static_shape
    numbers = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    read = np.zeros(numbers.size, np.bool_)
    waiting = [(value, numbers)]
    while waiting:
        moved, places = waiting.pop()
        if moved.is_output:
            read[places.ravel()] = True
        for user in moved.users:
            definition = operation(user.op)
            if user.op not in _MOVES or definition is None:
                read[places.ravel()] = True
                continue
            operands = [places, *(constant_array(v) for v in user.inputs[1:])]
            (result,) = definition.evaluate(user, operands)
            waiting.append((user.output, result))
    return read


_MOVES = ("q.reshape", "q.transpose", "q.slice")


def _constant(node: Node, index: int) -> Array | None:
    value = node.input(index)
    return None if value is None else np.asarray(value.constant, np.float32)
