"""Models under qemu against the reference evaluator and against the code of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcc.backends.llvm.isa import InstructionSet, host_instruction_set
from qcc.backends.llvm.model import CompiledModel, RegionStep
from qcc.ir.core import Array, Graph
from qcc.ref.evaluate import evaluate
from qcc.runtime.program import Program
from qcc.runtime.steered import values_of
from tests.differential.models import Feeds
from tests.differential.native import compiled_program, differing_bytes
from tests.emulation.models import Run, run_models


@dataclass(frozen=True)
class Expected:
    """Feeds for which one program is compiled, and their outputs by name: the reference's, and
    those of this machine's code."""

    feeds: list[Feeds] = field(default_factory=list)
    reference: list[Mapping[str, Array]] = field(default_factory=list)
    host: list[Mapping[str, Array]] = field(default_factory=list)


@dataclass(frozen=True)
class EmulatedComparison:
    """How much was compared, and how many bytes differ from the reference and this machine's."""

    outputs: int
    elements: int
    differing_bytes: int
    differing_from_host: int


def region_reasons(graph: Graph, feed: Feeds, *, floats: bool = False) -> list[str]:
    """Why parts of a NUMBERED graph run in onnxruntime; empty where all of it is native.

    ``floats`` as :func:`compile_numbered` has it, here and below.
    """
    model = compiled_program(graph, host_instruction_set(), feed, floats=floats).model
    return [f"{step.label}: {step.reason}" for step in model.steps if isinstance(step, RegionStep)]


def expectations(graph: Graph, feeds: Sequence[Feeds], *, floats: bool = False) -> list[Expected]:
    """What a native NUMBERED graph has to give for ``feeds``, grouped by the program they need."""
    groups: dict[object, Expected] = {}
    programs = {}
    for feed in feeds:
        shapes = tuple(feed[value.name].shape for value in graph.inputs)
        key = shapes, values_of(graph, feed)
        if key not in groups:
            groups[key] = Expected()
            programs[key] = compiled_program(graph, host_instruction_set(), feed, floats=floats)
        group, program = groups[key], programs[key]
        found = Program(program.model).run(_inputs(program.model, feed))
        group.feeds.append(feed)
        group.reference.append(evaluate(program.lowered, feed))
        group.host.append(_by_name(program.model, found))
    return list(groups.values())


def compare_emulated(
    graph: Graph,
    isa: InstructionSet,
    expected: Sequence[Expected],
    threads: int = 1,
    seconds: float | None = None,
    *,
    floats: bool = False,
) -> EmulatedComparison:
    """Compile ``graph`` for ``isa``, run all feeds under qemu (in ``seconds``) and compare."""
    models = [
        compiled_program(graph, isa, group.feeds[0], floats=floats).model for group in expected
    ]
    runs = [
        Run(model, [_inputs(model, feed) for feed in group.feeds], threads)
        for model, group in zip(models, expected, strict=True)
    ]
    elements = differing = from_host = 0
    found = run_models(runs, seconds=seconds)
    for model, group, calls in zip(models, expected, found, strict=True):
        for reference, host, call in zip(group.reference, group.host, calls, strict=True):
            outputs = _by_name(model, call)
            if set(outputs) != set(reference):
                raise AssertionError(f"outputs {sorted(outputs)}, not {sorted(reference)}")
            elements += sum(np.asarray(array).size for array in reference.values())
            differing += _differing(reference, outputs)
            from_host += _differing(host, outputs)
    return EmulatedComparison(len(graph.outputs), elements, differing, from_host)


def _inputs(model: CompiledModel, feed: Feeds) -> list[Array]:
    return [np.ascontiguousarray(feed[spec.name], spec.dtype) for spec in model.inputs]


def _by_name(model: CompiledModel, arrays: Sequence[Array]) -> dict[str, Array]:
    return {spec.name: array for spec, array in zip(model.outputs, arrays, strict=True)}


def _differing(expected: Mapping[str, Array], found: Mapping[str, Array]) -> int:
    return sum(
        differing_bytes(name, np.asarray(array), found[name]) for name, array in expected.items()
    )
