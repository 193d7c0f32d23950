"""How an LSTM or GRU is cut: blocks of units, panels of weights, and what lies where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.builder import Index
from qcc.backends.llvm.isa import InstructionSet
from qcc.ref.recurrent import Recurrence

AHEAD_BYTES = 128 * 1024
"""Products of the input that are computed ahead: they should stay in the second-level cache."""

ROWS = 4
"""Rows of a tile of the input's products."""

_SPARE_REGISTERS = {"x86_64": 4, "aarch64": 8}
"""Registers besides the sums: factors, and columns, which x86 reads from memory as operands."""

_STATES = 5
"""Vectors of all units in the scratch memory: the state before and after a step, an LSTM's cell, a
GRU's update gate, and its state after the reset gate."""


@dataclass(frozen=True)
class Block:
    """A block of ``vectors`` vectors of units from unit ``first`` on, ``valid`` units of which
    exist; ``index`` counts blocks."""

    index: Index
    first: Index
    vectors: int
    valid: int


class Plan:
    """How units are cut into blocks, and what lies where.

    Columns of the input's products, and of the bias, lie block by block, in a block gate by gate.
    ``phases`` are the numbers of gates whose sums a block holds at once: two phases where a GRU's
    hidden gate needs the reset gates of all units.
    """

    def __init__(self, sizes: Recurrence, isa: InstructionSet) -> None:
        self.sizes, self.lanes = sizes, isa.lanes
        two = sizes.kind == "GRU" and not sizes.reset_after
        self.phases = (2, 1) if two else (sizes.gates,)
        self.budget = isa.vector_registers - _SPARE_REGISTERS[isa.architecture]
        self.vectors = -(-sizes.hidden // isa.lanes)
        self.block = self._block()
        self.whole = sizes.hidden // isa.lanes // self.block
        self.rest = self.vectors - self.whole * self.block
        self.padded = self.vectors * isa.lanes
        self.width = sizes.gates * self.padded
        self.tile_rows = min(ROWS, sizes.steps * sizes.batch)
        self.tile_vectors = max(1, self._tile_vectors(isa))
        row = 4 * self.width * sizes.batch
        self.chunk = min(sizes.steps, max(1, AHEAD_BYTES // row))
        self.state = 4 * self.padded * sizes.batch
        self.ahead = row * self.chunk
        self.scratch = self.ahead + _STATES * self.state

    def _tile_vectors(self, isa: InstructionSet) -> int:
        """Columns of a tile of the input's products: where a register holds each, fewer fit."""
        if isa.architecture == "x86_64":
            return self.budget // self.tile_rows
        return (isa.vector_registers - self.tile_rows) // (self.tile_rows + 1)

    def _block(self) -> int:
        """Vectors of units in a block: what fits, or a little less where then all are alike."""
        most = max(1, self.budget // max(self.phases))
        if most >= self.vectors:
            return self.vectors
        even = [n for n in range(most, most // 2, -1) if self.vectors % n == 0]
        return even[0] if even else most

    def blocks(self) -> list[tuple[int, int]]:
        """First unit and vectors of every block."""
        lanes, block = self.lanes, self.block
        found = [(i * block * lanes, block) for i in range(self.whole)]
        return [*found, (self.whole * block * lanes, self.rest)] if self.rest else found

    def columns(self, rows: NDArray[Any], gates: int) -> NDArray[np.float32]:
        """``[gates * H, K]`` as ``[K, columns]`` in the order of blocks, absent units 0."""
        depth = rows.shape[1]
        padded = np.zeros((gates, self.padded, depth), np.float32)
        padded[:, : self.sizes.hidden] = rows.reshape(gates, self.sizes.hidden, depth)
        parts = [
            padded[:, first : first + count * self.lanes].reshape(-1, depth)
            for first, count in self.blocks()
        ]
        return np.ascontiguousarray(np.concatenate(parts).T)

    def input_panels(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        """Panels of ``tile_vectors`` columns, in a panel one row an input."""
        columns = self.columns(weights, self.sizes.gates)
        step = self.tile_vectors * self.lanes
        panels = [columns[:, i : i + step].ravel() for i in range(0, self.width, step)]
        return np.concatenate(panels)

    def hidden_panels(self, hidden: NDArray[Any]) -> NDArray[np.float32]:
        """Phase after phase, block after block: in a block one row a unit of the state."""
        found, first = [], 0
        for gates in self.phases:
            rows = hidden[first * self.sizes.hidden : (first + gates) * self.sizes.hidden]
            columns, place = self.columns(rows, gates), 0
            for _, count in self.blocks():
                width = gates * count * self.lanes
                found.append(columns[:, place : place + width].ravel())
                place += width
            first += gates
        return np.concatenate(found)
