"""Native synchronization: a barrier between steps, and workers that wait for the next run.

Everything waits by spinning and then sleeping in the kernel: a futex, through libc's ``syscall``
(128 and 129 are FUTEX_WAIT and FUTEX_WAKE with FUTEX_PRIVATE_FLAG).  Waking takes as long as a
small layer, and a thread that arrives late makes the next one sleep, so patience outlasts a
wake-up; meanwhile the core is offered to whoever may be waited for.  The control block of a team
is :data:`CONTROL_BYTES` bytes, zero at first; words that different threads write lie on different
cache lines.

Behind it each call of a segment has one line of counters (:func:`claims_bytes`), zero between runs.
A call is cut into :data:`PARTS_EACH` parts a thread.  Every thread takes its own parts one after
the other, and then those that others have not yet begun: cores are not equally fast, and other
programs or virtual machines take turns on them.

The barrier is the sense-reversing one of Mellor-Crummey and Scott, "Algorithms for Scalable
Synchronization on Shared-Memory Multiprocessors" (1991), with a counter as the sense.  It is
written as LLVM text because llvmlite's builder knows neither typed atomics nor indirect calls
through opaque pointers.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from qcc.backends.llvm import machine
from qcc.backends.llvm.builder import I32, POINTER
from qcc.backends.llvm.isa import InstructionSet

CONTROL_BYTES = 512
"""Size of a team's control block, 64-byte aligned, zero at first."""

CALL_OFFSET = 384
"""Where the block holds the call: function, arena, weights, inputs, outputs (8 bytes each), and
the number of threads (4 bytes)."""

FAULT_OFFSET = 432
"""Where kernels note a fault of a call: two int64, of which the first is not 0 then."""

CLAIM_LINE = 64
"""Bytes of the counters of one call: 16 of 4 bytes; more threads than that share them."""

PARTS_EACH = 8
"""Parts of a call for each thread."""

_SPINS = 1000
_PATIENCE = 16384
_YIELD_EVERY = 32
"""Pauses before a thread begins to offer its core, before it sleeps, and between two offers."""

_FUTEX = {"x86_64": 202, "aarch64": 98}
"""Number of the system call."""
_PAUSE = {
    "x86_64": ("void @llvm.x86.sse2.pause()", "void @llvm.x86.sse2.pause()"),
    "aarch64": ("void @llvm.aarch64.hint(i32)", "void @llvm.aarch64.hint(i32 1)"),
}
"""The hint that a thread spins: declaration and call."""

_TEXT = """
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare <DECLARED_PAUSE>

define internal void @qcc_await(ptr %word, ptr %sleepers, i32 %old) noinline nounwind {
entry:
  br label %spin
spin:
  %turns = phi i32 [0, %entry], [%following, %again], [%following, %offer],
                   [%following, %yield], [0, %sleep]
  %now = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %now, %old
  br i1 %same, label %again, label %awake
again:
  call <PAUSE>
  %following = add i32 %turns, 1
  %early = icmp slt i32 %following, <SPINS>
  br i1 %early, label %spin, label %offer
offer:
  ; Now and then, whoever is waited for may have this core.
  %rest = and i32 %following, <YIELD_MASK>
  %due = icmp eq i32 %rest, 0
  br i1 %due, label %yield, label %spin
yield:
  %yielded = call i32 @sched_yield()
  %more = icmp slt i32 %following, <PATIENCE>
  br i1 %more, label %spin, label %sleep
sleep:
  ; The kernel looks at the word again, so a change between here and there is not missed.
  %one = atomicrmw add ptr %sleepers, i32 1 seq_cst
  %value = zext i32 %old to i64
  %slept = call i64 (i64, ...) @syscall(i64 <FUTEX>, ptr %word, i64 128, i64 %value, i64 0)
  %gone = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %spin
awake:
  ret void
}

; The next part of a call for a thread whose own counter is %home, -1 if none is left.  There are
; %words counters; counter w gives the parts w * %each to (w + 1) * %each - 1.
define internal i32 @qcc_claim(ptr %line, i32 %home, i32 %words, i32 %each) noinline nounwind {
entry:
  br label %look
look:
  %w = phi i32 [%home, %entry], [%other, %next]
  %turn = phi i32 [0, %entry], [%turned, %next]
  %wide = zext i32 %w to i64
  %word = getelementptr i32, ptr %line, i64 %wide
  %seen = load atomic i32, ptr %word monotonic, align 4
  %open = icmp slt i32 %seen, %each
  br i1 %open, label %try, label %next
try:
  %mine = atomicrmw add ptr %word, i32 1 monotonic
  %won = icmp slt i32 %mine, %each
  br i1 %won, label %take, label %next
take:
  %first = mul i32 %w, %each
  %part = add i32 %first, %mine
  ret i32 %part
next:
  %after = add i32 %w, 1
  %wraps = icmp eq i32 %after, %words
  %other = select i1 %wraps, i32 0, i32 %after
  %turned = add i32 %turn, 1
  %all = icmp eq i32 %turned, %words
  br i1 %all, label %none, label %look
none:
  ret i32 -1
}

define internal void @qcc_advance(ptr %word, ptr %sleepers) noinline nounwind {
  %before = atomicrmw add ptr %word, i32 1 seq_cst
  %sleeping = atomicrmw add ptr %sleepers, i32 0 seq_cst
  %any = icmp sgt i32 %sleeping, 0
  br i1 %any, label %wake, label %done
wake:
  %woken = call i64 (i64, ...) @syscall(i64 <FUTEX>, ptr %word, i64 129, i64 2147483647, i64 0)
  br label %done
done:
  ret void
}

; Words of the control block: 0 arrived, 64 generation, 128 sleepers of the barrier;
; 192 ticket and 256 its sleepers; 320 stop; 384 the call.
define internal void @qcc_barrier(ptr %control, i32 %count) noinline nounwind {
  %several = icmp sgt i32 %count, 1
  br i1 %several, label %meet, label %done
meet:
  %word = getelementptr i8, ptr %control, i64 64
  %sleepers = getelementptr i8, ptr %control, i64 128
  %generation = load atomic i32, ptr %word acquire, align 4
  %before = atomicrmw add ptr %control, i32 1 seq_cst
  %arrived = add i32 %before, 1
  %last = icmp eq i32 %arrived, %count
  br i1 %last, label %release, label %wait
release:
  store atomic i32 0, ptr %control release, align 4
  call void @qcc_advance(ptr %word, ptr %sleepers)
  br label %done
wait:
  call void @qcc_await(ptr %word, ptr %sleepers, i32 %generation)
  br label %done
done:
  ret void
}

define internal void @qcc_call(ptr %control, i32 %tid) noinline nounwind {
  %at0 = getelementptr i8, ptr %control, i64 384
  %at1 = getelementptr i8, ptr %control, i64 392
  %at2 = getelementptr i8, ptr %control, i64 400
  %at3 = getelementptr i8, ptr %control, i64 408
  %at4 = getelementptr i8, ptr %control, i64 416
  %at5 = getelementptr i8, ptr %control, i64 424
  %function = load ptr, ptr %at0
  %arena = load ptr, ptr %at1
  %weights = load ptr, ptr %at2
  %inputs = load ptr, ptr %at3
  %outputs = load ptr, ptr %at4
  %count = load i32, ptr %at5
  call void %function(ptr %arena, ptr %weights, ptr %inputs, ptr %outputs, i32 %tid, i32 %count)
  call void @qcc_barrier(ptr %control, i32 %count)
  ret void
}

; Runs every call of the team as thread %tid until the team is stopped.
define void @qcc_worker(ptr %control, i32 %tid) nounwind {
entry:
  %word = getelementptr i8, ptr %control, i64 192
  %sleepers = getelementptr i8, ptr %control, i64 256
  %stopping = getelementptr i8, ptr %control, i64 320
  br label %next
next:
  %seen = phi i32 [0, %entry], [%now, %work]
  call void @qcc_await(ptr %word, ptr %sleepers, i32 %seen)
  %stop = load atomic i32, ptr %stopping acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %done, label %work
work:
  %now = add i32 %seen, 1
  call void @qcc_call(ptr %control, i32 %tid)
  br label %next
done:
  ret void
}

; Starts the call in the block, takes part as thread 0 and waits for the others.
define void @qcc_team_run(ptr %control) nounwind {
  %word = getelementptr i8, ptr %control, i64 192
  %sleepers = getelementptr i8, ptr %control, i64 256
  call void @qcc_advance(ptr %word, ptr %sleepers)
  call void @qcc_call(ptr %control, i32 0)
  ; All threads have left the call, and nobody begins the next one before this returns.
  %claims = getelementptr i8, ptr %control, i64 <CONTROL_BYTES>
  call void @llvm.memset.p0.i64(ptr align 64 %claims, i8 0, i64 <CLAIMS_BYTES>, i1 false)
  ret void
}

; Lets every worker return.
define void @qcc_team_stop(ptr %control) nounwind {
  %word = getelementptr i8, ptr %control, i64 192
  %sleepers = getelementptr i8, ptr %control, i64 256
  %stopping = getelementptr i8, ptr %control, i64 320
  store atomic i32 1, ptr %stopping release, align 4
  call void @qcc_advance(ptr %word, ptr %sleepers)
  ret void
}
"""


def claims_bytes(calls: int) -> int:
    """Bytes of the counters of ``calls`` calls, which follow the control block."""
    return CLAIM_LINE * calls


def declare_barrier(module: Any) -> Any:
    """``void qcc_barrier(ptr control, i32 nthreads)``, to be called by every thread."""
    return ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER, I32]), "qcc_barrier")


def declare_claim(module: Any) -> Any:
    """``i32 qcc_claim(ptr line, i32 home, i32 words, i32 each)``: a part to do, -1 if none."""
    return ir.Function(module, ir.FunctionType(I32, [POINTER, I32, I32, I32]), "qcc_claim")


_DEFINED_HERE = ('declare void @"qcc_barrier"', 'declare i32 @"qcc_claim"')


def with_synchronization(module: Any, isa: InstructionSet, calls: int = 0) -> str:
    """The text of a module, what it declares of this and the team's functions defined.

    ``calls`` is the number of calls of its longest segment.
    """
    architecture = machine.executing_architecture(isa)
    declared, pause = _PAUSE[architecture]
    filled = {
        "SPINS": _SPINS,
        "PATIENCE": _PATIENCE,
        "YIELD_MASK": _YIELD_EVERY - 1,
        "DECLARED_PAUSE": declared,
        "PAUSE": pause,
        "FUTEX": _FUTEX[architecture],
        "CONTROL_BYTES": CONTROL_BYTES,
        "CLAIMS_BYTES": claims_bytes(calls),
    }
    text = _TEXT
    for name, value in filled.items():
        text = text.replace(f"<{name}>", str(value))
    kept = [line for line in str(module).splitlines() if not line.startswith(_DEFINED_HERE)]
    return "\n".join(kept) + text
