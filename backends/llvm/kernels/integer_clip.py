"""Integers between two bounds: indices of a lookup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qcc.backends.llvm.builder import Index, LoopBuilder, constant, declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import WithoutConstants
from qcc.errors import ConfigError


@dataclass(frozen=True)
class IntegerClipKernel(WithoutConstants):
    """``min(max(x, low), high)`` of ``count`` dense signed integers of ``bits`` bits.

    Operands: ``source, target``, which may be the same.
    """

    count: int
    bits: Literal[32, 64]
    low: int
    high: int

    def __post_init__(self) -> None:
        limit = 1 << (self.bits - 1)
        if self.count < 1:
            raise ConfigError("A clip needs at least one element.")
        if not (-limit <= self.low < limit and -limit <= self.high < limit):
            raise ConfigError(f"The bounds of a clip must be int{self.bits}.")

    @property
    def name(self) -> str:
        """Such as ``clip_int32_2048``."""
        return f"clip_int{self.bits}_{self.count}"

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``; threads share out the elements."""
        k = LoopBuilder(declare_kernel(module, symbol, self.operands))
        source, target = k.operand("source"), k.operand("target")
        type_, size = k.integer(self.bits), self.bits // 8
        low, high = constant(type_, self.low), constant(type_, self.high)

        def one(index: Index) -> None:
            place = k.mul(index, size)
            value = k.load(type_, source, place, align=size)
            value = k.ir.select(k.ir.icmp_signed("<", value, low), low, value)
            value = k.ir.select(k.ir.icmp_signed(">", value, high), high, value)
            k.store(value, target, place, align=size)

        begin, end = k.thread_range(self.count)
        k.loop(begin, end, one, name="elements")
        return k.finish()
