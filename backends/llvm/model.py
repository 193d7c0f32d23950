"""Compiled models as data: what code generation gives and a runtime or artifact takes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import InstructionSet


@dataclass(frozen=True)
class ArraySource:
    """A dense array that a region reads or the model gives: in a slot, the arena or a constant.

    ``place`` is ``slot`` (``index``: graph inputs first, then results of regions), ``input`` (the
    bytes of a slot from ``offset`` on, in another shape), ``arena`` (``offset`` bytes), ``output``
    (``index`` of the graph output that native code wrote) or ``weights`` (``offset`` bytes).
    """

    place: str
    index: int
    offset: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype name and shape of a model input or output; None for an unknown size."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class CallRow:
    """A call of a kernel: for which node of the lowered graph, and its multiply-accumulates."""

    node: str
    kernel: str
    macs: int = 0


@dataclass(frozen=True)
class NativeStep:
    """A native function ``void(arena, weights, inputs, outputs, tid, nthreads)`` and its calls."""

    symbol: str
    calls: tuple[CallRow, ...] = ()


def profile_symbol(symbol: str) -> str:
    """The native function that does what ``symbol`` does and counts the ticks of each call."""
    return symbol.replace("run_", "profile_")


@dataclass(frozen=True)
class RegionStep:
    """A float region: model number ``model`` on ``inputs``; its results go to ``slots``."""

    model: int
    inputs: tuple[ArraySource, ...]
    slots: tuple[int, ...]
    label: str = ""
    reason: str = ""


@dataclass(frozen=True)
class KernelRow:
    """Which kernels compute a node of the lowered graph."""

    node: str
    op: str
    kernels: tuple[str, ...]

    @property
    def text(self) -> str:
        """The kernels for reports: the node's own first, then those that prepare memory for it."""
        return ", ".join(sorted(self.kernels, key=lambda kernel: kernel.startswith("halo_")))


@dataclass(frozen=True)
class CompiledModel:
    """Everything a runtime needs, as data.

    ``weights`` is uint8 and must be 64-byte aligned when it is used; ``arena_bytes`` of zeroed,
    64-byte aligned memory are needed for each call that runs at the same time.  Every output says
    where it comes from: ``output`` (native code writes it), ``slot`` or ``weights``.
    """

    isa: InstructionSet
    object_code: bytes
    source: str
    weights: NDArray[np.uint8]
    arena_bytes: int
    steps: tuple[NativeStep | RegionStep, ...]
    regions: tuple[bytes, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    output_sources: tuple[ArraySource, ...]
    slots: int
    kernels: tuple[KernelRow, ...] = field(default=())
    macs: int = 0
    """Multiply-accumulates of one call, by which a runtime judges whether threads are worth it."""

    @functools.cached_property
    def assembly(self) -> str:
        """Machine code as text."""
        return machine.CompiledObject(self.isa, self.object_code, self.source).assembly

    @property
    def llvm_ir(self) -> str:
        """The module before optimization."""
        return self.source
