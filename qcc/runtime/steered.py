"""Native code for the branches of float models that sample inputs choose.

A model whose ``If`` nodes depend on inputs such as a sample rate runs in onnxruntime as a whole.
For values that were seen it has no branches (:mod:`qcc.passes.steering`); where all that is left
has native float32 kernels, it is compiled, and used whenever the inputs have these values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qcc.backends.llvm.isa import InstructionSet
from qcc.errors import QccError
from qcc.ir.core import Graph
from qcc.runtime.executable import Values, Variant

MOST_VALUES = 4
"""Sets of values that get code of their own: each takes as long to compile as a model."""


def steered_variants(
    graph: Graph, sets: Sequence[InstructionSet], samples: Sequence[Mapping[str, Any]]
) -> list[Variant]:
    """Code for the samples' shapes and values of the inputs that choose branches.

    Empty for a graph with integers, without such inputs, or with a branch that is not all native.
    """
    from qcc.passes.steering import steering_inputs

    if not samples or any(node.domain == "q" for node in graph.nodes):
        return []
    names = [value.name for value in steering_inputs(graph)]
    chosen: dict[Values, Mapping[str, Any]] = {}
    for feeds in samples if names else ():
        values = tuple((name, int(np.asarray(feeds[name]).item())) for name in names)
        if len(chosen) < MOST_VALUES:
            chosen.setdefault(values, feeds)
    found = (_variant(graph, isa, v, feeds) for v, feeds in chosen.items() for isa in sets)
    return [variant for variant in found if variant is not None]


def _variant(
    graph: Graph, isa: InstructionSet, values: Values, feeds: Mapping[str, Any]
) -> Variant | None:
    from qcc.backends.llvm.compile import compile_numbered
    from qcc.passes.steering import with_values
    from qcc.runtime.build import backend_of

    shapes = {value.name: np.shape(feeds[value.name]) for value in graph.inputs}
    try:
        fixed = with_values(graph, dict(values), shapes)
    except QccError:
        # Whoever calls the model with these inputs is told by onnxruntime what is wrong.
        return None
    model = compile_numbered(fixed, isa, backend_of(isa).patterns, floats=True).model
    return None if model.regions else Variant(tuple(shapes.values()), model, values)


def steering_notes(variants: Sequence[Variant]) -> tuple[str, ...]:
    """What a report says of such code: one sentence a set of values."""
    sets = dict.fromkeys(variant.values for variant in variants)
    texts = (" and ".join(f"{name} = {value}" for name, value in values) for values in sets)
    return tuple(
        f"With {text} the model has no branches and runs natively in float32; "
        "other values run in onnxruntime."
        for text in texts
    )
