"""The end of every accumulating kernel: int32 accumulators to stored results, in registers.

Implements ``qcc.numerics.requantize`` (contract 4), and the float32 and int32 outputs.  Vectors are
narrowed four at a time ("a unit") with in-lane packs; which channel sits in which lane of an
accumulator is chosen at packing time so that bytes come out in memory order without a permutation
(:func:`lane_channels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import (
    F32,
    I8,
    I16,
    I32,
    Index,
    LoopBuilder,
    Value,
    constant,
    vector,
)
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.byte_table import lookup, packed_table
from qcc.errors import ConfigError

FLOAT_BOUND = 2.0**30
"""Bound at which ``numerics.round_saturate`` clamps before it converts to integers."""

Form = Literal["uint8", "float32", "int32"]


@dataclass(frozen=True)
class Epilogue:
    """What becomes of an accumulator.

    ``form``: ``uint8`` requantizes; ``float32`` stores ``float32(acc) * multiplier``; ``int32``
    stores the accumulator.  ``residual``: layout of a second uint8 input that is added before
    rounding.  ``table``: the clamped byte goes through a 256-entry table.  ``clamp_float``: the
    product can pass +-2^30, so it is clamped before it is converted (:func:`needs_float_clamp`).
    ``shifted``: the output zero point is not 0; ``clamped``: bounds are narrower than [0, 255].
    """

    form: Form = "uint8"
    residual: ActivationLayout | None = None
    table: bool = False
    clamp_float: bool = False
    shifted: bool = True
    clamped: bool = True

    def __post_init__(self) -> None:
        if self.form != "uint8" and (self.residual is not None or self.table):
            raise ConfigError(f"A kernel with {self.form} output takes no residual and no table.")

    @property
    def element_bytes(self) -> int:
        """Bytes of one stored element."""
        return 1 if self.form == "uint8" else 4


def needs_float_clamp(
    accumulator_bound: int, multiplier: Any, residual_multiplier: float = 0.0
) -> bool:
    """Whether ``|acc * m + (r - z_r) * m_r|`` can reach 2^30, given the largest ``|acc|``."""
    largest = float(np.max(np.abs(np.asarray(multiplier, np.float64)), initial=0.0))
    reach = accumulator_bound * largest + 255.0 * abs(float(residual_multiplier))
    # A margin for the float32 roundings; NaN (an infinite multiplier) also asks for the clamp.
    return not reach * 1.0001 < FLOAT_BOUND


def cut_vectors(count: int) -> list[tuple[int, int]]:
    """``count`` vectors of one row as ``(first, size)`` parts of 4, 2 or 1 vectors."""
    parts, first = [], 0
    for size in (4, 2, 1):
        while count - first >= size:
            parts.append((first, size))
            first += size
    return parts


def lane_channels(vectors: int, lanes: int, form: Form) -> NDArray[np.intp]:
    """Channel (within the tile) of every accumulator lane of ``vectors`` vectors, flat.

    For bytes, a part of ``p`` vectors holds in lane ``j`` of vector ``i`` the channel
    ``(j // 4) * 4 * p + 4 * i + j % 4``: the order that two in-lane packs undo.
    """
    if form != "uint8":
        return np.arange(vectors * lanes)
    lane = np.arange(lanes)
    order = [
        first * lanes + (lane // 4) * 4 * size + 4 * i + lane % 4
        for first, size in cut_vectors(vectors)
        for i in range(size)
    ]
    return np.concatenate(order)


@dataclass(frozen=True)
class ParameterBlock:
    """Layout of the constant operand ``parameters`` of a kernel with ``vectors`` vectors.

    Bias (int32) and multiplier (float32) of every accumulator lane in packed order, then scalars
    spread over a vector each, then the table.
    """

    isa: InstructionSet
    vectors: int
    epilogue: Epilogue

    @property
    def multiplier_offset(self) -> int:
        """Offset of the multipliers."""
        return self.vectors * self.isa.vector_bytes

    def scalar_offset(self, index: int) -> int:
        """Offset of scalar ``index``: zero point, low, high, residual zero point, multiplier."""
        return (2 * self.vectors + index) * self.isa.vector_bytes

    def pack(
        self,
        bias: NDArray[np.int32],
        multiplier: NDArray[np.float32],
        *,
        output_zero_point: int,
        low: int,
        high: int,
        residual_zero_point: int,
        residual_multiplier: float,
        table: Any,
    ) -> NDArray[np.uint8]:
        """The bytes; ``bias`` and ``multiplier`` already stand in lane order.

        Raises :class:`ConfigError` for constants that the epilogue says there are not.
        """
        if output_zero_point and not self.epilogue.shifted:
            raise ConfigError(f"This epilogue adds no zero point; {output_zero_point} was given.")
        if (low, high) != (0, 255) and not self.epilogue.clamped:
            raise ConfigError(f"This epilogue clamps to [0, 255] only, not to [{low}, {high}].")
        size = self.isa.vector_bytes
        parts: list[NDArray[Any]] = [
            bias.astype(np.int32),
            multiplier.astype(np.float32),
            np.full(size // 2, output_zero_point, np.int16),
            np.full(size, low, np.uint8),
            np.full(size, high, np.uint8),
            np.full(size // 4, residual_zero_point, np.int32),
            np.full(size // 4, residual_multiplier, np.float32),
        ]
        if self.epilogue.table:
            entries = np.asarray(table)
            if entries.shape != (256,):
                raise ConfigError("The table of a fused function must have 256 entries.")
            parts.append(packed_table(self.isa, entries.astype(np.uint8)))
        return np.concatenate([part.view(np.uint8) for part in parts])


@dataclass(frozen=True)
class Place:
    """Where one row of a tile goes: output and residual addresses, and how much may be written.

    ``writable`` counts elements from the tile's first channel.
    """

    output: Value
    residual: Value | None
    writable: int


class EpilogueWriter:
    """Writes the epilogue of tiles into the function that ``k`` builds."""

    def __init__(
        self, k: LoopBuilder, isa: InstructionSet, block: ParameterBlock, parameters: Value
    ) -> None:
        self.k, self.isa, self.block, self.parameters = k, isa, block, parameters
        self.epilogue = block.epilogue

    def bias(self, first_vector: Index, count: int) -> list[Value]:
        """Initial accumulators of ``count`` vectors."""
        return self._vectors(vector(I32, self.isa.lanes), 0, first_vector, count)

    def _vectors(self, type_: Any, offset: int, first: Index, count: int) -> list[Value]:
        size = self.isa.vector_bytes
        base = self.k.at(self.parameters, self.k.mul(first, size))
        return [self.k.load(type_, base, offset + i * size, align=size) for i in range(count)]

    def _scalar(self, index: int, element: Any, width: int) -> Value:
        type_ = vector(element, self.isa.vector_bytes * 8 // width)
        return self.k.load(
            type_, self.parameters, self.block.scalar_offset(index), align=self.isa.vector_bytes
        )

    def finish(
        self, rows: Sequence[Sequence[Value]], first_vector: Index, places: Sequence[Place]
    ) -> None:
        """Store a tile: ``rows[r][s]`` is vector ``s`` of row ``r``, ``places[r]`` its home."""
        if self.epilogue.form != "uint8":
            self._store_wide(rows, first_vector, places)
            return
        vectors = len(rows[0])
        for first, size in cut_vectors(vectors):
            together = 4 // size
            for r in range(0, len(rows), together):
                picked = range(r, min(r + together, len(rows)))
                accumulators = [rows[i][first + s] for i in picked for s in range(size)]
                self._unit(accumulators, first_vector, first, size, [places[i] for i in picked])

    def _multipliers(self, first_vector: Index, count: int) -> list[Value]:
        offset = self.block.multiplier_offset
        return self._vectors(vector(F32, self.isa.lanes), offset, first_vector, count)

    def _scaled(self, accumulator: Value, multiplier: Value) -> Value:
        k = self.k
        return k.ir.fmul(k.ir.sitofp(accumulator, vector(F32, self.isa.lanes)), multiplier)

    def _store_wide(
        self, rows: Sequence[Sequence[Value]], first_vector: Index, places: Sequence[Place]
    ) -> None:
        k, lanes = self.k, self.isa.lanes
        multipliers = self._multipliers(first_vector, len(rows[0]))
        for row, place in zip(rows, places, strict=True):
            for s, accumulator in enumerate(row):
                value = accumulator
                if self.epilogue.form == "float32":
                    value = self._scaled(accumulator, multipliers[s])
                value = k.ir.bitcast(value, vector(I8, 4 * lanes))
                count = 4 * max(0, min(lanes, place.writable - s * lanes))
                store_bytes(k, value, place.output, s * lanes * 4, count)

    def _unit(
        self,
        accumulators: list[Value],
        first_vector: Index,
        first: int,
        size: int,
        places: list[Place],
    ) -> None:
        """Requantize up to four vectors (``size`` of each place's row) and store them."""
        k, isa = self.k, self.isa
        lanes = isa.lanes
        multipliers = self._multipliers(k.add(first_vector, first), size)
        values = [self._scaled(a, multipliers[i % size]) for i, a in enumerate(accumulators)]
        if self.epilogue.residual is not None:
            addends = self._residual(first * lanes, size, places)
            values = [k.ir.fadd(v, a) for v, a in zip(values, addends, strict=False)]
        if self.epilogue.clamp_float:
            values = [primitives.clamp_float(k, v, FLOAT_BOUND) for v in values]
        words = [primitives.call(k, isa, "round_to_int", v) for v in values]
        octets = self.narrow(words)
        row_bytes = lanes * size
        octets = self._permuted(octets, unit_order(lanes, size))
        for i, place in enumerate(places):
            piece = k.shuffle(octets, None, range(i * row_bytes, (i + 1) * row_bytes))
            count = max(0, min(row_bytes, place.writable - first * lanes))
            store_bytes(k, piece, place.output, first * lanes, count)

    def narrow(self, words: Sequence[Value]) -> Value:
        """One to four int32 vectors (zero point not yet added) to clamped, looked-up bytes."""
        k, isa = self.k, self.isa
        padded = [words[min(i, len(words) - 1)] for i in range(4)]
        halves = [
            primitives.call(k, isa, "pack_to_int16", padded[i], padded[i + 1]) for i in (0, 2)
        ]
        if self.epilogue.shifted:
            zero_point = self._scalar(0, I16, 16)
            halves = [primitives.add_saturating_int16(k, half, zero_point) for half in halves]
        octets = primitives.call(k, isa, "pack_to_uint8", *halves)
        if self.epilogue.clamped:
            octets = primitives.integer_minmax(k, "umax", octets, self._scalar(1, I8, 8))
            octets = primitives.integer_minmax(k, "umin", octets, self._scalar(2, I8, 8))
        if not self.epilogue.table:
            return octets
        table = k.at(self.parameters, self.block.scalar_offset(5))
        return lookup(k, isa, table, [octets])[0]

    def _permuted(self, octets: Value, order: list[int]) -> Value:
        if order == list(range(len(order))):
            return octets
        k = self.k
        words = k.ir.bitcast(octets, vector(I32, len(order)))
        return k.ir.bitcast(k.shuffle(words, None, order), octets.type)

    def _residual(self, offset: int, size: int, places: list[Place]) -> list[Value]:
        """``float32(r - z_r) * m_r`` in the lane order of the unit's accumulators."""
        k, lanes = self.k, self.isa.lanes
        rows = [k.load(vector(I8, lanes * size), p.residual, offset) for p in places]
        rows = [rows[min(i, len(rows) - 1)] for i in range(4 // size)]
        while len(rows) > 1:
            rows = [k.join(rows[i], rows[i + 1]) for i in range(0, len(rows), 2)]
        order = unit_order(lanes, size)
        octets = self._permuted(rows[0], [order.index(i) for i in range(len(order))])
        return self.widen_residual(octets)

    def widen_residual(self, octets: Value) -> list[Value]:
        """Four float vectors from the bytes of a unit: the inverse of the in-lane packs."""
        k, lanes = self.k, self.isa.lanes
        zero = constant(octets.type, 0)
        zero_point = self._scalar(3, I32, 32)
        multiplier = self._scalar(4, F32, 32)
        result = []
        for high in (False, True):
            halves = k.ir.bitcast(
                primitives.unpack(k, octets, zero, high=high), vector(I16, 2 * lanes)
            )
            for upper in (False, True):
                none = constant(halves.type, 0)
                words = k.ir.bitcast(
                    primitives.unpack(k, halves, none, high=upper), vector(I32, lanes)
                )
                centred = k.ir.sitofp(k.ir.sub(words, zero_point), vector(F32, lanes))
                result.append(k.ir.fmul(centred, multiplier))
        return result


def unit_order(lanes: int, size: int) -> list[int]:
    """Order of a unit's 4-byte pieces that puts each of its rows' bytes side by side."""
    return [
        lane * 4 + row * size + i
        for row in range(4 // size)
        for lane in range(lanes // 4)
        for i in range(size)
    ]


def store_bytes(k: LoopBuilder, value: Value, pointer: Value, offset: Index, count: int) -> None:
    """Store the first ``count`` bytes of a byte vector, in as few pieces as possible."""
    done, width = 0, value.type.count
    while width:
        if count - done >= width:
            piece = value
            if width != value.type.count:
                piece = k.shuffle(value, None, range(done, done + width))
            if width < 16:
                from_bytes = {8: 64, 4: 32, 2: 16, 1: 8}[width]
                piece = k.ir.bitcast(piece, k.integer(from_bytes))
            k.store(piece, pointer, k.add(offset, done))
            done += width
        else:
            width //= 2
