"""From a laid-out LOWERED graph to object code: plan, memory, module, compilation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qcc import numerics
from qcc.backends.llvm import machine
from qcc.backends.llvm.buffers import Buffer, Stored
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.memory import Lifetime, plan_memory
from qcc.backends.llvm.model import (
    ArraySource,
    CallRow,
    CompiledModel,
    KernelRow,
    NativeStep,
    RegionStep,
    TensorSpec,
)
from qcc.backends.llvm.module import ModuleText, write_module
from qcc.backends.llvm.planner import Planner, Segment
from qcc.backends.llvm.select import SELECTORS
from qcc.backends.llvm.sync import CONTROL_BYTES, claims_bytes
from qcc.errors import ModelError
from qcc.ir.core import Graph, Value
from qcc.ir.integer.region import region_body
from qcc.ir.types import TensorType

if TYPE_CHECKING:
    from qcc.backends.llvm.tuning import Chooser


def compile_graph(
    graph: Graph, isa: InstructionSet, chooser: Chooser | None = None
) -> CompiledModel:
    """Compile a LOWERED graph that :func:`qcc.passes.layout.convert_layout` has laid out.

    ``chooser`` chooses the schedules of matrix kernels (:mod:`qcc.backends.llvm.tuning`).
    Raises :class:`ModelError` where a node has no kernel.
    """
    for node in graph.nodes:
        if node.op not in SELECTORS and node.op != "q.region":
            raise ModelError(f"There is no native kernel for '{node.op}'.", node=node.label)
    planner = Planner(graph, isa, SELECTORS, chooser)
    planner.run()
    segments = [s for s in planner.segments if s.calls or s.region is not None]
    arena_bytes = _place(planner, segments)
    native = [s.calls for s in segments if s.region is None]
    module = write_module(native, isa, graph.name)
    compiled = machine.compile_module(module.text, isa)
    output_sources = tuple(
        _output_source(planner, index, value) for index, value in enumerate(graph.outputs)
    )
    steps, models = _steps(planner, segments, module)
    rows = tuple(
        KernelRow(node.label, node.op, tuple(dict.fromkeys(module.kernels[k] for k in kernels)))
        for node, kernels in planner.kernel_names.items()
    )
    return CompiledModel(
        isa=isa,
        object_code=compiled.object_code,
        source=compiled.source,
        weights=planner.pool.blob(),
        arena_bytes=arena_bytes,
        steps=steps,
        regions=models,
        inputs=tuple(map(tensor_spec, graph.inputs)),
        outputs=tuple(map(tensor_spec, graph.outputs)),
        output_sources=output_sources,
        slots=len(planner.slots),
        kernels=rows,
        macs=sum(int(getattr(c.kernel, "macs", 0)) for calls in native for c in calls),
    )


def tensor_spec(value: Value) -> TensorSpec:
    """How a caller sees a graph input or output."""
    if not isinstance(value.type, TensorType):
        return TensorSpec(value.name, "object", None)
    shape = value.type.shape
    dims = None if shape is None else tuple(d if isinstance(d, int) else None for d in shape)
    return TensorSpec(value.name, _dtype(value.type), dims)


def _dtype(type_: TensorType) -> str:
    return str(numerics.storage_dtype(type_.storage)) if type_.quant else type_.storage


def _place(planner: Planner, segments: Sequence[Segment]) -> int:
    """Give every buffer its offset in the arena; returns the arena's size in bytes."""
    touched: dict[Buffer, list[int]] = {}
    step = 0
    for segment in segments:
        for call in segment.calls:
            for buffer in call.touched:
                touched.setdefault(buffer, []).append(step)
            step += 1
        for operand in segment.operands:
            if isinstance(operand, Stored):
                touched.setdefault(operand.buffer, []).append(step)
        step += 1
    lifetimes = [
        Lifetime(str(index), buffer.reserved, min(touched[buffer]), max(touched[buffer]))
        for index, buffer in enumerate(planner.buffers)
        if buffer in touched
    ]
    most_calls = max((len(segment.calls) for segment in segments), default=0)
    plan = plan_memory(lifetimes, base=CONTROL_BYTES + claims_bytes(most_calls))
    for index, buffer in enumerate(planner.buffers):
        buffer.offset = plan.offsets.get(str(index), 0)
    return plan.size


def _steps(
    planner: Planner, segments: Sequence[Segment], module: ModuleText
) -> tuple[tuple[NativeStep | RegionStep, ...], tuple[bytes, ...]]:
    steps: list[NativeStep | RegionStep] = []
    models: list[bytes] = []
    remaining = iter(module.symbols)
    for segment in segments:
        node = segment.region
        if node is None:
            steps.append(NativeStep(next(remaining), _call_rows(segment, module)))
            continue
        from qcc.ref.float_region import region_model

        body = region_body(node)
        models.append(region_model(list(body.nodes), list(body.inputs), list(body.outputs)))
        operands = [value for value in node.inputs if value is not None]
        steps.append(
            RegionStep(
                model=len(models) - 1,
                inputs=tuple(
                    _array_source(planner, place, value)
                    for place, value in zip(segment.operands, operands, strict=True)
                ),
                slots=tuple(planner.slots[value] for value in node.outputs),
                label=node.label,
                reason=str(node.attributes["reason"]),
            )
        )
    return tuple(steps), tuple(models)


def _call_rows(segment: Segment, module: ModuleText) -> tuple[CallRow, ...]:
    return tuple(
        CallRow(call.node, module.kernels[call.kernel], int(getattr(call.kernel, "macs", 0)))
        for call in segment.calls
    )


def _array_source(planner: Planner, place: Stored | Value, value: Value) -> ArraySource:
    if isinstance(place, Value):
        return ArraySource("slot", planner.slots[place], 0, _dtype(value.tensor), ())
    buffer = place.buffer
    return ArraySource(
        buffer.place,
        buffer.index,
        buffer.offset + place.offset,
        _dtype(value.tensor),
        value.tensor.static_shape,
    )


def _output_source(planner: Planner, index: int, value: Value) -> ArraySource:
    spec = tensor_spec(value)
    if value in planner.slots:
        return ArraySource("slot", planner.slots[value], 0, spec.dtype, ())
    shape = value.tensor.static_shape
    if value.is_constant:
        pointer = planner.pool.add(np.asarray(value.constant), value.name)
        return ArraySource("weights", 0, pointer.buffer.offset, spec.dtype, shape)
    return ArraySource("output", index, 0, spec.dtype, shape)
