"""Compiled models run under qemu, as ``qcc.runtime.program`` runs them on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcc.backends.llvm.model import ArraySource, CompiledModel, NativeStep
from qcc.ir.core import Array
from qcc.ref.float_ops import outside_table
from tests.emulation.programs import Bytes, EmulatedCall, EmulatedProgram, run_programs


@dataclass(frozen=True)
class Run:
    """A model without regions, the inputs of every call (in its order), and native threads."""

    model: CompiledModel
    calls: Sequence[Sequence[Array]]
    threads: int = 1


def run_model(
    model: CompiledModel, calls: Sequence[Sequence[Array]], threads: int = 1
) -> list[list[Array]]:
    """The outputs of every call; raises :class:`DataError` as the runtime does."""
    return run_models([Run(model, calls, threads)])[0]


def run_models(
    runs: Sequence[Run], cpu: str | None = None, seconds: float | None = 300
) -> list[list[list[Array]]]:
    """Outputs by run, call and output: all runs in one process, all of one instruction set."""
    (isa,) = {run.model.isa for run in runs}
    found = run_programs(list(map(_program, runs)), isa, cpu, seconds)
    return [
        [_outputs(run.model, inputs, call) for inputs, call in zip(run.calls, calls, strict=True)]
        for run, calls in zip(runs, found, strict=True)
    ]


def _program(run: Run) -> EmulatedProgram:
    model = run.model
    assert not model.regions, "regions run in onnxruntime, which is not emulated"
    return EmulatedProgram(
        model.object_code,
        tuple(step.symbol for step in model.steps if isinstance(step, NativeStep)),
        [[_bytes(array) for array in inputs] for inputs in run.calls],
        tuple(_size(s) if s.place == "output" else None for s in model.output_sources),
        model.weights,
        model.arena_bytes,
        run.threads,
    )


def _bytes(array: Array) -> Bytes:
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _size(source: ArraySource) -> int:
    return int(np.prod(source.shape, dtype=np.int64)) * np.dtype(source.dtype).itemsize


def _outputs(model: CompiledModel, inputs: Sequence[Array], call: EmulatedCall) -> list[Array]:
    rows, index = call.fault
    if rows:
        raise outside_table(index, rows)
    return [
        _resolved(model, source, inputs, written)
        for source, written in zip(model.output_sources, call.outputs, strict=True)
    ]


def _resolved(
    model: CompiledModel, source: ArraySource, inputs: Sequence[Array], written: Bytes | None
) -> Array:
    if source.place == "slot":
        return np.array(inputs[source.index])
    if written is None:
        assert source.place == "weights"
        written = model.weights[source.offset : source.offset + _size(source)]
    return np.frombuffer(written.tobytes(), source.dtype).reshape(source.shape)
