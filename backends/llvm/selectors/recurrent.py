"""LSTM and GRU."""

from __future__ import annotations

import numpy as np

from qcc.backends.llvm.buffers import Pointer
from qcc.backends.llvm.kernels.recurrent import RecurrentKernel
from qcc.backends.llvm.planner import Planner
from qcc.ir.core import Array, Node
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
    kernel = RecurrentKernel(sizes, tuple(states), tuple(results))
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


def _constant(node: Node, index: int) -> Array | None:
    value = node.input(index)
    return None if value is None else np.asarray(value.constant, np.float32)
