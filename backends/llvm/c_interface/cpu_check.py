"""A native function that says whether the CPU has what the code needs.

It is compiled for the least CPU of its architecture, as is everything that runs before it has
answered.  ARM asks the C library for what Linux tells the process.  x86 needs two instructions that
LLVM has no intrinsics for; they are given as bytes (prologue data of two functions), because inline
assembly needs an assembler for the target, and llvmlite registers the host's only.
"""

from __future__ import annotations

from collections.abc import Iterable

from qcc.backends.llvm import machine
from qcc.backends.llvm.c_interface.description import ERROR_CODES

ANY_CPU = {
    "x86_64": '"target-cpu"="x86-64" "target-features"="+sse2"',
    "aarch64": '"target-cpu"="generic" "target-features"="+neon"',
}
"""Attributes of functions that every CPU of an architecture runs."""

_EAX, _EBX, _ECX = range(3)
_X86_BITS = {
    "fma": (1, 0, _ECX, 12),
    "f16c": (1, 0, _ECX, 29),
    "avx2": (7, 0, _EBX, 5),
    "bmi2": (7, 0, _EBX, 8),
    "avx512f": (7, 0, _EBX, 16),
    "avx512dq": (7, 0, _EBX, 17),
    "avx512cd": (7, 0, _EBX, 28),
    "avx512bw": (7, 0, _EBX, 30),
    "avx512vl": (7, 0, _EBX, 31),
    "avx512vnni": (7, 0, _ECX, 11),
    "avxvnni": (7, 1, _EAX, 4),
}
"""Where CPUID says that a feature is there: leaf, subleaf, register, bit."""

_XSAVE_BIT, _YMM_STATE, _ZMM_STATE = 27, 0x06, 0xE6
"""The bit of leaf 1 that says that the state of registers can be asked for, and what the system
must save of it for 256-bit and 512-bit vectors."""

_CPUID = bytes.fromhex("53 89f0 89d1 0fa2 8907 895f04 894f08 89570c 5b c3")
"""push rbx; mov eax, esi; mov ecx, edx; cpuid; mov [rdi], eax; mov [rdi + 4], ebx;
mov [rdi + 8], ecx; mov [rdi + 12], edx; pop rbx; ret"""

_XGETBV = bytes.fromhex("31c9 0f01d0 c3")
"""xor ecx, ecx; xgetbv; ret"""


def cpu_check_text(architecture: str, needs: Iterable[str]) -> str:
    """``i32 qcc_check_cpu()``: 0, or ERROR_CPU where one of the features ``needs`` is missing."""
    wanted = sorted(needs)
    text = _arm_text(wanted) if architecture == "aarch64" else _x86_text(wanted)
    return text.replace("<ERROR_CPU>", str(ERROR_CODES["ERROR_CPU"]))


def _arm_text(needs: list[str]) -> str:
    words = (
        (machine.AT_HWCAP, machine.ARM_CAPABILITIES),
        (machine.AT_HWCAP2, machine.ARM_CAPABILITIES_2),
    )
    masks = [
        (word, sum(1 << bit for name, bit in bits.items() if name in needs)) for word, bits in words
    ]
    lines, found = [], []
    for number, (word, mask) in enumerate(masks):
        lines += [
            f"%word{number} = call i64 @getauxval(i64 {word})",
            f"%there{number} = and i64 %word{number}, {mask}",
            f"%good{number} = icmp eq i64 %there{number}, {mask}",
        ]
        found.append(f"%good{number}")
    return f"""
declare i64 @getauxval(i64)

define internal i32 @qcc_check_cpu() #0 {{
  {_lines(lines)}
  %all = and i1 {", ".join(found)}
  %code = select i1 %all, i32 0, i32 <ERROR_CPU>
  ret i32 %code
}}
"""


def _x86_text(needs: list[str]) -> str:
    wide = any(name.startswith("avx512") for name in needs)
    state = _ZMM_STATE if wide else _YMM_STATE
    masks: dict[tuple[int, int, int], int] = {(1, 0, _ECX): 1 << _XSAVE_BIT}
    for name in needs:
        leaf, subleaf, register, bit = _X86_BITS[name]
        place = (leaf, subleaf, register)
        masks[place] = masks.get(place, 0) | 1 << bit
    return f"""
{_function_of_bytes("void @qcc_cpuid(ptr %registers, i32 %leaf, i32 %subleaf)", _CPUID)}
{_function_of_bytes("i32 @qcc_xgetbv()", _XGETBV)}
define internal i32 @qcc_check_cpu() #0 {{
entry:
  %registers = alloca [4 x i32], align 4
  call void @qcc_cpuid(ptr %registers, i32 0, i32 0)
  %leaves = load i32, ptr %registers, align 4
  %enough = icmp uge i32 %leaves, 7
  br i1 %enough, label %features, label %missing
features:
  {_lines(_feature_lines(masks))}
  br i1 %all, label %state, label %missing
state:
  %saved = call i32 @qcc_xgetbv()
  %kept = and i32 %saved, {state}
  %whole = icmp eq i32 %kept, {state}
  br i1 %whole, label %good, label %missing
good:
  ret i32 0
missing:
  ret i32 <ERROR_CPU>
}}
"""


def _feature_lines(masks: dict[tuple[int, int, int], int]) -> list[str]:
    """What asks for each register of each leaf and gives ``%all``."""
    lines, sofar = [], "true"
    for number, ((leaf, subleaf, register), mask) in enumerate(sorted(masks.items())):
        bits = mask - (1 << 32) if mask >> 31 else mask
        name = "%all" if number + 1 == len(masks) else f"%so{number}"
        lines += [
            f"call void @qcc_cpuid(ptr %registers, i32 {leaf}, i32 {subleaf})",
            f"%place{number} = getelementptr i32, ptr %registers, i64 {register}",
            f"%word{number} = load i32, ptr %place{number}, align 4",
            f"%there{number} = and i32 %word{number}, {bits}",
            f"%good{number} = icmp eq i32 %there{number}, {bits}",
            f"{name} = and i1 {sofar}, %good{number}",
        ]
        sofar = name
    return lines


def _function_of_bytes(signature: str, code: bytes) -> str:
    """A function whose machine code is ``code``, which returns before the body begins."""
    kind = signature.partition(" ")[0]
    data = "".join(f"\\{byte:02X}" for byte in code)
    body = "ret void" if kind == "void" else f"ret {kind} 0"
    return (
        f"define internal {signature} noinline #0 "
        f'prologue [{len(code)} x i8] c"{data}" {{\n  {body}\n}}\n'
    )


def _lines(lines: Iterable[str]) -> str:
    return "\n  ".join(lines)
