"""How the weights of a matrix product are stored: column tiles in the order of the inner loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.epilogue import Form, lane_channels
from qcc.backends.llvm.kernels.pairing import lane_sums, partners, safe_groups
from qcc.backends.llvm.schedule import Inner


@dataclass(frozen=True)
class Panels:
    """How the weights of one group are stored: column tiles of ``schedule.vectors`` vectors.

    A tile holds, for every group of products, ``parts`` times ``vectors`` vectors of weights;
    ``parts`` > 1 means that a weight is the sum of several bytes (dot products) or an int16
    (widened products).  ``paired``: partners are sought where groups are sorted.
    """

    isa: InstructionSet
    inner: Inner
    parts: int
    quads: int
    channels: int
    tile_vectors: int
    form: Form
    paired: bool = False

    @property
    def sorted(self) -> bool:
        """Whether every column tile has its own order of groups, in a table."""
        return self.inner in ("partners", "mixed")

    @property
    def vectors(self) -> int:
        """Accumulator vectors that hold all channels."""
        return -(-self.channels // self.isa.lanes)

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """``(first vector, vectors)`` of every column tile; only the last may be narrower."""
        return [
            (first, min(self.tile_vectors, self.vectors - first))
            for first in range(0, self.vectors, self.tile_vectors)
        ]

    @property
    def quad_bytes(self) -> int:
        """Bytes of weights of one vector and one group of four products, all parts."""
        if self.inner == "widened":
            return self.isa.vector_bytes * (2 if self.parts > 1 else 1)
        return self.isa.vector_bytes * self.parts

    @property
    def vector_bytes(self) -> int:
        """Bytes of weights of one accumulator vector."""
        return self.quads * self.quad_bytes

    @property
    def table_bytes(self) -> int:
        """Bytes of the offsets of one column tile: two counts, then one entry a turn at most."""
        return _rounded_to_64(8 + 8 * self.quads) if self.sorted else 0

    @property
    def tables_offset(self) -> int:
        """Where the offset tables begin, after the weights."""
        return _rounded_to_64(self.vectors * self.vector_bytes)

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights and tables of one group."""
        return self.tables_offset + len(self.tiles) * self.table_bytes

    def channel_order(self) -> NDArray[np.intp]:
        """Channel of every accumulator lane, ``vectors * lanes`` long; may pass ``channels``."""
        lanes = self.isa.lanes
        return np.concatenate(
            [first * lanes + lane_channels(n, lanes, self.form) for first, n in self.tiles]
        )

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """``[channels, ...]`` in lane order along axis 0, zero where there is no channel."""
        padded = np.zeros((self.vectors * self.isa.lanes, *values.shape[1:]), values.dtype)
        padded[: len(values)] = values
        return padded[self.channel_order()]

    def pack(self, weight: NDArray[np.integer], offsets: NDArray[np.int32]) -> NDArray[np.uint8]:
        """``[channels, 4 * quads]`` integers to bytes in the order the inner loop reads them.

        ``offsets`` are those of the walk (:meth:`Walk.offsets`).
        """
        spread = self.spread(weight.astype(np.int16)).reshape(
            self.vectors, self.isa.lanes, self.quads, 4
        )
        write = {
            "dot": self._pack_bytes,
            "long": self._pack_long,
            "matrix": self._pack_matrix,
            "pairs": self._pack_bytes,
            "widened": self._pack_widened,
        }
        orders = self._orders(spread) if self.sorted else []
        packed = np.zeros(self.size_bytes, np.uint8)
        for number, (first, count) in enumerate(self.tiles):
            # [group of products, vector, lane, product in group]
            tile = spread[first : first + count].transpose(2, 0, 1, 3)
            begin = first * self.vector_bytes
            if not self.sorted:
                panel = write[self.inner](tile)
            else:
                order = orders[number]
                byte_groups = np.concatenate([order.together, order.alone])
                panel = np.concatenate(
                    [self._pack_bytes(tile[byte_groups]), self._pack_widened(tile[order.unsafe])]
                )
                table = order.table(offsets).view(np.uint8)
                place = self.tables_offset + number * self.table_bytes
                packed[place : place + table.size] = table
            packed[begin : begin + panel.size] = panel.reshape(-1)
        return packed

    def _orders(self, spread: NDArray[np.int16]) -> list[_Order]:
        """The order of groups of each column tile; ``spread`` is ``[vector, lane, group, 4]``."""
        orders = []
        whole = [first for first, count in self.tiles if count == self.tile_vectors]
        rest = [tile for tile in self.tiles if tile[1] != self.tile_vectors]
        for firsts, count in ((whole, self.tile_vectors), *(([f], n) for f, n in rest)):
            if not firsts:
                continue
            tiles = np.stack([spread[first : first + count] for first in firsts])
            sums = lane_sums(tiles.reshape(len(firsts), -1, self.quads, 4))
            safe = safe_groups(sums)
            found = partners(sums) if self.paired else np.full(safe.shape, -1, np.int32)
            orders += [_Order.of(s, f) for s, f in zip(safe, found, strict=True)]
        return orders

    def _pack_bytes(self, tile: NDArray[np.int16]) -> NDArray[np.uint8]:
        parts = np.stack(byte_parts(tile, self.parts, self.isa.least_weight), axis=1)
        return np.frombuffer(parts.astype(np.int8).tobytes(), np.uint8)

    def _pack_long(self, tile: NDArray[np.int16]) -> NDArray[np.uint8]:
        """Weights 0 and 1 of each group of four for all lanes, then 2 and 3."""
        quads, vectors, lanes, _ = tile.shape
        halves = tile.reshape(quads, vectors, lanes, 2, 2).transpose(0, 1, 3, 2, 4)
        return self._pack_bytes(halves)

    def _pack_matrix(self, tile: NDArray[np.int16]) -> NDArray[np.uint8]:
        """Groups of eight: two lanes' weights make a vector."""
        quads, vectors, lanes, _ = tile.shape
        eights = tile.reshape(quads // 2, 2, vectors, lanes, 4).transpose(0, 2, 3, 1, 4)
        return self._pack_bytes(eights)

    def _pack_widened(self, tile: NDArray[np.int16]) -> NDArray[np.uint8]:
        quads, vectors, lanes, _ = tile.shape
        pairs = tile.reshape(quads, vectors, lanes, 2, 2).transpose(0, 3, 1, 2, 4)
        stored = pairs.astype(np.int16 if self.parts > 1 else np.int8)
        return np.frombuffer(stored.tobytes(), np.uint8)


@dataclass(frozen=True)
class _Order:
    """The groups of a column tile by how they are multiplied: partners follow each other."""

    together: NDArray[np.intp]
    alone: NDArray[np.intp]
    unsafe: NDArray[np.intp]

    @classmethod
    def of(cls, safe: NDArray[np.bool_], partner: NDArray[np.int32]) -> _Order:
        """From which groups are safe, and their partners (-1: none)."""
        groups = np.arange(len(safe))
        first = np.flatnonzero(groups < partner)
        together = np.stack([first, partner[first]], axis=1).reshape(-1).astype(np.intp)
        return cls(together, np.flatnonzero(safe & (partner < 0)), np.flatnonzero(~safe))

    def table(self, offsets: NDArray[np.int32]) -> NDArray[np.int32]:
        """Number of couples and of single groups; their offsets; the others' in widened rows."""
        counts = [len(self.together) // 2, len(self.alone)]
        pairs = self.unsafe[:, None] * 8 + np.array([0, 4])
        parts = [counts, offsets[self.together], offsets[self.alone], pairs.reshape(-1)]
        return np.concatenate(parts).astype(np.int32)


def _rounded_to_64(size: int) -> int:
    return -(-size // 64) * 64


def byte_parts(weight: NDArray[np.int16], parts: int, least: int = -128) -> list[NDArray[np.int16]]:
    """``parts`` arrays in ``[least, 127]`` that add up to ``weight``."""
    result, rest = [], weight
    for _ in range(parts):
        part = np.clip(rest, least, 127)
        result.append(part)
        rest = rest - part
    return result


def parts_needed(weight: NDArray[np.integer], least: int = -128) -> int:
    """How many bytes in ``[least, 127]`` must be added to make every weight."""
    high, depth = int(weight.max(initial=0)), -int(weight.min(initial=0))
    return max(1, -(-high // 127), -(-depth // -least))
