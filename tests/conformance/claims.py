"""A pattern that a backend claims, held against what its kernels compute."""

from __future__ import annotations

from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.native_float import has_native_kernel
from qcc.passes.lower import lower
from qcc.passes.outline_float import outline_float
from qcc.quant.backend_config import BackendConfig, BackendPatternConfig
from tests.conformance.instances import dtype_name, graph_of
from tests.conformance.prepared import Prepared


def prepared_claim(backend: BackendConfig, config: BackendPatternConfig) -> Prepared:
    """Every dtype combination of an entry, side by side in one graph of integers."""
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
    return Prepared.of(graph, feeds)


def check_claim(
    backend: BackendConfig, config: BackendPatternConfig, isa: InstructionSet, threads: int = 1
) -> None:
    """Every dtype combination becomes integer code that gives the reference's bytes."""
    prepared_claim(backend, config).check_here(isa, threads)
