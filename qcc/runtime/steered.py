"""Native code for the branches of float models that sample inputs choose.

A model whose ``If`` nodes depend on inputs such as a sample rate runs in onnxruntime as a whole.
For values that were seen it has no branches (:mod:`qcc.passes.steering`); where all that is left
has native float32 kernels, it is compiled, and used whenever the inputs have these values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.backends.llvm.isa import InstructionSet
from qcc.errors import QccError
from qcc.ir.core import Graph
from qcc.runtime.executable import Values, Variant

if TYPE_CHECKING:
    from qcc.backends.llvm.compile import NativeProgram

MOST_VALUES = 4
"""Sets of values that get code of their own: each takes as long to compile as a model."""


def steered_variants(
    graph: Graph, sets: Sequence[InstructionSet], samples: Sequence[Mapping[str, Any]]
) -> list[Variant]:
    """Code for the samples' shapes and values of the inputs that choose branches.

    Empty for a graph with integers, without such inputs, or with a branch that is not all native.
    """
    chosen: dict[Values, Mapping[str, Any]] = {}
    for feeds in samples:
        values = values_of(graph, feeds)
        if values and len(chosen) < MOST_VALUES:
            chosen.setdefault(values, feeds)
    found = []
    for values, feeds in chosen.items():
        for isa in sets:
            program = steered_program(graph, isa, feeds)
            if program is not None:
                shapes = tuple(np.shape(feeds[value.name]) for value in graph.inputs)
                found.append(Variant(shapes, program.model, values))
    return found


def values_of(graph: Graph, feeds: Mapping[str, Any]) -> Values:
    """Names and values of the inputs that choose branches; empty for a graph with integers."""
    from qcc.passes.steering import steering_inputs

    if any(node.domain == "q" for node in graph.nodes):
        return ()
    names = [value.name for value in steering_inputs(graph)]
    return tuple((name, int(np.asarray(feeds[name]).item())) for name in names)


def steered_program(
    graph: Graph, isa: InstructionSet, feeds: Mapping[str, Any]
) -> NativeProgram | None:
    """Code for the shapes of ``feeds`` and the values that choose branches.

    None where a branch is not all native, or the shapes do not fit it (onnxruntime says so then).
    """
    from qcc.backends.llvm.compile import compile_numbered
    from qcc.passes.steering import with_values
    from qcc.runtime.build import backend_of

    shapes = {value.name: np.shape(feeds[value.name]) for value in graph.inputs}
    try:
        fixed = with_values(graph, dict(values_of(graph, feeds)), shapes)
    except QccError:
        return None
    program = compile_numbered(fixed, isa, backend_of(isa).patterns, floats=True)
    return None if program.model.regions else program


def steering_notes(variants: Sequence[Variant]) -> tuple[str, ...]:
    """What a report says of such code: one sentence a set of values."""
    sets = dict.fromkeys(variant.values for variant in variants)
    texts = (" and ".join(f"{name} = {value}" for name, value in values) for values in sets)
    return tuple(
        f"With {text} the model has no branches and runs natively in float32; "
        "other values run in onnxruntime."
        for text in texts
    )
