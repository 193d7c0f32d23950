"""Run native kernels in tests: aligned buffers with guards, every instruction set, any threads."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet, can_run
from qcc.backends.llvm.kernels import READ_SLACK, Kernel
from qcc.backends.llvm.kernels.activation import ActivationLayout
from tests.emulation.kernels import run_in_emulator
from tests.emulation.programs import missing_tools
from tests.required import skip_unless_required

Bytes = NDArray[np.uint8]
GUARD = 0xA5


def native_or_skip(name: str) -> InstructionSet:
    """The row ``name`` to run natively; skips with the reason where this CPU lacks it."""
    isa = INSTRUCTION_SETS[name]
    if not can_run(isa):
        skip_unless_required([name], f"this CPU cannot run {name}")
    return isa


def in_process_form(name: str) -> InstructionSet:
    """The row itself where the CPU has it, else with definitions for its instructions."""
    isa = INSTRUCTION_SETS[name]
    return isa if can_run(isa) else isa.for_emulation()


def executable_form(name: str) -> InstructionSet:
    """What :func:`run` runs: rows of AArch64 as they are where an emulator is installed."""
    isa = INSTRUCTION_SETS[name]
    return isa if _needs_emulator(isa) and not missing_tools() else in_process_form(name)


def _needs_emulator(isa: InstructionSet) -> bool:
    """Whether the row is of another architecture that there is an emulator of."""
    return isa.architecture == "aarch64" and not isa.emulated and not can_run(isa)


def aligned(content: Bytes) -> Bytes:
    """A copy of ``content`` at a 64-byte boundary with readable guard bytes before and after."""
    raw = np.full(content.size + 2 * READ_SLACK + 64, GUARD, np.uint8)
    start = READ_SLACK + (-(raw.ctypes.data + READ_SLACK)) % 64
    view = raw[start : start + content.size]
    view[:] = content
    return view


def guards_intact(buffer: Bytes) -> bool:
    """Whether nothing was written just before or after ``buffer`` (made by :func:`aligned`)."""
    raw = buffer.base
    assert isinstance(raw, np.ndarray)
    start = buffer.ctypes.data - raw.ctypes.data
    return bool((raw[:start] == GUARD).all() and (raw[start + buffer.size :] == GUARD).all())


def build(kernel: Kernel, isa: InstructionSet) -> machine.CompiledObject:
    """Compile one kernel as symbol ``kernel``."""
    module = ir.Module(kernel.name)
    kernel.emit(module, isa, "kernel")
    return machine.compile_module(module, isa)


def run(
    kernel: Kernel, isa: InstructionSet, operands: Mapping[str, Bytes], threads: int = 1
) -> None:
    """Compile and call ``kernel`` on ``threads`` threads; buffers come from :func:`aligned`."""
    if _needs_emulator(isa):
        run_in_emulator(kernel, isa, operands, threads)
        return
    loaded = machine.load_object(build(kernel, isa).object_code)
    count = len(kernel.operands)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count, ctypes.c_int32, ctypes.c_int32)
    function = signature(loaded.address("kernel"))
    pointers = [operands[name].ctypes.data for name in kernel.operands]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda tid: function(*pointers, tid, threads), range(threads)))
    assert all(guards_intact(operands[name]) for name in kernel.operands)


def physical(
    layout: ActivationLayout, values: NDArray[Any], halo: int, rng: np.random.Generator
) -> Bytes:
    """uint8 ``[N, C, H, W]`` in physical form; padding channels are random."""
    shape = (layout.batch, layout.rows, layout.columns, layout.channel_stride)
    buffer = rng.integers(0, 256, shape).astype(np.uint8)
    buffer[..., : layout.channels] = halo
    interior(layout, buffer)[...] = values.transpose(0, 2, 3, 1)
    return aligned(buffer.reshape(-1))


def interior(layout: ActivationLayout, buffer: NDArray[Any]) -> NDArray[Any]:
    """View ``[N, H, W, C]`` of the interior of a physical buffer of any element type."""
    shape = (layout.batch, layout.rows, layout.columns, layout.channel_stride)
    view = buffer.reshape(shape)
    return view[
        :,
        layout.halo_top : layout.halo_top + layout.height,
        layout.halo_left : layout.halo_left + layout.width,
        : layout.channels,
    ]


def outside_intact(layout: ActivationLayout, buffer: NDArray[np.uint8], fill: int) -> bool:
    """Whether all but the interior pixels' channels (and their padding) still holds ``fill``."""
    shape = (layout.batch, layout.rows, layout.columns, layout.channel_stride)
    copy = buffer.reshape(shape).copy()
    copy[
        :,
        layout.halo_top : layout.halo_top + layout.height,
        layout.halo_left : layout.halo_left + layout.width,
        : layout.padded_channels,
    ] = fill
    return bool((copy == fill).all())
