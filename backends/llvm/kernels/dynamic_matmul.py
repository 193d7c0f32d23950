"""Matrix product of two 8-bit activations (attention): the second operand is packed as it runs.

The columns of the result are cut into panels of four vectors, which :mod:`dynamic_matmul_code` (and
for AArch64 :mod:`dynamic_matmul_arm`) packs into scratch memory and multiplies.  Products of two
9-bit numbers leave room for every sum: the compiler has proved the accumulators' bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from qcc.backends.llvm.builder import declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.dynamic_matmul_arm import DotWriter, LongWriter
from qcc.backends.llvm.kernels.dynamic_matmul_code import VECTORS, PairWriter, ProductWriter
from qcc.backends.llvm.kernels.epilogue import Epilogue, ParameterBlock
from qcc.backends.llvm.kernels.nest import View
from qcc.errors import ConfigError

MAX_DEPTH = 2048
"""Longest inner dimension: a packed panel and a widened tile of rows must fit on the stack."""


@dataclass(frozen=True)
class DynamicMatmulKernel:
    """``output[m, n] = requantize(sum over k of (a - z_a)[m, k] * (b - z_b)[k, n])``, batched.

    ``batch`` are the leading sizes; the views have a stride for each of them (0 broadcasts), for
    the rows and for the columns, in bytes; columns lie side by side.  Operands: ``a, b, parameters,
    output``.
    """

    batch: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    a: View
    b: View
    output: View
    epilogue: Epilogue = field(default_factory=Epilogue)

    def __post_init__(self) -> None:
        rank = len(self.batch) + 2
        if any(len(view.strides) != rank for view in (self.a, self.b, self.output)):
            raise ConfigError(f"The views of a matrix product need {rank} strides.")
        element = self.epilogue.element_bytes
        if (self.a.strides[-1], self.b.strides[-1], self.output.strides[-1]) != (1, 1, element):
            raise ConfigError("The columns of a matrix product's operands must lie side by side.")
        if self.depth > MAX_DEPTH:
            raise ConfigError(
                f"A product of activations over {self.depth} elements is not supported; "
                f"keep it in float (the limit is {MAX_DEPTH})."
            )
        if self.epilogue.residual is not None or self.epilogue.table:
            raise ConfigError("A product of activations takes no residual and no table.")

    @property
    def name(self) -> str:
        """Such as ``matmul_12x64x32x64``."""
        return f"matmul_{prod(self.batch)}x{self.rows}x{self.depth}x{self.columns}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return ("a", "b", "parameters", "output")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return prod(self.batch) * self.rows * self.depth * self.columns

    def pack(
        self,
        isa: InstructionSet,
        *,
        multiplier: float,
        a_zero_point: int,
        b_zero_point: int,
        output_zero_point: int = 0,
        low: int = 0,
        high: int = 255,
    ) -> Packed:
        """The numbers of the three quantizations, in stored uint8 units."""
        lanes = VECTORS * isa.lanes
        block = self.block(isa).pack(
            np.zeros(lanes, np.int32),
            np.full(lanes, multiplier, np.float32),
            output_zero_point=output_zero_point,
            low=low,
            high=high,
            residual_zero_point=0,
            residual_multiplier=0.0,
            table=None,
        )
        vectors = writer_for(isa).constants(isa, self.depth, a_zero_point, b_zero_point)
        return {"parameters": np.concatenate([*vectors, block])}

    def block(self, isa: InstructionSet) -> ParameterBlock:
        """How the epilogue's numbers lie, behind the writer's own."""
        return ParameterBlock(isa, VECTORS, self.epilogue)

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function; threads share out panels, and rows where those are few."""
        writer = writer_for(isa)
        return writer(self, isa, declare_kernel(module, symbol, self.operands)).write()


def writer_for(isa: InstructionSet) -> type[ProductWriter]:
    """Who writes the code of products for ``isa``."""
    if isa.architecture == "x86_64":
        return PairWriter
    return LongWriter if isa.dot == "smull" else DotWriter
