"""The most multiply-accumulates a second that one core of this machine does."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from bench_kernels import aligned, best_time
from llvmlite import ir

from qcc.backends.llvm import machine, primitives
from qcc.backends.llvm.builder import F32, I8, I16, I32, LoopBuilder, declare_kernel, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.lanes import fused_multiply_add

TURNS = 100_000
CHAINS = 12
"""Independent sums, enough to cover the latency of a multiplication and few enough for registers"""


def peak_macs(isa: InstructionSet, precision: str = "int8") -> float:
    """Multiply-accumulates a second of the row's own instruction, operands in registers.

    With ``precision`` ``float32``, of its fused multiply-add.  ``isa`` must be one that this CPU
    runs.
    """
    module = ir.Module("peak")
    k = LoopBuilder(declare_kernel(module, "peak", ["data"]))
    floats = precision == "float32"
    element, result = (vector(F32, isa.lanes),) * 2 if floats else _integers(isa)
    data = k.operand("data")
    x, w = k.load(element, data), k.load(element, data, isa.vector_bytes)
    starts = [k.load(result, data, 64 * (2 + i)) for i in range(CHAINS)]

    def turn(_: Any, *sums: Any) -> list[Any]:
        if floats:
            return [fused_multiply_add(k, x, w, total) for total in sums]
        return _turn(k, isa, x, w, sums)

    for i, total in enumerate(k.loop(0, TURNS, turn, carried=starts)):
        k.store(total, data, 64 * (2 + i))
    k.finish()
    code = machine.load_object(machine.compile_module(module, isa).object_code)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
        code.address("peak")
    )
    buffer = aligned(np.ones(64 * (2 + CHAINS), np.uint8))
    seconds = best_time(lambda: function(buffer.ctypes.data, 0, 1), 0.5)
    return TURNS * CHAINS * isa.lanes * (1 if floats else isa.group) / seconds


def _integers(isa: InstructionSet) -> tuple[Any, Any]:
    return vector(I8, isa.vector_bytes), vector(I32, isa.lanes)


def _turn(k: LoopBuilder, isa: InstructionSet, x: Any, w: Any, sums: Any) -> list[Any]:
    if isa.dot == "vpmaddwd":  # the multiplications bound a kernel, additions have other ports
        return [_products(k, isa, total, w) for total in sums]
    name = "dot_unsigned_signed" if isa.dot == "vpdpbusd" else "dot_signed_signed"
    return [primitives.call(k, isa, name, total, x, w) for total in sums]


def _products(k: LoopBuilder, isa: InstructionSet, total: Any, w: Any) -> Any:
    halves = vector(I16, 2 * isa.lanes)
    a, b = k.ir.bitcast(total, halves), k.ir.bitcast(w, halves)
    return primitives.call(k, isa, "multiply_add_pairs", a, b)
