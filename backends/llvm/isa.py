"""The instruction sets that native code is generated for: one row of a table each.

A row says what a kernel needs to know to choose its tiles and packing (vector width, registers, the
multiply instruction it is built around) and what LLVM needs to know to compile (triple, CPU,
features).  The semantics of the instructions themselves are in ``primitives.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from qcc.errors import ConfigError

Dot = Literal["vpdpbusd", "vpmaddwd", "usmmla", "sdot", "smull"]


@dataclass(frozen=True)
class InstructionSet:
    """One row: a CPU family for which one set of kernels is generated.

    ``dot`` names the multiply instruction that matrix kernels are built around: ``vpdpbusd`` and
    ``sdot`` add four 8-bit products to each int32 lane, ``usmmla`` adds the products of 2 by 8 and
    8 by 2 bytes to four lanes (its CPUs have ``usdot``, too), ``vpmaddwd`` adds two 16-bit
    products, ``smull`` makes 16-bit products that other instructions add.  ``needs`` are the names
    (as LLVM spells them) of the CPU features without which the code does not run.  An ``emulated``
    row generates the same code with every instruction of ``primitives.py`` replaced by its
    definition, compiled for the host CPU.
    """

    name: str
    triple: str
    cpu: str
    features: str
    needs: frozenset[str]
    vector_bytes: int
    vector_registers: int
    dot: Dot
    emulated: bool = False

    @property
    def lanes(self) -> int:
        """Number of 32-bit lanes of a vector."""
        return self.vector_bytes // 4

    @property
    def group(self) -> int:
        """Number of products that ``dot`` adds to one int32 lane."""
        return 2 if self.dot == "vpmaddwd" else 4

    @property
    def signed(self) -> bool:
        """Whether ``dot`` takes signed bytes on both sides: activations then lose 128 first."""
        return self.dot in ("sdot", "smull")

    @property
    def least_weight(self) -> int:
        """Least byte of packed weights: two products of -128 by -128 would leave 16 bits."""
        return -127 if self.dot == "smull" else -128

    @property
    def architecture(self) -> str:
        """``x86_64`` or ``aarch64``: the first part of the triple."""
        return self.triple.split("-", 1)[0]

    @property
    def rank(self) -> int:
        """Place in ``INSTRUCTION_SETS``: of two that run on a machine, the lesser is better."""
        return list(INSTRUCTION_SETS).index(self.name)

    def for_emulation(self) -> InstructionSet:
        """The same row with its instructions replaced by their definitions, to run on the host."""
        return dataclasses.replace(self, emulated=True)


_LINUX_X86 = "x86_64-unknown-linux-gnu"
_LINUX_ARM = "aarch64-unknown-linux-gnu"
_AVX2 = frozenset({"avx2", "fma", "bmi2", "f16c"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"}

INSTRUCTION_SETS: dict[str, InstructionSet] = {
    row.name: row
    for row in (
        InstructionSet(
            name="x86-avx512vnni",
            triple=_LINUX_X86,
            cpu="x86-64-v4",
            features="+avx512vnni",
            needs=_AVX512 | {"avx512vnni"},
            vector_bytes=64,
            vector_registers=32,
            dot="vpdpbusd",
        ),
        InstructionSet(
            name="x86-avxvnni",
            triple=_LINUX_X86,
            cpu="x86-64-v3",
            features="+avxvnni",
            needs=_AVX2 | {"avxvnni"},
            vector_bytes=32,
            vector_registers=16,
            dot="vpdpbusd",
        ),
        InstructionSet(
            name="x86-avx2",
            triple=_LINUX_X86,
            cpu="x86-64-v3",
            features="",
            needs=_AVX2,
            vector_bytes=32,
            vector_registers=16,
            dot="vpmaddwd",
        ),
        InstructionSet(
            name="arm-i8mm",
            triple=_LINUX_ARM,
            cpu="generic",
            features="+v8.2a,+dotprod,+i8mm",
            needs=frozenset({"neon", "dotprod", "i8mm"}),
            vector_bytes=16,
            vector_registers=32,
            dot="usmmla",
        ),
        InstructionSet(
            name="arm-dotprod",
            triple=_LINUX_ARM,
            cpu="generic",
            features="+v8.2a,+dotprod",
            needs=frozenset({"neon", "dotprod"}),
            vector_bytes=16,
            vector_registers=32,
            dot="sdot",
        ),
        InstructionSet(
            name="arm-neon",
            triple=_LINUX_ARM,
            cpu="generic",
            features="",
            needs=frozenset({"neon"}),
            vector_bytes=16,
            vector_registers=32,
            dot="smull",
        ),
    )
}
"""All rows, the best of each architecture first."""


def instruction_set(name: str) -> InstructionSet:
    """The row called ``name``; :class:`ConfigError` when there is none."""
    if name in INSTRUCTION_SETS:
        return INSTRUCTION_SETS[name]
    known = ", ".join(INSTRUCTION_SETS)
    raise ConfigError(f"There is no instruction set '{name}'; choose one of: {known}.")


def can_run(isa: InstructionSet) -> bool:
    """Whether this machine executes code of ``isa``; always true of an emulated row."""
    from qcc.backends.llvm import machine

    if isa.emulated:
        return True
    return (
        machine.host_architecture() == isa.architecture and isa.needs <= machine.host_cpu_features()
    )


def best_for_host(sets: Iterable[InstructionSet]) -> InstructionSet | None:
    """The best of ``sets`` that this machine can run, or None."""
    return min(filter(can_run, sets), key=lambda isa: isa.rank, default=None)


def refusal(subject: str, sets: Iterable[InstructionSet]) -> str:
    """The sentence that refuses code for ``sets``, none of which this machine can run.

    ``subject`` is how it begins, up to the names: ``"model.qcc holds code for"``.
    """
    from qcc.backends.llvm import machine

    known = {isa.name: isa for isa in sets}
    here, features = machine.host_architecture(), machine.host_cpu_features()
    lacking = [sorted(isa.needs - features) for isa in known.values() if isa.architecture == here]
    reason = f"this CPU is {here}"
    if lacking:
        fewest = min(lacking, key=len)
        reason = f"this {here} CPU lacks {', '.join(fewest)}"
    best = best_for_host(INSTRUCTION_SETS.values())
    advice = "export the model to ONNX, with --target onnx"
    if best is not None:
        names = ",".join((*known, best.name))
        advice = f"compile the model for {best.name}, too: --target {names}"
    return f"{subject} {', '.join(known)}, and {reason}; {advice}."


def host_instruction_set() -> InstructionSet:
    """The best row that this machine can run; :class:`ConfigError` when it can run none."""
    best = best_for_host(INSTRUCTION_SETS.values())
    if best is not None:
        return best
    raise ConfigError(
        "This CPU has none of the instruction sets that native code is generated for "
        f"({', '.join(INSTRUCTION_SETS)}); export to ONNX instead with --target onnx."
    )
