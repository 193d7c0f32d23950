"""Compile LLVM modules to object code, and load object code: the only user of llvmlite.binding.

Compilation and loading are separate steps joined by bytes, so that an artifact can keep the object
code and a later process can load it without compiling anything.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from llvmlite import binding

from qcc.backends.llvm.isa import InstructionSet
from qcc.errors import ArtifactError


@functools.cache
def _initialize() -> None:
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


@functools.cache
def host_cpu_features() -> frozenset[str]:
    """Features of this machine's CPU, with the names that LLVM gives them (``avx2``, ...)."""
    _initialize()
    if host_architecture() == "aarch64" and sys.platform == "linux":
        ask = ctypes.CDLL(None).getauxval
        ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        return arm_features(ask(AT_HWCAP), ask(AT_HWCAP2))
    return frozenset(name for name, present in binding.get_host_cpu_features().items() if present)


ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
"""Number of an architecture in the head of an object file."""

AT_HWCAP, AT_HWCAP2 = 16, 26
ARM_CAPABILITIES = {"neon": 1, "dotprod": 20}
ARM_CAPABILITIES_2 = {"i8mm": 13}
"""Bits of the two words in which Linux tells a process what an AArch64 CPU has."""


def arm_features(capabilities: int, more_capabilities: int) -> frozenset[str]:
    """What the words AT_HWCAP and AT_HWCAP2 say, in LLVM's names.

    LLVM itself reads ``/proc/cpuinfo``, which an emulator takes from the machine it runs on.
    """
    words = ((ARM_CAPABILITIES, capabilities), (ARM_CAPABILITIES_2, more_capabilities))
    return frozenset(name for bits, word in words for name, bit in bits.items() if word >> bit & 1)


@functools.cache
def host_architecture() -> str:
    """First part of this machine's target triple, such as ``x86_64``."""
    _initialize()
    return str(binding.get_process_triple()).split("-", 1)[0]


def executing_architecture(isa: InstructionSet) -> str:
    """The architecture that runs the code of ``isa``: this machine's where it is emulated."""
    return host_architecture() if isa.emulated else isa.architecture


@functools.cache
def compiler_identity() -> str:
    """This machine's CPU, as LLVM names it, and LLVM's version."""
    _initialize()
    version = ".".join(map(str, binding.llvm_version_info))
    return f"{binding.get_host_cpu_name()} llvm {version}"


def _target_machine(isa: InstructionSet) -> Any:
    """A target machine for ``isa``, or for the host when the row is emulated."""
    _initialize()
    if isa.emulated:
        features = ",".join(f"+{name}" for name in sorted(host_cpu_features()))
        triple, cpu = binding.get_process_triple(), binding.get_host_cpu_name()
    else:
        triple, cpu, features = isa.triple, isa.cpu, isa.features
    return binding.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small"
    )


def _prepared(
    text: str, isa: InstructionSet, exported: Collection[str] | None = None
) -> tuple[Any, Any]:
    """Parse, verify and prepare a module for code generation: ``(module, target machine)``.

    With ``exported`` all other functions become internal, and those that nothing calls vanish.

    Kernels choose their own unrolling, tiles and vector widths, so that LLVM's optimizer finds
    nothing to win in them, and takes as long as all of code generation (which merges, hoists and
    schedules instructions itself).  Two cheap passes only shorten the lives of addresses, which
    saves registers.
    """
    target = _target_machine(isa)
    module = binding.parse_assembly(text)
    module.triple = target.triple
    module.data_layout = str(target.target_data)
    module.verify()
    builder = binding.create_pass_builder(target, binding.create_pipeline_tuning_options())
    passes = binding.create_new_module_pass_manager()
    if exported is not None:
        for function in module.functions:
            if not function.is_declaration and function.name not in exported:
                function.linkage = "internal"
        passes.add_global_dead_code_eliminate_pass()
    passes.add_reassociate_pass()
    passes.add_lcssa_pass()
    passes.run(module, builder)
    return module, target


@dataclass(frozen=True)
class CompiledObject:
    """One module as relocatable object code (ELF, position independent) for one instruction set."""

    isa: InstructionSet
    object_code: bytes
    source: str

    @functools.cached_property
    def assembly(self) -> str:
        """Text of the machine code, compiled again from ``source`` when first asked for."""
        module, target = _prepared(self.source, self.isa)
        return str(target.emit_assembly(module))


def compile_module(
    module: Any, isa: InstructionSet, exported: Collection[str] | None = None
) -> CompiledObject:
    """Compile an ``llvmlite.ir.Module`` (or its text).  Equal modules give equal bytes.

    ``exported`` names the only functions that can be seen outside, where that are not all.
    """
    text = str(module)
    prepared, target = _prepared(text, isa, exported)
    return CompiledObject(isa, target.emit_object(prepared), text)


class LoadedCode:
    """Object code linked into this process; it stays mapped as long as this object lives."""

    def __init__(self, object_code: bytes) -> None:
        _initialize()
        empty = binding.parse_assembly("")
        target = binding.Target.from_default_triple().create_target_machine(
            opt=3, reloc="pic", codemodel="small"
        )
        self._engine = binding.create_mcjit_compiler(empty, target)
        # The engine refers to the bytes as long as it lives.
        self._object_code = object_code
        self._engine.add_object_file(binding.ObjectFileRef.from_data(object_code))
        self._engine.finalize_object()

    def address(self, symbol: str) -> int:
        """Address of an exported function; :class:`ArtifactError` when there is none."""
        address = int(self._engine.get_function_address(symbol))
        if address == 0:
            raise ArtifactError(
                f"The object code has no function '{symbol}'; compile the model again."
            )
        return address


def load_object(object_code: bytes) -> LoadedCode:
    """Link ``object_code`` (made by :func:`compile_module`) into this process without compiling.

    Raises :class:`ArtifactError` when the bytes are not object code of this machine's kind.
    """
    machine_of_elf = ELF_MACHINES.get(host_architecture(), -1)
    is_elf = object_code[:4] == b"\x7fELF" and len(object_code) >= 64
    if not is_elf or int.from_bytes(object_code[18:20], "little") != machine_of_elf:
        raise ArtifactError(
            "The object code is damaged or made for another CPU; compile the model again here."
        )
    return LoadedCode(object_code)
