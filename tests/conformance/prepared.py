"""A lowered graph with inputs and the reference's outputs, to be run here or under emulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.model import CompiledModel
from qcc.ir.core import Array, Graph
from qcc.passes.layout import convert_layout
from qcc.ref.evaluate import evaluate
from qcc.runtime.program import Program
from tests.emulation.models import Run, run_models


@dataclass(frozen=True)
class Prepared:
    """``graph`` is laid out; ``inputs`` and ``wanted`` are in the order of its ends."""

    graph: Graph
    inputs: tuple[Array, ...]
    wanted: tuple[Array, ...]

    @staticmethod
    def of(graph: Graph, feeds: Mapping[str, Array]) -> Prepared:
        """Evaluate a LOWERED graph on ``feeds``, then lay it out in place."""
        found = evaluate(graph, feeds)
        inputs = tuple(feeds[value.name] for value in graph.inputs)
        wanted = tuple(np.asarray(found[value.name]) for value in graph.outputs)
        convert_layout(graph)
        return Prepared(graph, inputs, wanted)

    def compiled(self, isa: InstructionSet) -> CompiledModel:
        """Code for ``isa``; the graph stays as it is."""
        return compile_graph(self.graph.clone(), isa)

    def check_here(self, isa: InstructionSet, threads: int, calls: int = 1) -> None:
        """Run on this machine, and compare the outputs of every call."""
        native = Program(self.compiled(isa), threads)
        found = [native.run(self.inputs) for _ in range(calls)]
        native.close()
        for call in found:
            self.compare(call, isa)

    def check_emulated(self, isa: InstructionSet, threads: int, calls: int = 1) -> None:
        """Run under qemu, and compare the outputs of every call."""
        (found,) = run_models([Run(self.compiled(isa), [self.inputs] * calls, threads)])
        for call in found:
            self.compare(call, isa)

    def compare(self, found: Sequence[Array], isa: InstructionSet) -> None:
        """AssertionError where anything is not the reference's."""
        for value, wanted, array in zip(self.graph.outputs, self.wanted, found, strict=True):
            assert array.dtype == wanted.dtype, (isa.name, value.name)
            assert np.array_equal(wanted, array, equal_nan=True), (isa.name, value.name)
