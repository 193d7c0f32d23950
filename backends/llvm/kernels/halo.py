"""Fill the halo of an activation with its zero point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qcc.backends.llvm.builder import I8, Index, LoopBuilder, Value, declare_kernel, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.epilogue import store_bytes
from qcc.errors import ConfigError


@dataclass(frozen=True)
class FillHaloKernel:
    """Write the zero point to every halo byte of ``output``.  Operands: ``value, output``."""

    output: ActivationLayout

    def __post_init__(self) -> None:
        if not self.output.has_halo:
            raise ConfigError(f"The layout {self.output} has no halo to fill.")

    @property
    def name(self) -> str:
        """Such as ``halo_1x56x56x64``."""
        o = self.output
        return f"halo_{o.batch}x{o.height}x{o.width}x{o.channels}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("value", "output")

    def pack(self, isa: InstructionSet, *, zero_point: int) -> Packed:
        """The zero point (uint8), spread over a vector."""
        return {"value": np.full(isa.vector_bytes, zero_point, np.uint8)}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``; threads share out physical rows."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        layout = self.output
        value = k.load(vector(I8, isa.vector_bytes), k.operand("value"), align=isa.vector_bytes)
        left = layout.halo_left * layout.channel_stride
        right = layout.halo_right * layout.channel_stride
        inside = layout.width * layout.channel_stride

        def row(number: Index) -> None:
            pointer = k.at(k.operand("output"), k.mul(number, layout.row_bytes))
            y = k.index(k.sub(k.index(k.mod(number, layout.rows)), layout.halo_top))
            outside = k.ir.icmp_unsigned(">=", y, k.index(layout.height))
            with k.ir.if_else(outside) as (whole, sides):
                with whole:
                    _fill(k, value, pointer, layout.row_bytes)
                with sides:
                    _fill(k, value, pointer, left)
                    _fill(k, value, k.at(pointer, left + inside), right)

        begin, end = k.thread_range(layout.batch * layout.rows)
        k.loop(begin, end, row, name="halo.rows")
        return k.finish()


def _fill(k: LoopBuilder, value: Value, pointer: Value, count: int) -> None:
    """Store ``count`` bytes (known now) of a vector of equal bytes."""
    size = value.type.count
    whole = count // size * size
    k.loop(0, whole, lambda i: k.store(value, pointer, i), step=size, name="halo.fill")
    store_bytes(k, value, pointer, whole, count - whole)
