"""From a quantized graph to an Executable: choose the target, compile, wrap."""

from __future__ import annotations

from collections.abc import Mapping

from qcc.backends.llvm.isa import (
    INSTRUCTION_SETS,
    InstructionSet,
    host_instruction_set,
    instruction_set,
)
from qcc.backends.llvm.model import CompiledModel
from qcc.errors import ConfigError, ModelError
from qcc.ir.core import Graph, Stage
from qcc.quant.backend_config import BackendConfig
from qcc.quant.report import CompileReport
from qcc.runtime.executable import Executable, Variant


def codegen(
    graph: Graph,
    target: str = "host",
    threads: int = 1,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    emulate: bool = False,
) -> Executable:
    """Compile a NUMBERED graph (Q/DQ around float ops) to native code.

    ``target`` is ``host`` (the best instruction set of this CPU) or the name of one; code for an
    instruction set that this CPU lacks can be saved, but not run.  ``threads`` native threads work
    on each call.  ``shapes`` are input shapes to compile for now where the graph has symbolic
    dimensions; other shapes are compiled when they are first met.  ``emulate`` replaces the
    instructions of the target by their definitions, so that its code runs here.  ``graph`` may be
    what ``convert`` gives.  Raises :class:`ConfigError` for an unknown target.
    """
    graph = getattr(graph, "graph", graph)
    if graph.stage is not Stage.NUMBERED:
        raise ModelError(
            f"The graph is at stage '{graph.stage.value}'; convert it to Q/DQ form before code "
            "is generated."
        )
    if threads < 1:
        raise ConfigError(f"There must be at least 1 thread, not {threads}.")
    isa = target_instruction_set(target)
    return executable_for(graph, isa.for_emulation() if emulate else isa, threads, shapes)


def target_instruction_set(target: str) -> InstructionSet:
    """The instruction set of a target name; ConfigError where there is none."""
    return host_instruction_set() if target == "host" else instruction_set(target)


def native_targets() -> tuple[str, ...]:
    """Names of all native targets."""
    return ("host", *INSTRUCTION_SETS)


def backend_of(isa: InstructionSet) -> BackendConfig:
    """The BackendConfig whose patterns the kernels of ``isa`` serve."""
    from qcc.backends.x86.config import CONFIG

    return CONFIG


def executable_for(
    graph: Graph,
    isa: InstructionSet,
    threads: int,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Executable:
    """Compile ``graph`` now where its shapes are fixed or given, else when they are first met."""
    from qcc.backends.llvm.codegen import tensor_spec
    from qcc.backends.llvm.compile import compile_numbered

    patterns = backend_of(isa).patterns
    inputs = tuple(map(tensor_spec, graph.inputs))
    outputs = tuple(map(tensor_spec, graph.outputs))
    report = CompileReport(isa.name)
    variants: list[Variant] = []
    fixed = all(value.tensor.is_static for value in graph.inputs)
    if fixed or shapes is not None:
        program = compile_numbered(graph, isa, patterns, None if fixed else shapes)
        variants.append(Variant(_input_shapes(graph, None if fixed else shapes), program.model))
        outputs = program.model.outputs if fixed else outputs
        report = report.with_(
            nodes=program.rows,
            arena_bytes=program.model.arena_bytes,
            weight_bytes=int(program.model.weights.size),
        )

    def compile_for(shapes: Mapping[str, tuple[int, ...]]) -> CompiledModel:
        return compile_numbered(graph, isa, patterns, shapes).model

    return Executable(
        inputs,
        outputs,
        variants,
        report,
        target=isa.name,
        threads=threads,
        compile_for=compile_for,
        graph=graph,
    )


def _input_shapes(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[tuple[int, ...], ...]:
    if shapes is None:
        return tuple(value.tensor.static_shape for value in graph.inputs)
    return tuple(tuple(shapes[value.name]) for value in graph.inputs)
