"""Bytes to lanes and back: loads, widening, narrowing and byte transposition.

Element order is memory order everywhere; the in-lane order of the pack instructions is undone here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
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
from qcc.backends.llvm.kernels.epilogue import store_bytes

_SCALAR_TYPES: dict[str, tuple[str, Any, int]] = {
    "f32": ("float32", F32, 4),
    "i32": ("int32", I32, 4),
    "i16": ("int16", I16, 2),
    "u8": ("uint8", I8, 1),
}


@dataclass(frozen=True)
class Scalars:
    """A constant operand of a few numbers, four bytes each: ``(name, kind)`` in order.

    Kinds are ``f32``, ``i32``, ``i16`` and ``u8``.
    """

    fields: tuple[tuple[str, str], ...]

    def pack(self, **values: Any) -> NDArray[np.uint8]:
        """The bytes; one value for every field."""
        block = np.zeros((len(self.fields), 4), np.uint8)
        for row, (name, kind) in zip(block, self.fields, strict=True):
            dtype, _, size = _SCALAR_TYPES[kind]
            row[:size] = np.frombuffer(np.asarray(values.pop(name), dtype).tobytes(), np.uint8)
        if values:
            raise TypeError(f"unknown scalars: {', '.join(values)}")
        return block.ravel()

    def load(self, k: LoopBuilder, isa: InstructionSet, pointer: Value) -> dict[str, Value]:
        """Every field spread over a full vector of its kind."""
        result = {}
        for i, (name, kind) in enumerate(self.fields):
            _, type_, size = _SCALAR_TYPES[kind]
            scalar = k.load(type_, pointer, 4 * i, align=4)
            result[name] = k.splat(scalar, isa.vector_bytes // size)
        return result


def fused_multiply_add(k: LoopBuilder, a: Value, b: Value, c: Value) -> Value:
    """``a * b + c`` of float vectors, rounded once.

    The step of contracts 13 and 16; elsewhere only for formulas proved to give the contract's
    results.
    """
    name = f"llvm.fma.v{a.type.count}f32"
    found = k.module.globals.get(name)
    function = found or ir.Function(k.module, ir.FunctionType(a.type, [a.type] * 3), name)
    return k.ir.call(function, [a, b, c])


# -- loading ----------------------------------------------------------------------------------


def load_first(
    k: LoopBuilder, element: Any, lanes: int, pointer: Value, offset: Index, count: int
) -> Value:
    """A vector of ``lanes`` elements, the first ``count`` from memory and the others zero.

    Reads not a byte past the last element; ``lanes`` is a power of two.
    """
    whole = vector(element, lanes)
    if count >= lanes:
        return k.load(whole, pointer, offset)
    if count <= 0:
        return constant(whole, 0)
    if lanes == 1:
        return k.load(whole, pointer, offset)
    if element == I8 and lanes == 8:
        return k.ir.bitcast(_load_first_words(k, pointer, offset, count), whole)
    half = lanes // 2
    low = load_first(k, element, half, pointer, offset, count)
    size = 4 if element == F32 else element.width // 8
    high = load_first(k, element, half, pointer, k.add(offset, half * size), count - half)
    return k.shuffle(low, high, range(lanes))


def _load_first_words(k: LoopBuilder, pointer: Value, offset: Index, count: int) -> Value:
    """The first ``count`` (less than 8) bytes as two int32.

    (Vectors of less than 8 bytes are no types of AArch64; LLVM takes them apart byte by byte.)
    """
    words = constant(vector(I32, 2), 0)
    for i in range(-(-count // 4)):
        place, left = k.add(offset, 4 * i), count - 4 * i
        if left >= 4:
            word = k.load(I32, pointer, place)
        elif left == 1:
            word = k.ir.zext(k.load(I8, pointer, place), I32)
        else:
            word = k.ir.zext(k.load(I16, pointer, place), I32)
            if left == 3:
                last = k.ir.zext(k.load(I8, pointer, k.add(place, 2)), I32)
                word = k.ir.or_(word, k.ir.shl(last, constant(I32, 16)))
        words = k.ir.insert_element(words, word, constant(I32, i))
    return words


def load_floats(
    k: LoopBuilder, isa: InstructionSet, pointer: Value, offset: Index, count: int
) -> list[Value]:
    """``count`` float32 as vectors; reads not a byte past the last."""
    lanes = isa.lanes
    return [
        load_first(k, F32, lanes, pointer, k.add(offset, 4 * first), count - first)
        for first in range(0, count, lanes)
    ]


def load_words(
    k: LoopBuilder, isa: InstructionSet, pointer: Value, offset: Index, count: int
) -> list[Value]:
    """``count`` bytes zero-extended to int32 vectors; may read up to a vector past the last."""
    lanes, width = isa.lanes, isa.vector_bytes
    if isa.architecture == "aarch64":
        pieces = range(0, count, width)
        loaded = [k.load(vector(I8, width), pointer, k.add(offset, first)) for first in pieces]
        return [
            word
            for first, octets in zip(pieces, loaded, strict=True)
            for word in widen(k, isa, octets, min(width, count - first))
        ]
    return [
        k.ir.zext(k.load(vector(I8, lanes), pointer, k.add(offset, first)), vector(I32, lanes))
        for first in range(0, count, lanes)
    ]


def widen(k: LoopBuilder, isa: InstructionSet, octets: Value, count: int) -> list[Value]:
    """The first ``count`` bytes of a vector zero-extended to int32 vectors."""
    lanes = isa.lanes
    if isa.architecture == "aarch64" and octets.type.count == isa.vector_bytes:
        parts = range(-(-count // lanes))
        return [primitives.zero_extended_quarter(k, isa, octets, part) for part in parts]
    return [
        k.ir.zext(
            k.shuffle(octets, None, range(first, first + lanes))
            if octets.type.count > lanes
            else octets,
            vector(I32, lanes),
        )
        for first in range(0, count, lanes)
    ]


def to_floats(k: LoopBuilder, words: Sequence[Value]) -> list[Value]:
    """Int32 vectors converted to float32."""
    return [k.ir.sitofp(word, vector(F32, word.type.count)) for word in words]


# -- storing ----------------------------------------------------------------------------------


def store_floats(
    k: LoopBuilder, values: Sequence[Value], pointer: Value, offset: Index, count: int
) -> None:
    """Store the first ``count`` elements of float32 (or int32) vectors."""
    lanes = values[0].type.count
    for i, value in enumerate(values):
        octets = k.ir.bitcast(value, vector(I8, 4 * lanes))
        store_bytes(
            k, octets, pointer, k.add(offset, 4 * i * lanes), 4 * min(lanes, count - i * lanes)
        )


def narrow(
    k: LoopBuilder,
    isa: InstructionSet,
    words: Sequence[Value],
    zero_point: Value,
    low: Value,
    high: Value,
) -> Value:
    """Up to four int32 vectors to bytes ``clamp(word + zero_point, low, high)`` in memory order.

    Words are first saturated to int16, so they must be bounded only in sign; ``zero_point`` is an
    int16 vector, ``low`` and ``high`` byte vectors.
    """
    padded = [words[min(i, len(words) - 1)] for i in range(4)]
    halves = [
        primitives.add_saturating_int16(
            k, primitives.call(k, isa, "pack_to_int16", padded[i], padded[i + 1]), zero_point
        )
        for i in (0, 2)
    ]
    octets = primitives.call(k, isa, "pack_to_uint8", *halves)
    octets = primitives.integer_minmax(k, "umax", octets, low)
    octets = primitives.integer_minmax(k, "umin", octets, high)
    count = isa.lanes // 4
    if count == 1:
        return octets
    # Piece ``lane * 4 + i`` of the packs holds piece ``i * count + lane`` of the elements.
    order = [lane * 4 + i for i in range(4) for lane in range(count)]
    pieces = k.ir.bitcast(octets, vector(I32, len(order)))
    return k.ir.bitcast(k.shuffle(pieces, None, order), octets.type)


# -- transposition ----------------------------------------------------------------------------


def interleave(k: LoopBuilder, rows: Sequence[Value]) -> list[Value]:
    """Interleave ``g`` (a power of two) vectors within their 128-bit lanes.

    Lane ``l`` of the results, read one result after the other, holds element ``l * n`` of row 0,
    of row 1, ..., of row ``g - 1``, then element ``l * n + 1`` of every row, and so on (``n``
    elements a lane).  A network of perfect shuffles: log2(g) rounds of unpacks.
    """
    vectors = list(rows)
    half = len(vectors) // 2
    for _ in range(half.bit_length()):
        vectors = [
            primitives.unpack(k, vectors[i], vectors[i + half], high=high)
            for i in range(half)
            for high in (False, True)
        ]
    return vectors


def power_of_two(count: int) -> int:
    """The least power of two that is not below ``count``."""
    return 1 << max(0, count - 1).bit_length()
