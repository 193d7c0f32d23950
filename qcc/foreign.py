"""Models that others have quantized: what they hold, and what a target makes of them.

* Numbers that the target takes are kept as they are.
* Where it takes others (uint8 for TensorRT), the model is quantized again: by the ranges that it
  records, or by sample inputs where they are given.
* A model of which only the weights hold numbers (weight-only, or quantized while it runs) is
  compiled as a float model with these weights; with sample inputs it is quantized like any other
  float model, and its weights, which lie on a grid already, keep their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qcc.errors import ModelError
from qcc.ir.core import Graph, Value
from qcc.ir.types import Quant
from qcc.passes.expand_qoperators import QOPERATORS
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.import_dynamic import DYNAMIC_OPS
from qcc.passes.insert_observers import Observation, plan_observation
from qcc.passes.manager import PassManager, parse_pass_list
from qcc.passes.select_fusions import select_fusions
from qcc.passes.strip_quantization import (
    RecordedRange,
    Stripped,
    dequantize_biases,
    spread_ranges,
    store_signed,
    strip_quantization,
)
from qcc.pipeline import PreparedModel, QuantizedModel, convert, import_quantized, prepare
from qcc.quant.backend_config import BackendConfig, Placement
from qcc.quant.calibration.calibrator import Calibrator
from qcc.quant.observers import MinMaxObserver, ObserverSpec
from qcc.quant.observers.base import UniformArguments
from qcc.quant.qconfig_mapping import QConfigMapping
from qcc.quant.report import NodeReport

Progress = Callable[[str, int, "int | None"], None]
Batches = Iterable[Mapping[str, Any]]

ABSORBING_PASSES = "absorb-affine,absorb-channel-scales"
"""What gives layers the form that kernels have; activations keep their integers."""

UNUSED_SAMPLES = "the model is quantized already: its numbers are kept, the samples were not used"

LEFT_OVER = ("QuantizeLinear", "DequantizeLinear")
"""Ops that are only left in an imported graph where they have no integer form."""

WEIGHTS_ONLY = (
    "only weights are quantized in the model: they become float32, since {} takes other numbers; "
    "give sample inputs (--calib DATA, calibration=... in Python) to quantize it"
)


def take_over(
    graph: Graph,
    backend: BackendConfig,
    calibration: Batches | None = None,
    mapping: QConfigMapping | None = None,
    progress: Progress | None = None,
    *,
    threads: int = 1,
) -> QuantizedModel:
    """The Q/DQ form for ``backend`` of a model that came quantized (:func:`is_quantized`).

    ``calibration`` is only consumed where numbers are missing or have to be replaced.  Raises
    ModelError, DataError or ConfigError in one sentence.
    """
    imported = import_quantized(graph)
    if backend.placement is Placement.BEHIND_PRODUCERS:
        PassManager(parse_pass_list("quantize-movements")).run(imported.graph)
    if backend.target or _is_symmetric(backend):
        PassManager(parse_pass_list(ABSORBING_PASSES)).run(imported.graph)
    if _is_symmetric(backend):
        store_signed(imported.graph)
    whole = any(True for _ in activation_quants(imported.graph))
    suits = unsuited(imported.graph, backend) is None
    if suits and (whole or calibration is None):
        unused = (UNUSED_SAMPLES,) if calibration is not None else ()
        return _noted(_kept(imported, backend), unused)
    stripped = strip_quantization(imported.graph)
    _check_stripped(stripped.graph, backend)
    if calibration is not None:
        prepared = prepare(stripped.graph, mapping, backend, threads=threads)
        return convert(prepared.calibrate(calibration, progress), progress)
    if not whole:
        stripped.ranges.clear()
    notes = _loss(stripped, imported.graph, backend) if whole else ()
    quantized = requantize(stripped, backend, mapping)
    return _noted(quantized, notes or (WEIGHTS_ONLY.format(backend.name),))


def _kept(imported: QuantizedModel, backend: BackendConfig) -> QuantizedModel:
    """The model as it is, in the form that an export target reads: no number changes."""
    if backend.target:
        return imported
    biases = {config.bias for entry in backend.patterns for config in entry.dtype_configs}
    if "float32" in biases and "int32" not in biases:
        dequantize_biases(imported.graph)
    if backend.export_passes:
        PassManager(parse_pass_list(backend.export_passes)).run(imported.graph)
    return replace(imported, report=imported.report.with_(nodes=tuple(_rows(imported.graph))))


def _rows(graph: Graph) -> Iterator[NodeReport]:
    """A row for each node: int8 where all activations that it reads are dequantized."""
    for node in graph.nodes:
        if node.domain == "q" or node.op in LEFT_OVER:
            continue
        read = [value for value in node.inputs if value is not None and not value.is_constant]
        makers = [value.producer for value in read if value.tensor.is_float]
        quantized = [maker for maker in makers if maker is not None and maker.op == "q.dequantize"]
        if quantized and len(quantized) == len(makers):
            yield NodeReport(node.label, node.op, "int8", (node.label,))
        else:
            reason = "the model quantizes not all that it reads"
            yield NodeReport(node.label, node.op, "float32", reason=reason)


def _noted(quantized: QuantizedModel, notes: tuple[str, ...]) -> QuantizedModel:
    report = quantized.report.with_(notes=(*quantized.report.notes, *notes))
    return replace(quantized, report=report)


# -- what the numbers are --------------------------------------------------------------------------


def activation_quants(graph: Graph) -> Iterator[tuple[Value, Quant]]:
    """The stored values of a NUMBERED graph that are no constants, with their numbers."""
    seen: set[Value] = set()
    for node in graph.walk():
        value = node.output if node.op == "q.quantize" else None
        if node.op == "q.dequantize":
            value = node.operand(0)
        if value is None or value.is_constant or value in seen or value.tensor.quant is None:
            continue
        seen.add(value)
        yield value, value.tensor.quant


def unsuited(graph: Graph, backend: BackendConfig) -> str | None:
    """Why ``backend`` cannot take the numbers of a NUMBERED graph, or None.

    Native code takes any numbers (it runs what has no kernel as floats), and so does a target whose
    activations may have a zero point.  A symmetric one takes signed values with zero point 0 only.
    """
    qconfig = backend.default_qconfig
    if qconfig is None or not _is_symmetric(backend):
        return None
    wanted = qconfig.activation.dtype
    for node in graph.walk():
        if node.op in LEFT_OVER:
            return f"'{node.label}' ({node.op}) quantizes by numbers that the model computes"
    for value, quant in activation_quants(graph):
        if quant.storage != wanted or any(quant.zero_point) or not quant.per_tensor:
            return f"'{value.name}' is quantized as {_words(quant)}, {backend.name} takes {wanted}"
    for node in graph.walk():
        if node.op != "q.dequantize" or not node.operand(0).is_constant:
            continue
        found = node.operand(0).tensor.quant
        if found is None or found.storage == "int32":
            continue
        if found.storage not in (wanted, "int4") or any(found.zero_point):
            return f"the weight '{node.operand(0).name}' is {_words(found)}"
    return None


def _is_symmetric(backend: BackendConfig) -> bool:
    """Whether an export target takes activations without zero point only."""
    if backend.target or backend.default_qconfig is None:
        return False
    arguments = backend.default_qconfig.activation.arguments
    return isinstance(arguments, UniformArguments) and arguments.symmetric


def _check_stripped(graph: Graph, backend: BackendConfig) -> None:
    """Raise ModelError where quantization is left that ``backend`` cannot take."""
    for node in graph.walk():
        if node.op in LEFT_OVER or node.op in QOPERATORS or node.op in DYNAMIC_OPS:
            raise ModelError(
                f"'{node.label}' ({node.op}) has no form that {backend.name} takes: its numbers "
                "are computed while the model runs, or not constant; compile the float model",
                node=node.label,
            )


def _words(quant: Quant) -> str:
    zero = "" if not any(quant.zero_point) else " with a zero point"
    return f"{quant.storage}{zero}{'' if quant.per_tensor else ' by channel'}"


# -- quantizing again ------------------------------------------------------------------------------


def requantize(
    stripped: Stripped, backend: BackendConfig, mapping: QConfigMapping | None = None
) -> QuantizedModel:
    """Quantize a stripped model for ``backend`` by the ranges that it was quantized by.

    What reads or gives a value without a range stays float, with that sentence in the report.
    """
    prepared = prepare(stripped.graph, mapping, backend)
    ranges = spread_ranges(prepared.graph, stripped.ranges)
    refusals: dict[str, str] = {}
    while found := _without_ranges(prepared.plan, prepared.observation, ranges):
        refusals.update(found)
        plan = select_fusions(prepared.graph, backend, prepared.mapping, refusals)
        prepared = replace(prepared, plan=plan, observation=plan_observation(plan))
    calibrator = _recorded(prepared, ranges)
    return convert(
        replace(prepared, calibrator=calibrator),
        bias_correction=False,
        weight_rounding=False,
        equalization=False,
    )


def _without_ranges(
    plan: FusionPlan, observation: Observation, ranges: Mapping[str, RecordedRange]
) -> dict[str, str]:
    """First results of the nodes of groups that lack a range, to the sentence that says so.

    Groups that read such a value come first: without them it may not have to be quantized.
    """
    missing = {name for name in observation.observed if name not in ranges}
    for reads in (True, False):
        found: dict[str, str] = {}
        for group in plan.groups:
            values = group.inputs if reads else group.outputs
            lacking = [value.name for value in values if value.name in missing]
            if lacking:
                sentence = f"the model records no range for '{lacking[0]}'"
                found.update({node.output.name: sentence for node in group.nodes})
        if found:
            return found
    return {}


def _recorded(prepared: PreparedModel, ranges: Mapping[str, RecordedRange]) -> Calibrator:
    """A calibrator that has seen the ends of the recorded ranges."""
    specs = {name: _min_max(spec) for name, spec in prepared.observation.observed.items()}
    calibrator = Calibrator(prepared.graph, specs)
    for name, observer in calibrator.observers.items():
        observer.update(np.array([ranges[name].low, ranges[name].high], np.float32))
    return calibrator


def _min_max(spec: ObserverSpec) -> ObserverSpec:
    """An observer of the extremes with the dtype and scheme of ``spec``."""
    given = spec.arguments
    if not isinstance(given, UniformArguments):
        return spec
    return MinMaxObserver.with_args(
        dtype=given.dtype,
        qscheme=given.qscheme,
        reduce_range=given.reduce_range,
        quant_min=given.quant_min,
        quant_max=given.quant_max,
        eps=given.eps,
    )


# -- what that costs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Coarser:
    """By how much the step of a value grows when its range is quantized symmetrically."""

    name: str
    factor: float


def _loss(stripped: Stripped, graph: Graph, backend: BackendConfig) -> tuple[str, ...]:
    qconfig = backend.default_qconfig
    assert qconfig is not None
    wanted, arguments = qconfig.activation.dtype, qconfig.activation.arguments
    assert isinstance(arguments, UniformArguments)
    total, moved = 0, 0
    for _, quant in activation_quants(graph):
        total += 1
        moved += quant.storage != wanted or bool(any(quant.zero_point))
    worst = max(
        (
            _Coarser(name, float(arguments.qparams(item.low, item.high).scale[0]) / item.step)
            for name, item in stripped.ranges.items()
            if item.step > 0
        ),
        key=lambda found: found.factor,
        default=None,
    )
    notes = [
        f"quantized again by the ranges that the model records: {moved} of {total} activations "
        f"went from other numbers to symmetric {wanted}"
    ]
    if worst is not None and worst.factor > 1.001:
        notes[0] += (
            f", the step of '{worst.name}' becoming {worst.factor:.2f} times as wide, the most of "
            "all: compile the float model, if there is one, for better numbers"
        )
    if stripped.uneven:
        notes.append(
            f"{len(stripped.uneven)} weights do not fit symmetric int8 exactly and were rounded "
            f"anew (the first is '{stripped.uneven[0]}')"
        )
    return tuple(notes)
