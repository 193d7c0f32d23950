"""Tables of 256 bytes in registers: how they are stored and how bytes are looked up.

On x86 a table is looked up 16 entries at a time, 16 times.  ``pshufb`` gives 0 where bit 7 of an
index is set and looks at the low 4 bits otherwise; an index from which 16 has been subtracted
``p`` times with saturation has bit 7 set exactly when it was below ``16 p``.  So with part ``p``
holding the exclusive or of the table's parts ``p`` and ``p - 1``, the exclusive or of all lookups
telescopes to the entry: three instructions a part.  The upper half of the table starts anew with
bit 7 flipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import I8, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.isa import InstructionSet


def packed_table(isa: InstructionSet, table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The table in the form that :func:`lookup` reads: 256 bytes."""
    if isa.architecture != "x86_64":
        return table
    parts = table.reshape(2, 8, 16)
    chained = parts.copy()
    chained[:, 1:] ^= parts[:, :-1]
    return np.asarray(chained.reshape(256))


def lookup(
    k: LoopBuilder, isa: InstructionSet, table: Value, indices: Sequence[Value]
) -> list[Value]:
    """``table[index]`` for every byte of several vectors; ``table`` is a :func:`packed_table`."""
    if isa.architecture != "x86_64":
        return [primitives.lookup_by_64(k, isa, table, index) for index in indices]
    type_ = indices[0].type
    lanes = type_.count // 16
    results = [constant(type_, 0)] * len(indices)
    for half in range(2):
        current = [k.ir.xor(index, constant(type_, -128)) if half else index for index in indices]
        for part in range(8):
            entries = k.load(vector(I8, 16), table, 128 * half + 16 * part, align=16)
            entries = k.shuffle(entries, None, list(range(16)) * lanes)
            for i in range(len(indices)):
                if part:
                    current[i] = _subtract_saturating(k, current[i], constant(type_, 16))
                found = primitives.call(k, isa, "lookup_16", entries, current[i])
                results[i] = k.ir.xor(results[i], found)
    return results


def _subtract_saturating(k: LoopBuilder, a: Value, b: Value) -> Value:
    """Signed saturating subtraction of bytes."""
    name = f"llvm.ssub.sat.v{a.type.count}i8"
    found = k.module.globals.get(name)
    function = found or ir.Function(k.module, ir.FunctionType(a.type, [a.type] * 2), name)
    return k.ir.call(function, [a, b])
