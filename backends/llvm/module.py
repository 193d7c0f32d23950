"""One LLVM module for a whole graph: kernels emitted once, and a function that calls them in order.

``void run_<k>(ptr arena, ptr weights, ptr inputs, ptr outputs, i32 tid, i32 nthreads)`` runs native
segment ``k``.  ``inputs`` and ``outputs`` are tables of pointers.  The arena begins with the
control block of the team (:mod:`qcc.backends.llvm.sync`); several threads claim parts of each call.

``profile_<k>`` has one more argument, a table of 64-bit counters, one a call: it makes the same
calls, each thread its even share, and adds the ticks that each took.  Both use the same kernels,
so it costs few bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llvmlite import ir

from qcc.backends.llvm import machine
from qcc.backends.llvm.buffers import Buffer, Pointer
from qcc.backends.llvm.builder import I32, I64, POINTER, LoopBuilder, Value, constant
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Kernel
from qcc.backends.llvm.model import profile_symbol
from qcc.backends.llvm.sync import (
    CLAIM_LINE,
    CONTROL_BYTES,
    PARTS_EACH,
    declare_barrier,
    declare_claim,
    with_synchronization,
)

_WRITTEN = ("output", "target")
"""Operands of kernels that they write."""

STEP_ARGUMENTS = ("arena", "weights", "inputs", "outputs", "tid", "nthreads")

_CYCLES = "llvm.readcyclecounter"
_REGISTER, _ARM_TIME = "llvm.read_volatile_register.i64", "cntvct_el0"
"""The counter of AArch64 that has a constant rate and takes no privileges.  (LLVM's intrinsics for
counters read that of cycles, which takes some, or give 0.)"""
_ISB, _WHOLE_SYSTEM = "llvm.aarch64.isb", constant(I32, 15)
"""Lets what was begun end before the counter is read."""


_ONE = constant(I32, 1)


@dataclass(frozen=True)
class Call:
    """One kernel on its operands: pointers by operand name; ``node`` names the graph node."""

    kernel: Kernel
    pointers: Mapping[str, Pointer]
    node: str = ""

    @property
    def written(self) -> list[Pointer]:
        """What the kernel writes."""
        return [p for name, p in self.pointers.items() if name.startswith(_WRITTEN)]

    @property
    def read(self) -> list[Pointer]:
        """What the kernel reads, constants not counted."""
        return [
            p
            for name, p in self.pointers.items()
            if not name.startswith(_WRITTEN) and p.buffer.place != "weights"
        ]

    @property
    def touched(self) -> list[Buffer]:
        """All buffers but the constants."""
        return [p.buffer for p in self.pointers.values() if p.buffer.place != "weights"]


@dataclass
class ModuleText:
    """The text of a module, the segments' symbols and the kernels' symbols by specification."""

    text: str
    symbols: list[str] = field(default_factory=list)
    kernels: dict[Kernel, str] = field(default_factory=dict)


def write_module(
    segments: Sequence[Sequence[Call]], isa: InstructionSet, name: str = "model"
) -> ModuleText:
    """Emit every kernel once and one function a segment.  Buffers must have their offsets."""
    module = ir.Module(name)
    module.triple = isa.triple
    barrier, claim = declare_barrier(module), declare_claim(module)
    result = ModuleText("")
    functions: dict[Kernel, Any] = {}
    for index, calls in enumerate(segments):
        symbol = f"run_{index}"
        for call in calls:
            if call.kernel not in functions:
                functions[call.kernel] = _emit_kernel(module, isa, call.kernel, result.kernels)
        _write_segment(module, symbol, calls, functions, barrier, claim=claim)
        clocked = machine.executing_architecture(isa)
        _write_segment(module, profile_symbol(symbol), calls, functions, barrier, clocked=clocked)
        result.symbols.append(symbol)
    result.text = with_synchronization(module, isa, max(map(len, segments), default=0))
    return result


def _emit_kernel(
    module: Any, isa: InstructionSet, kernel: Kernel, symbols: dict[Kernel, str]
) -> Any:
    taken = set(symbols.values())
    symbol, count = kernel.name, 0
    while symbol in taken:
        count += 1
        symbol = f"{kernel.name}_v{count}"
    symbols[kernel] = symbol
    function = kernel.emit(module, isa, symbol)
    function.linkage = "internal"
    function.attributes.add("noinline")
    return function


def _write_segment(
    module: Any,
    symbol: str,
    calls: Sequence[Call],
    functions: Mapping[Kernel, Any],
    barrier: Any,
    *,
    claim: Any = None,
    clocked: str | None = None,
) -> None:
    """The calls in order, in parts that threads ``claim``; or with ``clocked`` (an architecture),
    the form that counts its ticks."""
    names = STEP_ARGUMENTS if clocked is None else (*STEP_ARGUMENTS, "ticks")
    types = [I32 if name in ("tid", "nthreads") else POINTER for name in names]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), types), symbol)
    for argument, name in zip(function.args, names, strict=True):
        argument.name = name
    function.attributes.add("nounwind")
    k = LoopBuilder(function)
    tid, nthreads = k.operand("tid"), k.operand("nthreads")
    since: list[Call] = []
    clock = None if clocked is None else _Clock(module, k, clocked)
    claims = None if claim is None else _Claims(k, claim)
    for index, call in enumerate(calls):
        if any(_depends(call, earlier) for earlier in since):
            k.ir.call(barrier, [k.operand("arena"), nthreads])
            since = []
        since.append(call)
        arguments = [_address(k, call.pointers[name]) for name in call.kernel.operands]
        if claims is not None:
            claims.call(functions[call.kernel], arguments, index)
        else:
            k.ir.call(functions[call.kernel], [*arguments, tid, nthreads])
        if clock is not None:
            clock.lap(index)
    k.finish()


class _Claims:
    """Calls kernels part by part; one thread alone makes the whole call at once."""

    def __init__(self, k: LoopBuilder, claim: Any) -> None:
        self._k, self._claim = k, claim
        builder, nthreads = k.ir, k.operand("nthreads")
        few = builder.icmp_signed("<", nthreads, constant(I32, CLAIM_LINE // 4))
        self._words = words = builder.select(few, nthreads, constant(I32, CLAIM_LINE // 4))
        self._home = builder.sdiv(builder.mul(k.operand("tid"), words), nthreads)
        sharers = builder.sdiv(builder.add(nthreads, builder.sub(words, _ONE)), words)
        self._each = builder.mul(sharers, constant(I32, PARTS_EACH))
        self._parts = builder.mul(self._each, words)
        self._alone = builder.icmp_signed("==", nthreads, _ONE)

    def call(self, function: Any, arguments: Sequence[Value], index: int) -> None:
        """Call number ``index`` of the segment."""
        k, builder = self._k, self._k.ir
        with builder.if_else(self._alone) as (alone, together):
            with alone:
                builder.call(function, [*arguments, constant(I32, 0), _ONE])
            with together:
                line = k.at(k.operand("arena"), CONTROL_BYTES + CLAIM_LINE * index)
                look = builder.append_basic_block("claim")
                work, done = builder.append_basic_block("work"), builder.append_basic_block("done")
                builder.branch(look)
                builder.position_at_end(look)
                part = builder.call(self._claim, [line, self._home, self._words, self._each])
                left = builder.icmp_signed(">=", part, constant(I32, 0))
                builder.cbranch(left, work, done)
                builder.position_at_end(work)
                builder.call(function, [*arguments, part, self._parts])
                builder.branch(look)
                builder.position_at_end(done)


class _Clock:
    """Adds the ticks since the last reading to a counter of the table ``ticks``."""

    def __init__(self, module: Any, k: LoopBuilder, architecture: str) -> None:
        self._module, self._k = module, k
        self._read = self._arm_time if architecture == "aarch64" else self._cycles
        self._last = self._read()

    def lap(self, index: int) -> None:
        """Charge what has passed to counter ``index``."""
        builder, now = self._k.ir, self._read()
        place = self._k.at(self._k.operand("ticks"), 8 * index)
        sum_ = builder.load(place, typ=I64, align=8)
        builder.store(builder.add(sum_, builder.sub(now, self._last)), place, align=8)
        self._last = now

    def _cycles(self) -> Value:
        return self._k.ir.call(self._function(_CYCLES, I64, []), [])

    def _arm_time(self) -> Value:
        self._k.ir.call(self._function(_ISB, ir.VoidType(), [I32]), [_WHOLE_SYSTEM])
        read = self._function(_REGISTER, I64, [ir.MetaDataType()])
        return self._k.ir.call(read, [self._module.add_metadata([_ARM_TIME])])

    def _function(self, name: str, result: Any, arguments: list[Any]) -> Any:
        found = self._module.globals.get(name)
        return found or ir.Function(self._module, ir.FunctionType(result, arguments), name)


def _address(k: LoopBuilder, pointer: Pointer) -> Value:
    buffer = pointer.buffer
    if buffer.place in ("arena", "weights"):
        return k.at(k.operand(buffer.place), buffer.offset + pointer.offset)
    table = k.operand(f"{buffer.place}s")
    base = k.ir.load(k.at(table, 8 * buffer.index), typ=POINTER, align=8)
    return k.at(base, pointer.offset)


def _depends(call: Call, earlier: Call) -> bool:
    """Whether the two may not run at the same time.

    Kernels of one node that write the same buffer write different parts of it.
    """
    if _any_met(earlier.read, call.written) or _any_met(call.read, earlier.written):
        return True
    same_node = bool(call.node) and call.node == earlier.node
    return any(
        _clash(a, b) and not (same_node and a.buffer is b.buffer)
        for a in call.written
        for b in earlier.written
    )


def _any_met(read: Sequence[Pointer], written: Sequence[Pointer]) -> bool:
    """Whether something that is read can be something that is written."""
    return any(
        r.may_meet(w) if r.buffer is w.buffer else overlap(r.buffer, w.buffer)
        for r in read
        for w in written
    )


def _clash(a: Pointer, b: Pointer) -> bool:
    """Whether two kernels can write the same bytes."""
    return a.may_clash(b) if a.buffer is b.buffer else overlap(a.buffer, b.buffer)


def overlap(a: Buffer, b: Buffer) -> bool:
    """Whether two buffers share memory."""
    if a is b:
        return True
    if a.place != b.place or a.place != "arena":
        return False
    return a.offset < b.offset + b.reserved and b.offset < a.offset + a.reserved


__all__ = ["Call", "ModuleText", "overlap", "write_module"]
