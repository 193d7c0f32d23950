"""Native code against the reference evaluator, output by output, byte by byte."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from qcc.backends.llvm.compile import NativeProgram, compile_numbered
from qcc.backends.llvm.isa import InstructionSet, can_run
from qcc.ir.core import Array, Graph
from qcc.quant.report import CompileReport
from qcc.ref.evaluate import evaluate
from qcc.runtime.build import backend_of
from qcc.runtime.executable import Executable, Values, Variant
from qcc.runtime.steered import steered_program, values_of
from tests.differential.models import Feeds

Shapes: TypeAlias = "tuple[tuple[int, ...], ...]"
"""One shape an input, in order."""


@dataclass(frozen=True)
class NativeComparison:
    """What one model gave on one instruction set, over all feeds.

    ``has_regions``: some of it ran in onnxruntime.
    """

    outputs: int
    elements: int
    differing_bytes: int
    has_regions: bool = False


def runnable_row(isa: InstructionSet) -> InstructionSet:
    """The row itself where this CPU runs it, else its emulation."""
    return isa if can_run(isa) else isa.for_emulation()


def with_stored_outputs(graph: Graph) -> Graph:
    """A copy of a NUMBERED graph whose outputs are also all values that it stores as integers.

    A model may end in a few floats that hide what happened before them.
    """
    copy = graph.clone()
    stored = [node.output for node in copy.nodes if node.op == "q.quantize"]
    copy.set_outputs(list(dict.fromkeys([*copy.outputs, *stored])))
    return copy


def compare_native(
    graph: Graph, isa: InstructionSet, feeds: Sequence[Feeds], threads: int = 1
) -> NativeComparison:
    """Compile a NUMBERED ``graph`` for ``isa``, run it on ``feeds`` and compare all outputs."""
    programs: dict[tuple[Shapes, Values], tuple[Executable, Graph]] = {}
    elements = differing = 0
    for feed in feeds:
        key = tuple(feed[value.name].shape for value in graph.inputs), values_of(graph, feed)
        if key not in programs:
            programs[key] = _compiled(graph, isa, feed, threads)
        executable, lowered = programs[key]
        expected, found = evaluate(lowered, feed), executable.run(feed)
        if set(found) != set(expected):
            raise AssertionError(f"outputs {sorted(found)} instead of {sorted(expected)}")
        for name, array in expected.items():
            elements += np.asarray(array).size
            differing += differing_bytes(name, np.asarray(array), found[name])
    for executable, _ in programs.values():
        executable.close()
    regions = any(node.op == "q.region" for _, low in programs.values() for node in low.nodes)
    return NativeComparison(len(graph.outputs), elements, differing, regions)


def compiled_program(
    graph: Graph, isa: InstructionSet, feed: Feeds, *, floats: bool = False
) -> NativeProgram:
    """What ``codegen`` compiles for the shapes (and values that choose branches) of ``feed``."""
    program = steered_program(graph, isa, feed) if values_of(graph, feed) else None
    shapes = {value.name: feed[value.name].shape for value in graph.inputs}
    patterns = backend_of(isa).patterns
    return program or compile_numbered(graph, isa, patterns, shapes, floats=floats)


def _compiled(
    graph: Graph, isa: InstructionSet, feed: Feeds, threads: int
) -> tuple[Executable, Graph]:
    """The executable that ``codegen`` gives, and the lowered graph that it was compiled from."""
    program = compiled_program(graph, isa, feed)
    executable = Executable(
        program.model.inputs,
        program.model.outputs,
        [Variant(tuple(feed[value.name].shape for value in graph.inputs), program.model)],
        CompileReport(isa.name),
        target=isa.name,
        threads=threads,
    )
    return executable, program.lowered


def differing_bytes(name: str, expected: Array, found: Array) -> int:
    """How many bytes of the output ``name`` differ; AssertionError for another shape or dtype."""
    if expected.shape != found.shape or expected.dtype != found.dtype:
        raise AssertionError(
            f"{name}: {found.dtype}{found.shape} instead of {expected.dtype}{expected.shape}"
        )
    sides = [np.frombuffer(np.ascontiguousarray(a).tobytes(), np.uint8) for a in (expected, found)]
    return int(np.count_nonzero(sides[0] != sides[1]))
