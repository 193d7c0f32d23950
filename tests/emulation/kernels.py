"""One kernel run under qemu: a program of one step that calls it once a thread."""

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
    """A kernel, its operands by name (the last of ``kernel.operands`` is its output), threads."""

    kernel: Kernel
    operands: Mapping[str, Bytes]
    threads: int = 1


def run_in_emulator(
    kernel: Kernel, isa: InstructionSet, operands: Mapping[str, Bytes], threads: int = 1
) -> None:
    """Call ``kernel`` once a thread, one after the other; its output's new bytes are put there."""
    run_kernels([KernelRun(kernel, operands, threads)], isa)


def run_kernels(runs: Sequence[KernelRun], isa: InstructionSet) -> None:
    """Run several kernels in one process, as :func:`run_in_emulator` runs one."""
    results = run_programs([_program(run, isa) for run in runs], isa)
    for run, (call,) in zip(runs, results, strict=True):
        output = run.operands[run.kernel.operands[-1]]
        (found,) = call.outputs
        assert found is not None
        assert (found[output.size :] == _GUARD).all(), "the kernel wrote behind its output"
        output[:] = found[: output.size]


def _program(run: KernelRun, isa: InstructionSet) -> EmulatedProgram:
    slack = np.full(READ_SLACK, _GUARD, np.uint8)
    padded = [np.concatenate([run.operands[name], slack]) for name in run.kernel.operands]
    module = ir.Module(run.kernel.name)
    module.triple = isa.triple
    function = run.kernel.emit(module, isa, "kernel")
    _write_step(module, function, [array.size for array in padded], run.threads)
    return EmulatedProgram(
        machine.compile_module(module, isa).object_code,
        ("run_0",),
        [padded],
        (padded[-1].size,),
        np.zeros(64, np.uint8),
        512,
        1,
    )


def _write_step(module: Any, kernel: Any, sizes: Sequence[int], threads: int) -> None:
    """``run_0``: fill the output with what is given for it, then call the kernel."""
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

    pointers = [entry(inputs, i) for i in range(len(sizes))]
    target = entry(outputs, 0)
    builder.call(copy, [target, pointers[-1], constant(I64, sizes[-1]), constant(I1, 0)])
    for tid in range(threads):
        arguments = [*pointers[:-1], target, constant(I32, tid), constant(I32, threads)]
        builder.call(kernel, arguments)
    builder.ret_void()
