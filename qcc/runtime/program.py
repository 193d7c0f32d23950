"""Loaded code for one set of input shapes: memory, steps, and the regions between them."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import can_run, refusal
from qcc.backends.llvm.model import (
    ArraySource,
    CompiledModel,
    NativeStep,
    RegionStep,
    profile_symbol,
)
from qcc.backends.llvm.sync import FAULT_OFFSET
from qcc.errors import ArtifactError
from qcc.ir.core import Array
from qcc.ref.float_ops import outside_table
from qcc.runtime.threads import Arguments, Team

_STEP = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int32, ctypes.c_int32)
_PROFILE = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, *[ctypes.c_int32] * 2, ctypes.c_void_p)
_ALIGNMENT = 64

LEAST_MACS = 5_000_000
"""A model of fewer multiply-accumulates takes some tens of microseconds: waking threads costs as
much, so it runs on the thread that calls it."""


_DATA_OFFSET = object.__basicsize__
"""Where numpy keeps the address of an array's data: C code reads it there, behind the head of the
Python object (``PyArrayObject``, a part of numpy's binary interface)."""


def _read_address(array: Array) -> int:
    """``array.ctypes.data`` in a fifth of its time, which is longer than small kernels take."""
    return ctypes.c_size_t.from_address(id(array) + _DATA_OFFSET).value


_PROBES = (np.zeros(3, np.float32), np.zeros((2, 5), np.int64)[1])


def _ask_address(array: Array) -> int:
    return int(array.ctypes.data)


_REGULAR = all(_read_address(probe) == _ask_address(probe) for probe in _PROBES)
address: Callable[[Array], int] = _read_address if _REGULAR else _ask_address
"""Where the data of an array lie."""


def aligned_zeros(size: int) -> NDArray[np.uint8]:
    """``size`` zero bytes at a 64-byte boundary."""
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


def aligned_copy(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``data`` itself where it is aligned (a mapped artifact), else an aligned copy."""
    if data.size and data.ctypes.data % _ALIGNMENT == 0:
        return data
    result = aligned_zeros(max(data.size, _ALIGNMENT))
    result[: data.size] = data
    return result


@dataclass(eq=False)
class _Context:
    """The memory of one call: an arena, the tables of pointers, and where they lie."""

    arena: NDArray[np.uint8]
    inputs: Any
    outputs: Any
    arguments: Arguments
    fault: Any
    """Two int64 in the arena: where an index had no row, the number of rows and the index."""
    team: Team | None = None


class Program:
    """Runs a :class:`CompiledModel`; several Python threads may call it at the same time.

    ``threads`` native threads work on a call; while they are busy, further calls run on the thread
    that makes them.  Raises :class:`ArtifactError` when this CPU lacks an instruction.
    """

    def __init__(self, model: CompiledModel, threads: int = 1) -> None:
        if not can_run(model.isa):
            raise ArtifactError(refusal("The model is compiled for", [model.isa]))
        self.model = model
        self._code = machine.load_object(model.object_code)
        self._weights = aligned_copy(model.weights)
        self._threads = threads if model.macs >= LEAST_MACS else 1
        self._native_steps = [step for step in model.steps if isinstance(step, NativeStep)]
        symbols = [step.symbol for step in self._native_steps]
        self._addresses = {symbol: self._code.address(symbol) for symbol in symbols}
        self._functions = {symbol: _STEP(a) for symbol, a in self._addresses.items()}
        sources = model.output_sources
        self._results = [
            (s.shape, np.dtype(s.dtype)) if s.place == "output" else None for s in sources
        ]
        self._moves = any(kind is None for kind in self._results) or bool(model.regions)
        """Whether a call does more than run native code on inputs and outputs."""
        self._regions: list[Any] = [None] * len(model.regions)
        self._free: deque[_Context] = deque()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._team_context = self._context(self._threads) if self._threads > 1 else None

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """The outputs for checked, contiguous ``arrays`` in the order of the model's inputs.

        Raises :class:`DataError` where the model looks up a row that a table does not have.
        """
        context = self._take()
        try:
            return self._run(context, arrays)
        finally:
            self._give_back(context)

    def profile(self, arrays: Sequence[Array]) -> list[tuple[float, NDArray[np.int64]]]:
        """One call on the calling thread: for each step its seconds and its calls' ticks.

        A region has one count, of 0.
        """
        context = self._context()
        found = []

        slots, outputs = self._prepared(context, arrays)
        for step in self.model.steps:
            start = time.perf_counter()
            if isinstance(step, NativeStep):
                ticks = self._count_native(step, context)
            else:
                ticks = np.zeros(1, np.int64)
                self._run_region(step, context, slots, outputs)
            found.append((time.perf_counter() - start, ticks))
        return found

    def close(self) -> None:
        """Let the worker threads return."""
        with self._lock:
            context, self._team_context = self._team_context, None
        if context is not None and context.team is not None:
            context.team.close()

    # -- memory -----------------------------------------------------------------------------------

    def _context(self, threads: int = 1) -> _Context:
        arena = aligned_zeros(self.model.arena_bytes)
        inputs = (ctypes.c_void_p * max(1, self.model.slots))()
        outputs = (ctypes.c_void_p * max(1, len(self.model.outputs)))()
        team = Team(self._code, arena, threads) if threads > 1 else None
        arguments = Arguments(
            arena.ctypes.data,
            self._weights.ctypes.data,
            ctypes.addressof(inputs),
            ctypes.addressof(outputs),
        )
        fault = (ctypes.c_int64 * 2).from_address(arena.ctypes.data + FAULT_OFFSET)
        return _Context(arena, inputs, outputs, arguments, fault, team)

    def _take(self) -> _Context:
        if self._process != os.getpid():
            self._after_fork()
        if self._threads > 1:
            with self._lock:
                if self._team_context is not None:
                    context, self._team_context = self._team_context, None
                    return context
        try:
            return self._free.pop()
        except IndexError:
            return self._context()

    def _after_fork(self) -> None:
        """A forked process has none of the worker threads: start a team of its own."""
        self._lock = threading.Lock()
        self._process = os.getpid()
        if self._threads > 1:
            self._team_context = self._context(self._threads)

    def _give_back(self, context: _Context) -> None:
        if context.team is None:
            self._free.append(context)
            return
        with self._lock:
            self._team_context = context

    # -- one call ---------------------------------------------------------------------------------

    def _prepared(
        self, context: _Context, arrays: Sequence[Array]
    ) -> tuple[list[Array | None], list[Array | None]]:
        """Slots and outputs, with the tables of pointers to them."""
        slots: list[Array | None] = [*arrays, *[None] * (self.model.slots - len(arrays))]
        return slots, self._bind(context, arrays)

    def _bind(self, context: _Context, arrays: Sequence[Array]) -> list[Any]:
        """Memory for what native code writes of the outputs; the tables point at it."""
        for index, array in enumerate(arrays):
            context.inputs[index] = address(array)
        outputs = [None if kind is None else np.empty(*kind) for kind in self._results]
        for index, output in enumerate(outputs):
            context.outputs[index] = None if output is None else address(output)
        return outputs

    def _run(self, context: _Context, arrays: Sequence[Array]) -> list[Array]:
        if not self._moves:
            written = self._bind(context, arrays)
            for native in self._native_steps:
                self._run_native(native, context)
            return written
        slots, outputs = self._prepared(context, arrays)
        for step in self.model.steps:
            if isinstance(step, NativeStep):
                self._run_native(step, context)
            else:
                self._run_region(step, context, slots, outputs)
        return [
            self._finished(source, output, slots)
            for source, output in zip(self.model.output_sources, outputs, strict=True)
        ]

    def _run_native(self, step: NativeStep, context: _Context) -> None:
        arguments = context.arguments
        if context.team is not None:
            context.team.run(self._addresses[step.symbol], arguments)
        else:
            self._functions[step.symbol](
                arguments.arena, arguments.weights, arguments.inputs, arguments.outputs, 0, 1
            )
        if context.fault[0]:
            rows, index = context.fault
            context.fault[0] = 0
            raise outside_table(index, rows)

    def _count_native(self, step: NativeStep, context: _Context) -> NDArray[np.int64]:
        ticks = np.zeros(len(step.calls), np.int64)
        function, a = _PROFILE(self._code.address(profile_symbol(step.symbol))), context.arguments
        function(a.arena, a.weights, a.inputs, a.outputs, 0, 1, ticks.ctypes.data)
        return ticks

    def _run_region(
        self,
        step: RegionStep,
        context: _Context,
        slots: list[Array | None],
        outputs: list[Array | None],
    ) -> None:
        given = [self._read(source, context, slots, outputs) for source in step.inputs]
        for slot, result in zip(step.slots, self._region(step.model).run(given), strict=True):
            array = np.asarray(result, order="C")
            slots[slot] = array
            context.inputs[slot] = address(array)

    def _region(self, index: int) -> Any:
        if self._regions[index] is None:
            from qcc.ref.float_region import FloatRegion

            self._regions[index] = FloatRegion(self.model.regions[index], self._threads)
        return self._regions[index]

    def _read(
        self,
        source: ArraySource,
        context: _Context,
        slots: list[Array | None],
        outputs: list[Array | None],
    ) -> Array:
        """A view of what a region reads."""
        if source.place in ("slot", "input"):
            found = slots[source.index]
            if source.place == "input" and found is not None:
                # Native code may see another shape of the same bytes: a reshape is only a view.
                found = _view(found.reshape(-1).view(np.uint8), source)
        elif source.place == "output":
            found = outputs[source.index]
        else:
            memory = context.arena if source.place == "arena" else self._weights
            found = _view(memory, source)
        if found is None:
            raise RuntimeError(f"slot {source.index} is read before it is written")
        return found

    def _finished(
        self, source: ArraySource, output: Array | None, slots: list[Array | None]
    ) -> Array:
        if output is not None:
            return output
        if source.place == "weights":
            return np.array(_view(self._weights, source))
        found = slots[source.index]
        if found is None:
            raise RuntimeError(f"slot {source.index} is read before it is written")
        is_input = source.index < len(self.model.inputs)
        return np.array(found) if is_input else found


def _view(memory: NDArray[np.uint8], source: ArraySource) -> Array:
    dtype = np.dtype(source.dtype)
    count = int(np.prod(source.shape, dtype=np.int64))
    piece = memory[source.offset : source.offset + count * dtype.itemsize]
    view: Array = piece.view(dtype).reshape(source.shape)
    return view
