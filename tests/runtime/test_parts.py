"""Calls are cut into parts, and threads that are done take over those of others."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from qcc.backends.llvm import machine
from qcc.backends.llvm.buffers import Buffer, Pointer
from qcc.backends.llvm.builder import I32, LoopBuilder, constant, declare_kernel
from qcc.backends.llvm.isa import InstructionSet, host_instruction_set
from qcc.backends.llvm.kernels import WithoutConstants
from qcc.backends.llvm.module import Call, write_module
from qcc.backends.llvm.sync import CONTROL_BYTES, PARTS_EACH, claims_bytes
from qcc.runtime.program import aligned_zeros
from qcc.runtime.threads import Arguments, Team

UNITS = 1000
CALLS = 5
PATIENCE = 1 << 30


@dataclass(frozen=True)
class Marks(WithoutConstants):
    """Adds 1 to each of its units, which is a word of the output."""

    name: str = "marks"

    @property
    def operands(self) -> tuple[str, ...]:
        return ("output",)

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        begin, end = k.thread_range(UNITS)

        def unit(number: Any) -> None:
            at = k.at(k.operand("output"), k.mul(number, 4))
            k.store(k.ir.add(k.load(I32, at), constant(I32, 1)), at)

        k.loop(begin, end, unit)
        return k.finish()


@dataclass(frozen=True)
class Waits(WithoutConstants):
    """Part 0 returns once all others are done: never, if its thread had to do one of them."""

    name: str = "waits"

    @property
    def operands(self) -> tuple[str, ...]:
        return ("output",)

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        function = declare_kernel(module, symbol, self.operands)
        k = LoopBuilder(function)
        builder, done = k.ir, k.operand("output")
        entry = builder.block
        first = builder.icmp_signed("==", k.operand("tid"), constant(I32, 0))
        look, count, end = (function.append_basic_block(name) for name in ("look", "count", "end"))
        builder.cbranch(first, look, count)
        builder.position_at_end(count)
        builder.atomic_rmw("add", done, constant(I32, 1), "seq_cst")
        builder.branch(end)
        builder.position_at_end(look)
        turn = builder.phi(I32)
        following = builder.add(turn, constant(I32, 1))
        turn.add_incoming(constant(I32, 0), entry)
        turn.add_incoming(following, look)
        seen = builder.load_atomic(done, "acquire", 4, typ=I32)
        others = builder.sub(k.operand("nthreads"), constant(I32, 1))
        over = builder.or_(
            builder.icmp_signed(">=", seen, others),
            builder.icmp_signed(">=", turn, constant(I32, PATIENCE)),
        )
        builder.cbranch(over, end, look)
        builder.position_at_end(end)
        found = builder.phi(I32)
        found.add_incoming(constant(I32, -1), count)
        found.add_incoming(seen, look)
        wrote = builder.icmp_signed(">=", found, constant(I32, 0))
        with k.when(wrote):
            k.store(found, k.at(done, 4))
        return k.finish()


def load(kernel: Any, calls: int) -> machine.LoadedCode:
    buffer = Buffer("marks", 4 * UNITS, "output", 0)
    step = Call(kernel, {"output": Pointer(buffer)})
    isa = host_instruction_set()
    module = write_module([[step] * calls], isa)
    return machine.load_object(machine.compile_module(module.text, isa).object_code)


def run(code: machine.LoadedCode, threads: int, calls: int, runs: int) -> np.ndarray[Any, Any]:
    words = np.zeros(UNITS, np.int32)
    table = (ctypes.c_void_p * 1)(words.ctypes.data)
    arena = aligned_zeros(CONTROL_BYTES + claims_bytes(calls))
    team = Team(code, arena, threads)
    for _ in range(runs):
        arguments = Arguments(arena.ctypes.data, 0, 0, ctypes.addressof(table))
        team.run(code.address("run_0"), arguments)
    team.close()
    assert not arena[CONTROL_BYTES:].any(), "the counters are zero for the next run"
    return words


@pytest.fixture(name="marks", scope="module")
def _marks() -> machine.LoadedCode:
    return load(Marks(), CALLS)


@pytest.mark.parametrize("threads", [1, 2, 3, 7, 16, 17, 40])
def test_every_unit_is_done_once_a_call(marks: machine.LoadedCode, threads: int) -> None:
    assert (run(marks, threads, CALLS, 20) == 20 * CALLS).all()


def test_a_thread_that_is_held_up_loses_its_parts_to_others() -> None:
    words = run(load(Waits(), 1), threads=2, calls=1, runs=1)
    assert words[:2].tolist() == [2 * PARTS_EACH - 1] * 2
