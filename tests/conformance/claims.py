"""A pattern that a backend claims, held against what its kernels compute."""

from __future__ import annotations

import numpy as np

from qcc.backends.llvm.codegen import compile_graph
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.quant.backend_config import BackendConfig, BackendPatternConfig
from qcc.ref.evaluate import evaluate
from qcc.runtime.program import Program
from tests.conformance.instances import dtype_name, graph_of


def check_claim(
    backend: BackendConfig, config: BackendPatternConfig, isa: InstructionSet, threads: int = 1
) -> None:
    """Every dtype combination becomes integer code that gives the reference's bytes."""
    graph, builder = graph_of(config)
    feeds = builder.feeds()
    report = lower(graph, backend.patterns)
    assert not report.refusals
    outline_float(graph, report.refusals, has_native_kernel)
    # What follows a float result may stay float; everything else is integer.
    floats = any(dtype_name(d.output) == "float32" for d in config.dtype_configs)
    allowed = {"Add", "Relu", "Clip"} if floats else set()
    assert {node.op for node in graph.nodes if node.domain != "q"} <= allowed
    assert "q.region" not in {node.op for node in graph.nodes}
    wanted = evaluate(graph, feeds)
    convert_layout(graph)
    native = Program(compile_graph(graph, isa), threads)
    found = native.run([feeds[value.name] for value in graph.inputs])
    native.close()
    for value, array in zip(graph.outputs, found, strict=True):
        assert np.array_equal(wanted[value.name], array, equal_nan=True), value.name
