"""The most 8-bit multiply-accumulates a second that one core of this machine does."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from bench_kernels import aligned, best_time
from llvmlite import ir

from qcc.backends.llvm import machine, primitives
from qcc.backends.llvm.builder import I8, I16, I32, LoopBuilder, declare_kernel, vector
from qcc.backends.llvm.isa import InstructionSet

TURNS = 100_000
CHAINS = 12
"""Independent sums, enough to cover the latency of a multiplication and few enough for registers"""


def peak_macs(isa: InstructionSet) -> float:
    """Multiply-accumulates a second of the row's own instruction, operands in registers.

    ``isa`` must be one that this CPU runs.
    """
    module = ir.Module("peak")
    k = LoopBuilder(declare_kernel(module, "peak", ["data"]))
    octets, words = vector(I8, isa.vector_bytes), vector(I32, isa.lanes)
    data = k.operand("data")
    x, w = k.load(octets, data), k.load(octets, data, isa.vector_bytes)
    starts = [k.load(words, data, 64 * (2 + i)) for i in range(CHAINS)]
    sums = k.loop(0, TURNS, lambda _, *sums: _turn(k, isa, x, w, sums), carried=starts)
    for i, total in enumerate(sums):
        k.store(total, data, 64 * (2 + i))
    k.finish()
    code = machine.load_object(machine.compile_module(module, isa).object_code)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
        code.address("peak")
    )
    buffer = aligned(np.ones(64 * (2 + CHAINS), np.uint8))
    seconds = best_time(lambda: function(buffer.ctypes.data, 0, 1), 0.5)
    return TURNS * CHAINS * isa.lanes * isa.group / seconds


def _turn(k: LoopBuilder, isa: InstructionSet, x: Any, w: Any, sums: Any) -> list[Any]:
    if isa.dot == "vpmaddwd":  # the multiplications bound a kernel, additions have other ports
        return [_products(k, isa, total, w) for total in sums]
    name = "dot_unsigned_signed" if isa.dot == "vpdpbusd" else "dot_signed_signed"
    return [primitives.call(k, isa, name, total, x, w) for total in sums]


def _products(k: LoopBuilder, isa: InstructionSet, total: Any, w: Any) -> Any:
    halves = vector(I16, 2 * isa.lanes)
    a, b = k.ir.bitcast(total, halves), k.ir.bitcast(w, halves)
    return primitives.call(k, isa, "multiply_add_pairs", a, b)
