"""What a convolution and an instruction set together decide: source, inner loop, layout, cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import STACK_LIMIT
from qcc.backends.llvm.kernels.gemm import Walk
from qcc.backends.llvm.kernels.panels import Panels
from qcc.backends.llvm.schedule import (
    GemmSchedule,
    GemmShape,
    Inner,
    alternatives,
    gemm_cycles,
    gemm_schedule,
)
from qcc.errors import ConfigError

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.conv import ConvKernel

Source = Literal["rows", "taps", "copy"]
"""``rows``: row ``m`` of the product is pixel ``m`` of the input.  ``taps``: each row has its own
pointer and its taps are walked in place.  ``copy``: blocks of rows are copied to scratch memory."""


@dataclass(frozen=True)
class ConvPlan:
    """What a kernel and an instruction set together decide: source, inner loop, cut, layout.

    ``merged``: the horizontal taps of a window row are one run of ``kw * channel_stride`` bytes, or
    of ``kw * channels`` where the kernel is tight.
    ``row_bytes``: bytes from one row of activations to the next in place; ``scratch_row``: bytes of
    a copied row, 0 where nothing is copied.  The mixed inner loop reads activations in place where
    pairs are safe and a widened copy elsewhere.
    """

    kernel: ConvKernel
    source: Source
    inner: Inner
    merged: bool
    walk: Walk
    panels: Panels
    schedule: GemmSchedule
    row_bytes: int
    scratch_row: int
    shape: GemmShape

    @staticmethod
    def of(kernel: ConvKernel, isa: InstructionSet) -> ConvPlan:
        """The plan for ``kernel`` on ``isa``."""
        inner = _inner(kernel, isa)
        window, layout = kernel.window, kernel.input
        depth = -(-(layout.channels // kernel.groups) // 4) * 4
        kh, kw = window.kernel
        merged = (
            kernel.groups == 1
            and window.dilations[1] == 1
            and (kw == 1 or depth == layout.channel_stride)
        )
        run = depth * (kw if merged else 1)
        source = _source(kernel, inner, run)
        total = run * kh * (1 if merged else kw)
        if kernel.tight:
            total = -(-layout.channels * kh * kw // 4) * 4
        whole = 2 if inner == "matrix" else 1
        if source == "copy":
            walk = Walk(-(-total // 4 // whole) * whole)
        else:
            walk = Walk(
                -(-run // 4 // whole) * whole,
                kh,
                window.dilations[0] * layout.row_bytes,
                1 if merged else kw,
                window.dilations[1] * layout.channel_stride,
            )
        m = kernel.output.batch * kernel.output.height * kernel.output.width
        n = kernel.output.channels // kernel.groups
        scratch_row = 0
        if source == "copy" or inner == "mixed":
            scratch_row = total * (2 if inner in ("mixed", "widened") else 1)
            # Rows a page apart would fight for the same few cache sets.
            scratch_row += 64 if scratch_row % 2048 == 0 else 0
        limit = 14 if source != "taps" or isa.architecture != "x86_64" else 6
        row_bytes = scratch_row or layout.channel_stride
        shape = GemmShape(m, n, total, row_bytes, limit, scratch_row > 0, kernel.partners)
        schedule = kernel.schedule or gemm_schedule(isa, inner, shape)
        schedule = _within_stack(schedule, scratch_row) if scratch_row else schedule
        form = kernel.epilogue.form
        parts, paired = kernel.weight_parts, bool(kernel.partners)
        quads = walk.total_quads
        panels = Panels(isa, inner, parts, quads, n, schedule.vectors, form, paired)
        return ConvPlan(
            kernel,
            source,
            inner,
            merged,
            walk,
            panels,
            schedule,
            row_bytes=layout.channel_stride,
            scratch_row=scratch_row,
            shape=shape,
        )

    def matrix(self, weight: NDArray[Any]) -> NDArray[np.int16]:
        """``[O, C, kh, kw]`` as ``[O, 4 * quads]`` in the order in which activations are read."""
        matrix = weight_matrix(weight, tight=self.kernel.tight)
        runs = matrix.reshape(len(matrix), self.walk.outer * self.walk.middle, -1)
        behind = 4 * self.walk.quads - runs.shape[2]
        return np.pad(runs, ((0, 0), (0, 0), (0, behind))).reshape(len(matrix), -1)

    def alternatives(self) -> list[GemmSchedule]:
        """Schedules worth measuring, the cost model's own first."""
        return alternatives(self.panels.isa, self.inner, self.shape)

    @property
    def cycles(self) -> float:
        """What the cost model predicts."""
        cut, shape = self.schedule, self.shape
        tile, turns = (cut.rows, cut.vectors), -(-shape.k // 4)
        isa = self.panels.isa
        groups = self.kernel.groups
        return groups * gemm_cycles(isa, self.inner, tile, shape.m, shape.n, turns, shape.partners)

    @property
    def scratch_bytes(self) -> int:
        """Stack bytes for copied rows (a last copy may overshoot its row)."""
        if not self.scratch_row:
            return 0
        return self.schedule.rows * self.schedule.block_tiles * self.scratch_row + 128


def _inner(kernel: ConvKernel, isa: InstructionSet) -> Inner:
    if isa.dot == "smull":
        return "long"
    if isa.dot == "usmmla":
        output = kernel.output
        return "matrix" if output.batch * output.height * output.width > 1 else "dot"
    if isa.dot != "vpmaddwd":
        return "dot"
    if kernel.safe_pairs:
        return "partners" if kernel.partners else "pairs"
    return "mixed" if kernel.weight_parts == 1 and not kernel.tight else "widened"


def weight_matrix(weight: NDArray[Any], *, tight: bool) -> NDArray[np.int16]:
    """``[O, C, kh, kw]`` as ``[O, 4 * quads]`` in the order in which a row's activations lie."""
    outputs, channels, kh, kw = weight.shape
    if tight:
        products = channels * kh * kw
        taps = np.zeros((outputs, -(-products // 4) * 4), np.int16)
        taps[:, :products] = weight.transpose(0, 2, 3, 1).reshape(outputs, -1)
        return taps
    matrix = np.zeros((outputs, kh, kw, -(-channels // 4) * 4), np.int16)
    matrix[..., :channels] = weight.transpose(0, 2, 3, 1)
    return matrix.reshape(outputs, -1)


def _source(kernel: ConvKernel, inner: Inner, run: int) -> Source:
    window = kernel.window
    if inner == "widened" or kernel.tight:
        return "copy"
    pointwise = window.kernel == (1, 1) and window.strides == (1, 1) and window.pads == (0, 0)
    layout, target = kernel.input, kernel.output
    whole = (layout.height, layout.width) == (target.height, target.width)
    if pointwise and whole and not layout.has_halo:
        return "rows"
    # Short runs would spend their time entering and leaving the inner loop.
    return "taps" if run >= 64 or inner == "mixed" else "copy"


def _within_stack(schedule: GemmSchedule, row_bytes: int) -> GemmSchedule:
    rows = (STACK_LIMIT - 128) // row_bytes
    if rows < 1:
        raise ConfigError(
            f"One output pixel reads {row_bytes} bytes, more than a kernel's scratch memory of "
            f"{STACK_LIMIT} bytes; keep this operator in float."
        )
    height = min(schedule.rows, rows)
    tiles = min(schedule.block_tiles, rows // height)
    return replace(schedule, rows=height, block_tiles=tiles)
