"""Any unary function of 8-bit tensors: a table of 256 bytes (contract 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.backends.llvm import primitives
from qcc.backends.llvm.builder import I8, Index, LoopBuilder, declare_kernel, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.byte_table import lookup, packed_table
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.backends.llvm.kernels.nest import Nest, View, activation_view, padded_sizes
from qcc.errors import ConfigError

UNROLL = 2
"""Vectors that share the loads of the table."""


def clamp_bounds(table: Any) -> tuple[int, int] | None:
    """``(low, high)`` when the table is ``clip(x, low, high)``, else None."""
    entries = np.asarray(table).astype(np.int64)
    low, high = int(entries.min()), int(entries.max())
    return (low, high) if np.array_equal(entries, np.clip(np.arange(256), low, high)) else None


@dataclass(frozen=True)
class LutKernel:
    """``target[index] = table[source[index]]`` for every index within ``sizes``.

    ``clamp``: the table only clamps (:func:`clamp_bounds`), which takes two instructions.  The
    target may be the source itself where the views are equal.  Operands: ``source, table, target``.
    """

    sizes: tuple[int, ...]
    source: View
    target: View
    clamp: bool = False

    def __post_init__(self) -> None:
        Nest(self.sizes, (self.source, self.target))

    @staticmethod
    def between(source: ActivationLayout, target: ActivationLayout, table: Any) -> LutKernel:
        """An activation to another layout of the same shape through a known table."""
        sizes = padded_sizes(source, target)
        clamp = clamp_bounds(table) is not None
        return LutKernel(sizes, activation_view(source), activation_view(target), clamp)

    @property
    def name(self) -> str:
        """Such as ``lut_1x56x56x64``."""
        kind = "clamp" if self.clamp else "lut"
        return f"{kind}_{'x'.join(map(str, self.sizes))}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("source", "table", "target")

    def pack(self, isa: InstructionSet, *, table: Any) -> Packed:
        """``table``: 256 integers in uint8 units, indexed by the stored byte."""
        entries = np.asarray(table)
        if entries.shape != (256,):
            raise ConfigError(f"A lookup table has 256 entries, not shape {entries.shape}.")
        if not self.clamp:
            return {"table": packed_table(isa, entries.astype(np.uint8))}
        bounds = clamp_bounds(entries)
        if bounds is None:
            raise ConfigError("The table does more than clamp; make the kernel without clamp.")
        size = isa.vector_bytes
        return {"table": np.concatenate([np.full(size, b, np.uint8) for b in bounds])}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        nest = Nest(self.sizes, (self.source, self.target)).merged((1, 1))
        source, table, target = (k.operand(name) for name in self.operands)
        width = isa.vector_bytes
        type_ = vector(I8, width)

        def piece(offsets: Sequence[Index], first: Index, count: int) -> None:
            start, place = k.add(offsets[0], first), k.add(offsets[1], first)
            pieces = range(0, count, width)
            values = [k.load(type_, source, k.add(start, i)) for i in pieces]
            if self.clamp:
                low, high = (k.load(type_, table, i * width, align=width) for i in range(2))
                values = [primitives.integer_minmax(k, "umax", v, low) for v in values]
                values = [primitives.integer_minmax(k, "umin", v, high) for v in values]
            else:
                values = lookup(k, isa, table, values)
            for i, value in zip(pieces, values, strict=True):
                store_bytes(k, value, target, k.add(place, i), min(width, count - i))

        nest.write(k, UNROLL * width, piece)
        return k.finish()
