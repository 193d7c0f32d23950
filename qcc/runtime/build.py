"""From a quantized graph to an Executable: choose the target, compile, wrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qcc.backends.llvm.isa import (
    INSTRUCTION_SETS,
    InstructionSet,
    best_for_host,
    host_instruction_set,
    instruction_set,
)
from qcc.backends.llvm.model import CompiledModel
from qcc.backends.registry import backend_config
from qcc.errors import ConfigError, ModelError
from qcc.ir.core import Graph, Stage
from qcc.quant.backend_config import BackendConfig
from qcc.quant.report import CompileReport
from qcc.runtime.executable import Executable, Variant
from qcc.runtime.steered import steered_variants, steering_notes

if TYPE_CHECKING:
    from qcc.backends.llvm.tuning import Tuner


def codegen(
    graph: Graph,
    target: str = "host",
    threads: int = 1,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    emulate: bool = False,
    tune: float = 0.0,
    samples: Sequence[Mapping[str, Any]] = (),
    floats: bool = False,
) -> Executable:
    """Compile a NUMBERED graph (Q/DQ around float ops) to native code.

    ``target`` is ``host`` (the best instruction set of this CPU), the name of one, or several names
    separated by commas: whoever runs the model takes the best that its CPU has.  Code for an
    instruction set that this CPU lacks can be saved, but not run.  ``threads`` native threads work
    on each call.  ``shapes`` are input shapes to compile for now where the graph has symbolic
    dimensions; other shapes are compiled when they are first met.  ``emulate`` replaces the
    instructions of the target by their definitions, so that its code runs here.  ``tune`` seconds
    go into measuring schedules of matrix kernels here (:mod:`qcc.backends.llvm.tuning`).
    ``samples`` are inputs as they will come: where their values choose branches of a float model,
    the branches that they choose get native code (:mod:`qcc.runtime.steered`).  ``graph`` may be
    what ``convert`` gives.  ``floats``: a graph without integers gets native float32 code, too,
    where onnxruntime would run it.  Raises :class:`ConfigError` for an unknown target, or one that
    cannot be tuned here.
    """
    graph = getattr(graph, "graph", graph)
    if graph.stage is not Stage.NUMBERED:
        raise ModelError(
            f"The graph is at stage '{graph.stage.value}'; convert it to Q/DQ form before code "
            "is generated."
        )
    if threads < 1:
        raise ConfigError(f"There must be at least 1 thread, not {threads}.")
    sets = target_instruction_sets(target)
    if emulate:
        sets = tuple(isa.for_emulation() for isa in sets)
    return executable_for(graph, sets, threads, shapes, tune, samples, floats)


def target_instruction_sets(target: str) -> tuple[InstructionSet, ...]:
    """The instruction sets of a target, the best first; ConfigError for an unknown name."""
    names = {name.strip() for name in target.split(",")}
    found = {host_instruction_set() if name == "host" else instruction_set(name) for name in names}
    return tuple(sorted(found, key=lambda isa: isa.rank))


def target_instruction_set(target: str) -> InstructionSet:
    """The best instruction set of a target that this CPU runs, else the best of all."""
    sets = target_instruction_sets(target)
    return best_for_host(sets) or sets[0]


def native_targets() -> tuple[str, ...]:
    """Names of all native targets."""
    return ("host", *INSTRUCTION_SETS)


def native_backend_name(target: str) -> str:
    """The backend whose numbers suit every instruction set of a native target."""
    sets = target_instruction_sets(target)
    if any(isa.dot == "vpmaddwd" for isa in sets):
        return "x86-avx2"
    return "arm" if all(isa.architecture == "aarch64" for isa in sets) else "x86"


def backend_of(isa: InstructionSet) -> BackendConfig:
    """The BackendConfig whose patterns the kernels of ``isa`` serve."""
    return backend_config("arm" if isa.architecture == "aarch64" else "x86")


def executable_for(
    graph: Graph,
    sets: Sequence[InstructionSet],
    threads: int,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    tune: float = 0.0,
    samples: Sequence[Mapping[str, Any]] = (),
    floats: bool = False,
) -> Executable:
    """Compile ``graph`` now where its shapes are fixed or given, else when they are first met.

    The kernels and sizes of the report are those of the instruction set that runs here.
    """
    from qcc.backends.llvm.codegen import tensor_spec
    from qcc.backends.llvm.compile import compile_numbered

    chosen = best_for_host(sets) or sets[0]
    outputs = tuple(map(tensor_spec, graph.outputs))
    target = ",".join(isa.name for isa in sets)
    report = CompileReport(target)
    variants: list[Variant] = []
    fixed = all(value.tensor.is_static for value in graph.inputs)
    for isa in sets if fixed or shapes is not None else ():
        given = None if fixed else shapes
        tuner = _tuner(isa, tune)
        program = compile_numbered(
            graph, isa, backend_of(isa).patterns, given, tuner, floats=floats
        )
        variants.append(Variant(_input_shapes(graph, given), program.model))
        if tuner is not None:
            tuner.save()
        if isa is not chosen:
            continue
        outputs = program.model.outputs if fixed else outputs
        report = report.with_(
            nodes=program.rows,
            arena_bytes=program.model.arena_bytes,
            weight_bytes=int(program.model.weights.size),
            notes=() if tuner is None else (tuner.note,),
        )

    steered = [] if floats else steered_variants(graph, sets, samples)
    report = report.with_(notes=(*report.notes, *steering_notes(steered)))

    def compile_for(shapes: Mapping[str, tuple[int, ...]]) -> CompiledModel:
        patterns = backend_of(chosen).patterns
        return compile_numbered(graph, chosen, patterns, shapes, floats=floats).model

    return Executable(
        tuple(map(tensor_spec, graph.inputs)),
        outputs,
        [*steered, *variants],
        report,
        target=target,
        threads=threads,
        compile_for=compile_for,
        graph=graph,
        floats=floats,
    )


def _tuner(isa: InstructionSet, seconds: float) -> Tuner | None:
    if seconds <= 0:
        return None
    from qcc.backends.llvm.tuning import Tuner

    return Tuner(isa, seconds)


def _input_shapes(
    graph: Graph, shapes: Mapping[str, tuple[int, ...]] | None
) -> tuple[tuple[int, ...], ...]:
    if shapes is None:
        return tuple(value.tensor.static_shape for value in graph.inputs)
    return tuple(tuple(shapes[value.name]) for value in graph.inputs)
