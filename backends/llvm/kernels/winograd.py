"""Convolutions of 3 by 3 taps with four ninths of the multiplications, exactly.

Two by two outputs are computed at once in a transformed domain,

    Y = A^T [(G g G^T) * (B^T d B)] A

(Winograd's F(2x2, 3x3) in the form of Lavin and Gray 2016, arXiv:1509.09308).  ``B`` and ``A`` hold
only 0, 1 and -1, and ``G`` only halves, so ``2G`` makes everything whole: transformed activations
and weights fit 16 bits, the sums are int32, and the result is exactly four times the accumulator.
Intermediate sums may wrap around: only that result has to fit (contract 2 with 2^29).

It pays where 16-bit multiplications run at half the rate of 8-bit ones or better, that is on CPUs
without VNNI, and where there are enough channels to carry the transforms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.builder import declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.conv_plan import ConvPlan
from qcc.backends.llvm.kernels.epilogue import ParameterBlock
from qcc.backends.llvm.kernels.gemm import Walk
from qcc.backends.llvm.kernels.panels import Panels
from qcc.backends.llvm.kernels.weighted import channel_constants, operand_names
from qcc.backends.llvm.kernels.winograd_code import WinogradWriter
from qcc.backends.llvm.schedule import GemmSchedule
from qcc.backends.llvm.winograd_schedule import POSITIONS, WinogradShape

if TYPE_CHECKING:
    from qcc.backends.llvm.kernels.activation import ActivationLayout
    from qcc.backends.llvm.kernels.conv import ConvKernel
    from qcc.backends.llvm.kernels.epilogue import Epilogue
    from qcc.backends.llvm.kernels.window import Window

TWICE_G = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
"""Twice the transform of the taps."""


LEAST_GAIN = 1.05
"""How many times as long a direct convolution has to take by the cost models."""

LEAST_TILES = 4
"""Fewer tiles leave most rows of a register tile empty."""


def transformed_weights(weight: NDArray[Any]) -> NDArray[np.int16]:
    """``4 G g G^T`` of int8 weights ``[O, C, 3, 3]``: int16 ``[16, O, C]``."""
    made = np.einsum("ik,ockl,jl->ijoc", TWICE_G, np.asarray(weight, np.int64), TWICE_G)
    return np.asarray(made.reshape(POSITIONS, *weight.shape[:2]), np.int16)


@dataclass(frozen=True)
class WinogradKernel:
    """The convolution ``direct`` (3 by 3 taps, stride 1) in the transformed domain.

    Operands as those of ``direct``: ``input, weight, parameters, [residual,] output``.
    """

    direct: ConvKernel

    @property
    def name(self) -> str:
        """Such as ``winograd_1x56x56x64_64``."""
        i = self.input
        return f"winograd_{i.batch}x{i.height}x{i.width}x{i.channels}_{self.output.channels}"

    @property
    def input(self) -> ActivationLayout:
        """What is read."""
        return self.direct.input

    @property
    def output(self) -> ActivationLayout:
        """What is written."""
        return self.direct.output

    @property
    def window(self) -> Window:
        """How output pixels look at input pixels."""
        return self.direct.window

    @property
    def epilogue(self) -> Epilogue:
        """What becomes of the accumulators."""
        return self.direct.epilogue

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return operand_names(self.epilogue)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolution, not of the transformed one."""
        return self.direct.macs

    @property
    def shape(self) -> WinogradShape:
        """What the cost model looks at."""
        o = self.output
        tiles = o.batch * -(-o.height // 2) * -(-o.width // 2)
        return WinogradShape(tiles, self.input.channels, o.channels)

    def cut(self, isa: InstructionSet) -> GemmSchedule:
        """How the matrix products are cut."""
        return self.shape.schedule(isa)

    def gains(self, isa: InstructionSet) -> bool:
        """Whether the cost models think that it is faster than the direct convolution."""
        if self.shape.tiles < LEAST_TILES:
            return False
        return ConvPlan.of(self.direct, isa).cycles >= LEAST_GAIN * self.shape.cycles(isa)

    def panels(self, isa: InstructionSet) -> Panels:
        """How the weights of one position are stored."""
        vectors, quads = self.cut(isa).vectors, self.walk.quads
        form = self.epilogue.form
        return Panels(isa, "widened", 2, quads, self.output.channels, vectors, form)

    @property
    def walk(self) -> Walk:
        """The products of a row: one for each channel."""
        return Walk(-(-self.input.channels // 4))

    def pack(
        self,
        isa: InstructionSet,
        *,
        weight: Any,
        multiplier: Any,
        input_zero_point: int,
        bias: Any | None = None,
        output_zero_point: int = 0,
        low: int = 0,
        high: int = 255,
        residual_zero_point: int = 0,
        residual_multiplier: float = 0.0,
        table: Any | None = None,
    ) -> Packed:
        """Pack ``weight`` int ``[O, C, 3, 3]`` and the epilogue's constants (as ConvKernel)."""
        weights, panels = np.asarray(weight), self.panels(isa)
        start, scale = channel_constants(weights, bias, multiplier, input_zero_point, isa)
        block = ParameterBlock(isa, panels.vectors, self.epilogue)
        parameters = block.pack(
            panels.spread(start),
            panels.spread(scale),
            output_zero_point=output_zero_point,
            low=low,
            high=high,
            residual_zero_point=residual_zero_point,
            residual_multiplier=residual_multiplier,
            table=table,
        )
        depth = 4 * self.walk.quads
        rows = np.zeros((POSITIONS, len(weights), depth), np.int16)
        rows[..., : weights.shape[1]] = transformed_weights(weights)
        packed = np.concatenate([panels.pack(matrix, self.walk.offsets()) for matrix in rows])
        return {"weight": packed, "parameters": parameters}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        return WinogradWriter(self, isa, declare_kernel(module, symbol, self.operands)).write()


def in_winograd_domain(
    kernel: ConvKernel, weight: Any, isa: InstructionSet
) -> WinogradKernel | None:
    """``kernel`` in the transformed domain, where that is possible and exact on ``isa``.

    ``weight`` int ``[O, C, 3, 3]``.
    """
    return WinogradKernel(kernel) if can_transform(kernel, weight, isa) else None


def can_transform(kernel: ConvKernel, weight: Any, isa: InstructionSet) -> bool:
    """Whether ``kernel`` can be computed in the transformed domain on ``isa``, exactly."""
    if not kernel.window.fits_winograd(isa) or kernel.groups > 1 or kernel.weight_parts > 1:
        return False
    if not _covers(kernel) or not WinogradKernel(kernel).shape.fits_stack(isa):
        return False
    # What is found times 4 is the sum without bias, of activations that have their zero point.
    return numerics.accumulator_bound(np.asarray(weight), None, 0, 255, 0) < 2**29


def _covers(kernel: ConvKernel) -> bool:
    """Whether the input with its halo holds all that whole tiles look at."""
    i, o, pads = kernel.input, kernel.output, kernel.window.pads
    down, right = i.height + i.halo_bottom + pads[0], i.width + i.halo_right + pads[1]
    return down >= -(-o.height // 2) * 2 + 2 and right >= -(-o.width // 2) * 2 + 2
