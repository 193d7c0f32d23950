"""The way through the house: prepare, calibrate, convert, as straight-line code."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qcc.backends.registry import backend_config
from qcc.ir.core import Graph, Node, Stage, Value
from qcc.passes.assign_numbers import Numbering, assign_numbers
from qcc.passes.equalize_channels import (
    CHANNEL_EXTREMES,
    Extremes,
    equalizable,
    equalize_channels,
)
from qcc.passes.equalize_dense import equalize_dense, stretchable
from qcc.passes.expand_qoperators import speaks_of_numbers
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.import_dynamic import is_dynamic
from qcc.passes.insert_observers import Observation, insert_observers, plan_observation
from qcc.passes.manager import PassManager, parse_pass_list
from qcc.passes.migrate_outliers import LAST_EXTREMES, migratable, migrate_outliers
from qcc.passes.prune_groups import moves, shrinks
from qcc.passes.refine import Measured, Twin, refine
from qcc.passes.scales import resolve_scales
from qcc.passes.select_fusions import select_fusions
from qcc.quant.backend_config import BackendConfig
from qcc.quant.calibration.calibrator import Calibrator, Progress
from qcc.quant.calibration.spill import KeptSamples
from qcc.quant.observers import PerChannelMinMaxObserver
from qcc.quant.qconfig_mapping import QConfigMapping
from qcc.quant.qparams import QuantParams
from qcc.quant.report import CompileReport, NodeReport

FLOAT_PASSES = (
    "fold-constants,canonicalize,fold-constants,refuse-layernorm,refuse-gelu,refuse-softmax,"
    "refuse-hardsigmoid,refuse-hardswish,refuse-leakyrelu,fold-batchnorm,use-lookups,"
    "expand-conv-transpose,canonicalize,eliminate-dead"
)
"""What happens to a float model before anything is quantized."""

IMPORT_PASSES = (
    "fold-constants,import-clips,import-packed,import-dynamic,canonicalize,import-qdq,"
    "eliminate-dead"
)
"""What happens to a model that holds its own Q/DQ."""

LEAST_LOCAL_DB = 15.0
"""A group whose own quantization error is larger than this ratio allows goes back to float.

Measured on the zoo (``docs/accuracy.md``): healthy groups give 25 to 50 dB.
"""

LEAST_ARITHMETIC_DB = 28.0
"""The same for arithmetic without weights (a GELU, a product of two activations).

In float it costs little, while its error goes into every product behind it.
"""

STRETCHED = "channels of {} activations in front of depthwise convolutions were stretched"
STRETCHED_DENSE = "channels of {} activations in front of dense convolutions were stretched"
MIGRATED = "the spread of the channels of {} activations was moved into the weights that read them"


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
    threads: int = 1

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


@dataclass
class QuantizedModel:
    """The reference quantized model: ``graph`` at stage NUMBERED (Q/DQ around float ops).

    ``report`` has a row for each node of the float graph; ``float_graph`` is what it was made from
    (None for a model that came with its own Q/DQ); ``samples`` are kept calibration batches;
    ``scales`` the parameters of that model's activations by name.
    """

    graph: Graph
    report: CompileReport
    float_graph: Graph | None = None
    samples: KeptSamples | None = None
    scales: Mapping[str, QuantParams] = field(default_factory=dict)


def prepare(
    graph: Graph,
    qconfig_mapping: QConfigMapping | None = None,
    backend: BackendConfig | None = None,
    *,
    threads: int = 1,
) -> PreparedModel:
    """Ready a FLOAT graph for calibration; the graph itself is not changed.

    ``qconfig_mapping`` defaults to the backend's own, ``backend`` to x86.  ``threads`` run the
    float model.
    """
    backend = backend or backend_config("x86")
    mapping = qconfig_mapping or backend.default_mapping
    graph = after_float_passes(graph, backend)
    plan = select_fusions(graph, backend, mapping)
    observation = plan_observation(plan)
    channels = dict.fromkeys(equalizable(plan, observation), CHANNEL_EXTREMES)
    if backend.equalizes_dense:
        channels.update(dict.fromkeys(stretchable(plan, observation), CHANNEL_EXTREMES))
    channels.update(dict.fromkeys(migratable(plan, observation, quantized=True), LAST_EXTREMES))
    calibrator = Calibrator(graph, observation.observed, channels=channels, threads=threads)
    return PreparedModel(graph, backend, mapping, plan, observation, calibrator, threads)


def convert(
    prepared: PreparedModel,
    progress: Progress | None = None,
    *,
    bias_correction: bool = True,
    weight_rounding: bool = True,
    equalization: bool = True,
    least_local_db: float = LEAST_LOCAL_DB,
    least_arithmetic_db: float = LEAST_ARITHMETIC_DB,
) -> QuantizedModel:
    """The Q/DQ model that calibration found; ``prepared`` can be converted again.

    Channels in front of depthwise convolutions are stretched, and outliers in front of matrix
    products moved into the weights, unless ``equalization`` is off.
    Biases are corrected unless ``bias_correction`` is off; weights are rounded for the least error
    of their layer's output, or to nearest where ``weight_rounding`` is off.  Groups whose own error
    exceeds ``least_local_db`` on kept samples (``least_arithmetic_db`` for arithmetic without
    weights) stay float, with that reason in the report.  They are looked for until there are none;
    each round takes nodes out that no later group may hold, so there is a last one.
    """
    plan, observation = prepared.plan, prepared.observation
    steps = _Steps(equalization, weight_rounding, bias_correction)
    ranges = functools.cache(prepared.calibrator.parameters)
    noisy: dict[str, str] = {}
    while True:
        least = _least_ratios(plan, least_local_db, least_arithmetic_db)
        scales = resolve_scales(plan, observation, ranges)
        numbered, numbering, measured = _number(
            prepared, plan, observation, scales, steps, least, progress
        )
        if not measured.failed:
            break
        noisy.update(_too_noisy(plan, measured, least))
        plan = select_fusions(prepared.graph, prepared.backend, prepared.mapping, noisy)
        observation = prepared.observation.merged_with(plan_observation(plan))
    report = CompileReport(
        prepared.backend.name,
        tuple(_rows(prepared.graph, plan, numbering, measured)),
        notes=(*prepared.graph.info.notes, *numbering.notes),
    )
    samples = prepared.calibrator.kept
    graph = _suited(numbered, prepared.backend)
    return QuantizedModel(graph, report, prepared.graph, samples, scales)


def is_quantized(graph: Graph) -> bool:
    """Whether a model came with its own Q/DQ, QOperator or dynamically quantizing nodes."""
    if graph.stage is Stage.NUMBERED:
        return True
    return is_dynamic(graph) or any(speaks_of_numbers(node) for node in graph.walk())


def import_quantized(graph: Graph) -> QuantizedModel:
    """A model that holds its own Q/DQ, at stage NUMBERED; its numbers are kept as they are."""
    if graph.stage is not Stage.NUMBERED:
        graph = graph.clone()
        PassManager(parse_pass_list(IMPORT_PASSES)).run(graph)
        graph.stage = Stage.NUMBERED
    return QuantizedModel(graph, CompileReport("imported", notes=tuple(graph.info.notes)))


def keep_float(graph: Graph) -> Graph:
    """A FLOAT graph as it is compiled without quantization: after the float passes, NUMBERED."""
    kept = after_float_passes(graph)
    kept.stage = Stage.NUMBERED
    return kept


def explain(graph: Graph, backend: BackendConfig) -> CompileReport:
    """What each node would become on ``backend`` with its default configuration."""
    graph = after_float_passes(graph, backend)
    plan = select_fusions(graph, backend, backend.default_mapping)
    rows = tuple(_rows(graph, plan, None, None))
    return CompileReport(backend.name, rows, notes=tuple(graph.info.notes))


def after_float_passes(graph: Graph, backend: BackendConfig | None = None) -> Graph:
    """``graph`` after the float passes, but those that ``backend`` does without."""
    kept = () if backend is None else backend.keeps
    passes = [name for name in FLOAT_PASSES.split(",") if name not in kept]
    clone = graph.clone()
    PassManager(parse_pass_list(",".join(passes))).run(clone)
    return clone


@dataclass(frozen=True)
class _Steps:
    """Which of the steps between measured ranges and good integers are taken."""

    equalization: bool
    weight_rounding: bool
    bias_correction: bool


def _number(
    prepared: PreparedModel,
    plan: FusionPlan,
    observation: Observation,
    scales: Mapping[str, QuantParams],
    steps: _Steps,
    least: Mapping[str, float],
    progress: Progress | None,
) -> tuple[Graph, Numbering, Measured]:
    graph = prepared.graph.clone()
    plan = plan.on(prepared.graph, graph)
    notes = []
    if steps.equalization:
        extremes = _extremes(prepared.calibrator)
        stretched = equalize_channels(plan, observation, scales, extremes)
        dense = 0
        if prepared.backend.equalizes_dense:
            dense = equalize_dense(plan, observation, scales, extremes)
        migrated = migrate_outliers(graph, plan, observation, scales, extremes)
        plan, observation, scales = migrated.plan, migrated.observation, migrated.scales
        notes = [STRETCHED.format(stretched)] * bool(stretched)
        notes += [STRETCHED_DENSE.format(dense)] * bool(dense)
        notes += [MIGRATED.format(migrated.count)] * bool(migrated.count)
    clone = graph.clone()
    copied = plan.on(graph, clone)
    origin: dict[Value, Value] = dict(zip(clone.values(), graph.values(), strict=True))
    insert_observers(clone, copied, observation)
    limit = prepared.backend.weight_pair_limit
    numbering = assign_numbers(clone, copied, observation, scales, limit)
    numbering.notes.extend(notes)
    origin.update({stored: origin[value] for stored, value in numbering.sources.items()})
    twin = Twin(graph, plan, clone, copied, origin)
    kept, threads = prepared.calibrator.kept, prepared.threads
    if not len(kept):
        return clone, numbering, Measured()
    measured = refine(
        twin,
        kept,
        correct=steps.bias_correction,
        rounding=steps.weight_rounding,
        least=least,
        pair_limit=limit,
        threads=threads,
        progress=progress,
    )
    return clone, numbering, measured


def _extremes(calibrator: Calibrator) -> Extremes:
    """The extremes of the channels of what may be equalized, where they were seen."""
    found = {}
    for name, observer in calibrator.channels.items():
        assert isinstance(observer, PerChannelMinMaxObserver)
        if observer.low is not None and observer.high is not None:
            found[name] = (observer.low, observer.high)
    return found


def _least_ratios(
    plan: FusionPlan, least_local: float, least_arithmetic: float
) -> dict[str, float]:
    """The ratio in dB that each group has to reach on its own, by group key."""
    return {
        group.key: least_local
        if group.is_weighted or moves(group) or shrinks(group)
        else least_arithmetic
        for group in plan.groups
    }


def _too_noisy(plan: FusionPlan, measured: Measured, least: Mapping[str, float]) -> dict[str, str]:
    """First results of the nodes of groups that are too noisy to the sentence that says so."""
    found: dict[str, str] = {}
    for group in plan.groups:
        if group.key not in measured.failed:
            continue
        sentence = (
            f"quantizing it leaves a signal-to-noise ratio of {measured.local[group.key]:.1f} dB, "
            f"less than the {least[group.key]:g} dB that keep the model's accuracy"
        )
        found.update({node.output.name: sentence for node in group.nodes})
    return found


def _suited(graph: Graph, backend: BackendConfig) -> Graph:
    """``graph`` after what the backend's own runtime needs."""
    if backend.export_passes:
        PassManager(parse_pass_list(backend.export_passes)).run(graph)
    return graph


def _rows(
    graph: Graph, plan: FusionPlan, numbering: Numbering | None, measured: Measured | None
) -> Iterable[NodeReport]:
    members = plan.group_of()
    quants: Mapping[str, Any] = {} if numbering is None else numbering.quants
    for node in graph.nodes:
        group = members.get(node)
        if group is None:
            yield NodeReport(node.label, node.op, "float32", reason=float_reason(node, plan))
            continue
        quant = quants.get(group.key)
        yield NodeReport(
            node.label,
            node.op,
            "int8",
            tuple(inner.label for inner in group.nodes),
            output_scale=None if quant is None else quant.scale[0],
            output_zero_point=None if quant is None else quant.zero_point[0],
            sqnr_db=None if measured is None else measured.sqnr.get(group.key),
        )


def float_reason(node: Node, plan: FusionPlan) -> str:
    """Why a node that no group holds stays float."""
    sentences = plan.refusals.get(node, ())
    return sentences[0] if sentences else f"the backend has no pattern for {node.op}"
