"""A depthwise convolution cut into blocks of channels and tiles; the layout of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.epilogue import Form, ParameterBlock, lane_channels
from qcc.backends.llvm.kernels.panels import byte_parts

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.depthwise import DepthwiseKernel


MOST_KEPT = 8
"""Vectors of columns that may stay in registers from pixel to pixel."""

MOST_PADDING = 1.12
"""How many times as many channels may be computed, for the sake of whole vectors."""


@dataclass(frozen=True)
class ChannelCut:
    """Blocks of channels that are computed together, the tile, and the layout of the weights.

    A block is ``vectors`` accumulator vectors.  Weights of a block:
    ``[kx][phase][row group][part][vector][lane][row in group]``, or ``[kx][ky][part][channel]``
    tap by tap.
    """

    kernel: DepthwiseKernel
    isa: InstructionSet

    @property
    def group(self) -> int:
        """Rows that one instruction adds."""
        return self.isa.group

    @property
    def by_taps(self) -> bool:
        """Whether rows are not interleaved (:mod:`depthwise_taps`)."""
        return self.isa.dot == "smull"

    @property
    def vectors(self) -> int:
        """Accumulator vectors of a block: those of one vector of bytes, or of half of one.

        Half of one is widened as it is loaded, which takes longer, but leaves registers for
        taller tiles.
        """
        if self.isa.dot != "vpmaddwd":
            return 4
        if self.kernel.window.strides[0] > 1:
            return 2
        whole, half = (-(-self.kernel.output.channels // (n * self.isa.lanes)) * n for n in (4, 2))
        return 4 if whole <= MOST_PADDING * half else 2

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.vectors * self.isa.lanes

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may be partly used."""
        return -(-self.kernel.output.channels // self.channels)

    @property
    def tile(self) -> tuple[int, int]:
        """Most rows and columns of output pixels of a tile.

        Tall tiles share interleaved rows, which dilated windows do not have in common.
        """
        if self.kernel.tile is not None:
            return self.kernel.tile
        kernel, strides = self.kernel.window.kernel, self.kernel.window.strides
        if self.kernel.window.dilations[0] > 1:
            return 1, 1
        if self.isa.dot == "vpmaddwd":
            # Measured on Zen 3: taller tiles pay where windows do not overlap much.
            return 2 * min(2, strides[0]), 1
        rows = 2 if strides[0] == 1 else 1
        if self.isa.architecture == "aarch64":
            # More pixels would not fit the registers: the sums of one take four.
            if kernel[1] > 3 and (strides[1] > 1 or self.by_taps):
                return 1, 1
            return (rows, 1) if strides[1] == 1 else (1, 2)
        room = 4 if self.isa.vector_registers >= 32 else 2
        few = kernel[1] > 3 or strides[1] > 1
        return rows, max(1, (room // 2 if few else room) // rows)

    def keeps_columns(self, rows: int) -> bool:
        """Whether neighbouring pixels of ``rows`` rows share columns in registers.

        Where a vector is small, making a column costs more than using it.
        """
        window = self.kernel.window
        if self.isa.architecture != "aarch64" or self.tile[1] > 1 or window.strides[1] > 1:
            return False
        if window.dilations != (1, 1):
            return False
        if not 1 < window.kernel[1] <= self.kernel.output.width:
            return False
        height = (rows - 1) * window.strides[0] + window.kernel[0]
        vectors = height if self.by_taps else -(-height // self.group) * self.vectors
        return (window.kernel[1] - 1) * vectors <= MOST_KEPT

    @property
    def phases(self) -> list[int]:
        """Row in its group of the first tap of output rows of a tile, each once."""
        stride = self.kernel.window.strides[0]
        return sorted({y * stride % self.group for y in range(self.tile[0])})

    @property
    def row_groups(self) -> int:
        """Most groups that one window covers, over all phases."""
        return -(-(max(self.phases) + self.kernel.window.kernel[0]) // self.group)

    @property
    def parts(self) -> int:
        """Bytes that make a weight; widened weights are whole int16."""
        return 1 if self.isa.dot == "vpmaddwd" else self.kernel.weight_parts

    @property
    def group_bytes(self) -> int:
        """Bytes of weights of one group of rows of a block, all parts."""
        return self.parts * self.vectors * self.isa.vector_bytes

    @property
    def column_bytes(self) -> int:
        """Bytes of weights of one column of taps of a block."""
        return len(self.phases) * self.row_groups * self.group_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of weights of a block."""
        if self.by_taps:
            kh, kw = self.kernel.window.kernel
            return kh * kw * self.kernel.weight_parts * self.channels
        return self.kernel.window.kernel[1] * self.column_bytes

    @property
    def parameters(self) -> ParameterBlock:
        """The constant operand of the epilogue."""
        return ParameterBlock(self.isa, self.blocks * self.vectors, self.kernel.epilogue)

    def spread(self, values: NDArray[Any], form: Form = "uint8") -> NDArray[Any]:
        """``[channels, ...]`` in lane order along axis 0, zero where there is no channel."""
        padded = np.zeros((self.blocks * self.channels, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        order = lane_channels(self.vectors, self.isa.lanes, form)
        starts = np.arange(self.blocks)[:, None] * self.channels
        spread: NDArray[Any] = padded[(starts + order).reshape(-1)]
        return spread

    def pack_weight(self, weight: NDArray[Any]) -> NDArray[np.uint8]:
        """``[C, 1, kh, kw]`` to the bytes of all blocks."""
        channels, _, kh, kw = weight.shape
        if self.by_taps:
            taps = self.spread(weight[:, 0].astype(np.int16))
            blocks = taps.reshape(self.blocks, self.channels, kh, kw).transpose(0, 3, 2, 1)
            split = np.stack(byte_parts(blocks, self.parts, self.isa.least_weight), axis=3)
            return np.frombuffer(split.astype(np.int8).tobytes(), np.uint8)
        phases = self.phases
        rows = np.zeros((channels, len(phases), self.row_groups * self.group, kw), np.int16)
        for i, phase in enumerate(phases):
            rows[:, i, phase : phase + kh] = weight[:, 0]
        lanes, groups = self.isa.lanes, (len(phases), self.row_groups, self.group)
        spread = self.spread(rows).reshape(self.blocks, self.vectors, lanes, *groups, kw)
        # [block, kx, phase, row group, vector, lane, row]
        ordered = spread.transpose(0, 6, 3, 4, 1, 2, 5)
        if self.isa.dot == "vpmaddwd":
            return np.frombuffer(ordered.astype(np.int16).tobytes(), np.uint8)
        parts = np.stack(byte_parts(ordered, self.parts, self.isa.least_weight), axis=4)
        return np.frombuffer(parts.astype(np.int8).tobytes(), np.uint8)
