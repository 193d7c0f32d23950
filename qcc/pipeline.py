"""The way through the house: prepare, calibrate, convert, as straight-line code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcc.ir.core import Graph
from qcc.passes.assign_numbers import Numbering, assign_numbers
from qcc.passes.correct_bias import Twin, correct_bias
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.insert_observers import Observation, insert_observers, plan_observation
from qcc.passes.manager import PassManager, parse_pass_list
from qcc.passes.scales import resolve_scales
from qcc.passes.select_fusions import select_fusions
from qcc.quant.backend_config import BackendConfig
from qcc.quant.calibration.calibrator import Calibrator, Progress
from qcc.quant.qconfig_mapping import QConfigMapping, get_default_qconfig_mapping


@dataclass
class PreparedModel:
    """A model that waits for sample data.

    ``graph`` is the float graph after the float passes; ``plan`` and ``observation`` say what will
    be quantized and measured.
    """

    graph: Graph
    backend: BackendConfig
    mapping: QConfigMapping
    plan: FusionPlan
    observation: Observation
    calibrator: Calibrator

    def calibrate(self, batches: Iterable[Any], progress: Progress | None = None) -> PreparedModel:
        """Run sample inputs through the float model; may be called again with more.

        ``batches`` yields ``{input: array}``; it is consumed once and not kept.  Raises DataError
        for a batch that does not fit the model, and where there is none.
        """
        self.calibrator.run(batches, progress)
        return self

    @property
    def observed_graph(self) -> Graph:
        """A copy of the graph with its q.observe nodes (stage OBSERVED)."""
        clone = self.graph.clone()
        insert_observers(clone, self.plan.on(self.graph, clone), self.observation)
        return clone


def backend_config(name: str) -> BackendConfig:
    from qcc.backends.onnx.config import CONFIG as ONNX
    from qcc.backends.x86.config import CONFIG as X86
    return {"x86": X86, "onnx": ONNX}[name]


FLOAT_PASSES = (
    "fold-constants,canonicalize,fold-constants,refuse-layernorm,refuse-gelu,refuse-softmax,"
    "refuse-hardsigmoid,refuse-hardswish,refuse-leakyrelu,fold-batchnorm,canonicalize,"
    "eliminate-dead"
)
"""What happens to a float model before anything is quantized."""


def prepare(
    graph: Graph,
    qconfig_mapping: QConfigMapping | None = None,
    backend: BackendConfig | None = None,
    *,
    threads: int = 1,
) -> PreparedModel:
    """Ready a FLOAT graph for calibration; the graph itself is not changed."""
    backend = backend or backend_config("x86")
    mapping = qconfig_mapping or get_default_qconfig_mapping(backend.name)
    graph = graph.clone()
    PassManager(parse_pass_list(FLOAT_PASSES), verify=False).run(graph)
    plan = select_fusions(graph, backend, mapping)
    observation = plan_observation(plan)
    calibrator = Calibrator(graph, observation.observed, threads=threads)
    return PreparedModel(graph, backend, mapping, plan, observation, calibrator)


def convert(prepared: PreparedModel, correct=True):
    clone = prepared.graph.clone()
    plan = prepared.plan.on(prepared.graph, clone)
    origin = dict(zip(clone.values(), prepared.graph.values()))
    insert_observers(clone, plan, prepared.observation)
    scales = resolve_scales(prepared.plan, prepared.observation, prepared.calibrator.parameters)
    numbering = assign_numbers(clone, plan, prepared.observation, scales)
    origin.update({s: origin[v] for s, v in numbering.sources.items()})
    twin = Twin(prepared.graph, prepared.plan, clone, plan, origin)
    measured = correct_bias(twin, prepared.calibrator.kept, correct=correct)
    return clone, plan, numbering, measured
