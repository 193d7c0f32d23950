"""The native barrier and the worker loop under stress."""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from llvmlite import ir

from qcc.backends.llvm import machine
from qcc.backends.llvm.builder import I32, POINTER, LoopBuilder
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.sync import CONTROL_BYTES, declare_barrier, with_synchronization
from qcc.runtime.program import aligned_zeros
from qcc.runtime.threads import Arguments, Team

ROUNDS = 200


def counting_module() -> str:
    """Threads take turns: thread ``t`` adds ``t`` to a plain word, one round after the other."""
    module = ir.Module("count")
    barrier = declare_barrier(module)
    signature = ir.FunctionType(ir.VoidType(), [POINTER] * 4 + [I32, I32])
    function = ir.Function(module, signature, "run_0")
    for argument, name in zip(
        function.args, ("arena", "weights", "inputs", "outputs", "tid", "nthreads"), strict=True
    ):
        argument.name = name
    k = LoopBuilder(function)
    tid, count = k.operand("tid"), k.operand("nthreads")
    words = k.operand("outputs")

    def turn(number: object) -> None:
        mine = k.ir.icmp_signed("==", k.index(k.mod(number, k.index(count))), k.index(tid))
        with k.when(mine):
            k.store(k.ir.add(k.load(I32, words), k.ir.add(tid, ir.Constant(I32, 1))), words)
        k.ir.call(barrier, [k.operand("arena"), count])

    k.loop(0, ROUNDS, turn)
    k.finish()
    return with_synchronization(module, host_instruction_set())


@pytest.fixture(name="code", scope="module")
def _code() -> machine.LoadedCode:
    compiled = machine.compile_module(counting_module(), host_instruction_set())
    return machine.load_object(compiled.object_code)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_rounds_are_ordered(code: machine.LoadedCode, threads: int) -> None:
    arena = aligned_zeros(CONTROL_BYTES)
    team = Team(code, arena, threads)
    words = np.zeros(16, np.int32)
    for run in range(1, 6):
        arguments = Arguments(arena.ctypes.data, 0, 0, words.ctypes.data)
        team.run(code.address("run_0"), arguments)
        assert words[0] == run * sum(i % threads + 1 for i in range(ROUNDS))
    team.close()
    team.close()


def test_several_teams_at_once(code: machine.LoadedCode) -> None:
    def one(_: int) -> int:
        arena, words = aligned_zeros(CONTROL_BYTES), np.zeros(16, np.int32)
        team = Team(code, arena, 2)
        arguments = Arguments(arena.ctypes.data, 0, 0, words.ctypes.data)
        for _ in range(3):
            team.run(code.address("run_0"), arguments)
        team.close()
        return int(words[0])

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(one, range(6))) == {3 * ROUNDS * 3 // 2}


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_every_row_compiles_the_synchronization(name: str) -> None:
    isa = INSTRUCTION_SETS[name]
    module = ir.Module("empty")
    declare_barrier(module)
    text = machine.compile_module(with_synchronization(module, isa), isa).assembly
    assert "qcc_team_run" in text
    assert ("pause" if isa.architecture == "x86_64" else "yield") in text


def test_control_block_holds_the_call() -> None:
    from qcc.backends.llvm.sync import CALL_OFFSET
    from qcc.runtime.threads import _Call

    assert CALL_OFFSET + ctypes.sizeof(_Call) <= CONTROL_BYTES
