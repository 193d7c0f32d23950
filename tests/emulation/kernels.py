"""Kernels run under qemu: a program of one step that calls the kernel once a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from qcc.backends.llvm import machine
from qcc.backends.llvm.builder import I1, I32, I64, POINTER, constant
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import READ_SLACK, Kernel
from tests.emulation.programs import Bytes, EmulatedProgram, run_programs

_GUARD = 0xA5


@dataclass(frozen=True)
class KernelRun:
    """A kernel, the bytes of its operands by name, and threads."""

    kernel: Kernel
    operands: Mapping[str, Bytes]
    threads: int = 1


def run_in_emulator(
    kernel: Kernel, isa: InstructionSet, operands: Mapping[str, Bytes], threads: int = 1
) -> None:
    """Call ``kernel`` once a thread, one after the other; operands get what it has written."""
    run_kernels([KernelRun(kernel, operands, threads)], isa)


def run_kernels(runs: Sequence[KernelRun], isa: InstructionSet) -> None:
    """Run several kernels in one process, as :func:`run_in_emulator` runs one."""
    results = run_programs([_program(run, isa) for run in runs], isa)
    for run, (call,) in zip(runs, results, strict=True):
        arrays, _ = _buffers(run)
        for array, found in zip(arrays, call.outputs, strict=True):
            assert found is not None
            assert (found[array.size :] == _GUARD).all(), "the kernel wrote behind an operand"
            if (found[: array.size] != array).any():
                array[:] = found[: array.size]


def _buffers(run: KernelRun) -> tuple[list[Bytes], list[int]]:
    """The arrays of a kernel, and for each operand which one it is: some may be the same."""
    arrays: dict[tuple[int, int], Bytes] = {}
    keys = []
    for name in run.kernel.operands:
        array = run.operands[name]
        keys.append((array.ctypes.data, array.size))
        arrays[keys[-1]] = array
    return list(arrays.values()), [list(arrays).index(key) for key in keys]


def _program(run: KernelRun, isa: InstructionSet) -> EmulatedProgram:
    slack = np.full(READ_SLACK, _GUARD, np.uint8)
    arrays, operands = _buffers(run)
    padded = [np.concatenate([array, slack]) for array in arrays]
    sizes = tuple(array.size for array in padded)
    module = ir.Module(run.kernel.name)
    module.triple = isa.triple
    _write_step(module, run.kernel.emit(module, isa, "kernel"), sizes, operands, run.threads)
    code = machine.compile_module(module, isa).object_code
    return EmulatedProgram(code, ("run_0",), [padded], sizes, np.zeros(64, np.uint8), 512)


def _write_step(
    module: Any, kernel: Any, sizes: Sequence[int], operands: Sequence[int], threads: int
) -> None:
    """``run_0``: copy what is given to the outputs, then let the kernel work on these."""
    step = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER] * 4 + [I32, I32]), "run_0")
    copy = ir.Function(
        module,
        ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64, I1]),
        "llvm.memcpy.p0.p0.i64",
    )
    builder = ir.IRBuilder(step.append_basic_block())
    _, _, inputs, outputs, _, _ = step.args

    def entry(table: Any, index: int) -> Any:
        place = builder.gep(table, [constant(I64, index)], source_etype=POINTER)
        return builder.load(place, typ=POINTER)

    targets = [entry(outputs, i) for i in range(len(sizes))]
    for i, (target, size) in enumerate(zip(targets, sizes, strict=True)):
        builder.call(copy, [target, entry(inputs, i), constant(I64, size), constant(I1, 0)])
    for tid in range(threads):
        given = [targets[i] for i in operands]
        builder.call(kernel, [*given, constant(I32, tid), constant(I32, threads)])
    builder.ret_void()
