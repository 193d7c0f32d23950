"""float32 products of a tile on AArch64, in the pipelined loop of ``vector_loop.py``."""

from __future__ import annotations

from collections.abc import Sequence

from qcc.backends.llvm.builder import F32, LoopBuilder, Value, vector
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.lanes import fused_multiply_add
from qcc.backends.llvm.kernels.vector_loop import Row, Step, VectorLoop

TURN = 4
"""Products of a turn."""


class VectorFloats(VectorLoop):
    """Fused multiply-adds of four floats by a lane of activations, in ascending order."""

    def __init__(
        self,
        k: LoopBuilder,
        isa: InstructionSet,
        rows: Sequence[Row],
        weights: Value,
        vectors: int,
    ) -> None:
        together = {1: 4, 2: 2}.get(len(rows), 1)
        super().__init__(k, isa, vector(F32, 4), rows, weights, vectors, together, exact=True)

    def picked(self, step: Step, activations: Sequence[Value]) -> Sequence[Value]:
        """A lane of each row."""
        return [self.k.shuffle(a, None, [step.group] * 4) for a in activations]

    def multiply(
        self, row: int, picked: Sequence[Value], weights: Value, accumulator: Value
    ) -> Value:
        """One fused multiply-add."""
        return fused_multiply_add(self.k, picked[row], weights, accumulator)
