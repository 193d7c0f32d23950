"""The code of a convolution: work items, blocks of rows, column tiles, row tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qcc.backends.llvm.builder import Index, LoopBuilder, Value
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv_plan import ConvPlan
from qcc.backends.llvm.kernels.epilogue import EpilogueWriter, ParameterBlock, Place
from qcc.backends.llvm.kernels.gather import Gather
from qcc.backends.llvm.kernels.gemm import GemmWriter, Sources
from qcc.backends.llvm.kernels.vector_loop import Row
from qcc.backends.llvm.kernels.window import Pitches

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.conv import ConvKernel


@dataclass(frozen=True)
class _Column:
    """One column tile of one block of rows, while it is written."""

    group: Index
    block: Index
    weights: Value
    number: Index
    vectors: int
    writable: int


class ConvWriter:
    """Writes one convolution: work items, blocks of rows, column tiles, row tiles."""

    def __init__(self, kernel: ConvKernel, isa: InstructionSet, function: Any) -> None:
        self.k = k = LoopBuilder(function)
        self.kernel, self.isa = kernel, isa
        self.plan = plan = ConvPlan.of(kernel, isa)
        block = ParameterBlock(isa, plan.panels.vectors * kernel.groups, kernel.epilogue)
        self.epilogue = EpilogueWriter(k, isa, block, k.operand("parameters"))
        self.gemm = GemmWriter(k, plan.panels, plan.walk, plan.schedule, self.epilogue)
        target = kernel.output
        self.m = target.batch * target.height * target.width
        self.tiles, self.height, self.taller = self.gemm.rows_of_tile(self.m)
        self.scratch = k.stack(plan.scratch_bytes) if plan.scratch_row else None

    def write(self) -> Any:
        """The whole function."""
        k, schedule = self.k, self.plan.schedule
        blocks = -(-self.tiles // schedule.block_tiles)
        columns = len(self.plan.panels.tiles)
        chunks = -(-columns // schedule.chunk_tiles)

        def item(number: Index) -> None:
            chunk, rest = k.mod(number, chunks), k.div(number, chunks)
            block, group = k.mod(rest, blocks), k.div(rest, blocks)
            first = k.mul(block, schedule.block_tiles)
            last = k.minimum(k.add(first, schedule.block_tiles), self.tiles)
            begin = k.mul(chunk, schedule.chunk_tiles)
            end = k.minimum(k.add(begin, schedule.chunk_tiles), columns)
            self._item(group, first, last, begin, end)

        start, stop = k.thread_range(self.kernel.groups * blocks * chunks)
        k.loop(start, stop, item, name="items")
        return k.finish()

    def _item(self, group: Index, first: Index, last: Index, begin: Index, end: Index) -> None:
        """One block of rows times one chunk of columns."""
        k, kernel, plan = self.k, self.kernel, self.plan
        if self.scratch is not None:
            self._copy(group, self._first_row(first), self._first_row(last))
        per_group = kernel.output.channels // kernel.groups
        # Padding channels may be overwritten, but not another group's.
        room = per_group if kernel.groups > 1 else kernel.output.padded_channels

        def column(number: Index, vectors: int, writable: int) -> None:
            tile = _Column(
                group=group,
                block=first,
                weights=k.at(k.operand("weight"), k.mul(group, plan.panels.size_bytes)),
                number=number,
                vectors=vectors,
                writable=writable,
            )
            if self.taller:
                self._rows(first, k.minimum(last, self.taller), self.height + 1, tile)
            self._rows(k.maximum(first, self.taller), last, self.height, tile)

        self.gemm.columns(begin, end, room, column)

    def _first_row(self, tile: Index) -> Index:
        """Number of the first row of a tile."""
        k = self.k
        return k.add(k.mul(tile, self.height), k.minimum(tile, self.taller))

    def _rows(self, low: Index, high: Index, height: int, column: _Column) -> None:
        """All row tiles ``[low, high)``, ``height`` rows each, of one column tile."""
        k, panels = self.k, self.plan.panels
        vector = k.mul(column.number, self.plan.schedule.vectors)
        first_vector = k.add(k.mul(column.group, panels.vectors), vector)

        def tile(number: Index) -> None:
            row = self._first_row(number)
            rows = self._sources(row, self._first_row(column.block), height, column.group)
            self.gemm.tile(
                rows,
                column.weights,
                column.number,
                column.vectors,
                first_vector,
                lambda: self._places(row, height, column),
            )

        k.loop(low, high, tile, name="rows")

    # -- where rows come from -----------------------------------------------------------------

    def _copy(self, group: Index, first: Index, last: Index) -> None:
        """Copy the taps of the rows ``[first, last)`` to scratch memory."""
        k, kernel, plan = self.k, self.kernel, self.plan
        window, layout = kernel.window, kernel.input
        kh, kw = window.kernel
        depth = -(-(layout.channels // kernel.groups) // 4) * 4
        pixel = (depth, layout.channels) if kernel.tight else None
        gather = Gather(
            run=(layout.channels if kernel.tight else depth) * (kw if plan.merged else 1),
            rows=kh,
            row_pitch=window.dilations[0] * layout.row_bytes,
            columns=1 if plan.merged else kw,
            column_pitch=window.dilations[1] * layout.channel_stride,
            widen=plan.inner in ("widened", "mixed"),
            pixel=pixel,
        )

        def row(number: Index) -> None:
            source = k.at(k.operand("input"), self._input_offset(number, group))
            target = k.at(self.scratch, k.mul(k.sub(number, first), plan.scratch_row))
            gather.write(k, self.isa, source, target)

        k.loop(first, last, row, name="copy")

    def _input_offset(self, row: Index, group: Index) -> Index:
        return self._input_offsets(row, 1, group)[0]

    def _input_offsets(self, row: Index, count: int, group: Index) -> list[Index]:
        """Where the windows of ``count`` pixels of the output begin, from number ``row`` on."""
        k, kernel = self.k, self.kernel
        layout, target, strides = kernel.input, kernel.output, kernel.window.strides
        pitches = Pitches(
            target.batch,
            (target.height, target.width),
            layout.image_bytes,
            strides[0] * layout.row_bytes,
            strides[1] * layout.channel_stride,
        )
        channel = k.mul(group, layout.channels // kernel.groups)
        origin = k.add(channel, kernel.window.origin(layout))
        return [k.add(o, origin) for o in pitches.offsets(k, row, count, self._aligned(count))]

    def _aligned(self, height: int) -> int:
        """What the first row of every tile of ``height`` rows is a multiple of."""
        return 1 if self.taller else height

    def _sources(self, row: Index, block: Index, height: int, group: Index) -> Sources:
        k, plan = self.k, self.plan
        copied: list[Row] = []
        if self.scratch is not None:
            base = k.at(self.scratch, k.mul(k.sub(row, block), plan.scratch_row))
            copied = [Row(base, r * plan.scratch_row) for r in range(height)]
        if plan.source == "copy":
            return Sources(copied, copied)
        if plan.source == "taps":
            offsets = self._input_offsets(row, height, group)
            rows = [Row(k.at(k.operand("input"), offset)) for offset in offsets]
            return Sources(rows, copied)
        base = k.at(k.operand("input"), self._input_offset(row, group))
        return Sources([Row(base, r * plan.row_bytes) for r in range(height)], copied)

    # -- where results go ---------------------------------------------------------------------

    def _places(self, row: Index, height: int, column: _Column) -> list[Place]:
        k, kernel = self.k, self.kernel
        per_group = kernel.output.channels // kernel.groups
        first = k.mul(column.number, self.plan.schedule.vectors * self.isa.lanes)
        channel = k.add(k.mul(column.group, per_group), first)
        size, residual = kernel.epilogue.element_bytes, kernel.epilogue.residual
        targets = self._result_offsets(kernel.output, row, height, channel, size)
        addends: list[Index] = [0] * height
        if residual is not None:
            addends = self._result_offsets(residual, row, height, channel, 1)
        return [
            Place(
                k.at(k.operand("output"), target),
                None if residual is None else k.at(k.operand("residual"), addend),
                column.writable,
            )
            for target, addend in zip(targets, addends, strict=True)
        ]

    def _result_offsets(
        self, layout: ActivationLayout, row: Index, count: int, channel: Index, size: int
    ) -> list[Index]:
        """Where ``channel`` of ``count`` pixels from number ``row`` on lies in a result."""
        k = self.k
        first = k.add(k.mul(channel, size), layout.interior_offset * size)
        pitches = Pitches.of(layout, size)
        return [k.add(o, first) for o in pitches.offsets(k, row, count, self._aligned(count))]
