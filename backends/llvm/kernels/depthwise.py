"""Depthwise convolution: one filter a channel, vectors across channels.

The rows of one input column are interleaved in groups, so that the multiply-accumulate instruction
adds the taps of a group within a lane: four rows of bytes for the dot products, two rows of bytes
with zeros between them for ``vpmaddwd``.  An interleaved group serves every output pixel of the
tile that touches it: pixels below each other see the same groups with their taps shifted (a
*phase*), pixels beside each other see the same columns.  The interleave leaves channels in exactly
the order that the epilogue's packs undo (``epilogue.lane_channels``).

ARMv8.0, which has no dot product, goes tap by tap instead (``depthwise_taps.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcc.backends.llvm.builder import declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.depthwise_code import DepthwiseWriter
from qcc.backends.llvm.kernels.depthwise_cut import ChannelCut
from qcc.backends.llvm.kernels.epilogue import Epilogue, Form
from qcc.backends.llvm.kernels.panels import parts_needed
from qcc.backends.llvm.kernels.weighted import (
    channel_constants,
    epilogue_for,
    operand_names,
)
from qcc.backends.llvm.kernels.window import Window
from qcc.errors import ConfigError


@dataclass(frozen=True)
class DepthwiseKernel:
    """Depthwise convolution ``[N,C,H,W] * [C,1,kh,kw]`` over physical NHWC uint8 activations.

    ``weight_parts`` as in :class:`~qcc.backends.llvm.kernels.conv.ConvKernel`; ``tile`` overrides
    how many rows and columns of output pixels are computed together (rows must be 1 for dilated
    windows).  Operands: ``input, weight, parameters, [residual,] output``.
    """

    input: ActivationLayout
    output: ActivationLayout
    window: Window = field(default_factory=Window)
    epilogue: Epilogue = field(default_factory=Epilogue)
    weight_parts: int = 1
    tile: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.window.check(self.input, self.output)
        if self.input.channels != self.output.channels:
            raise ConfigError(
                "A depthwise kernel keeps the number of channels; use a grouped convolution for "
                f"{self.input.channels} to {self.output.channels} channels."
            )

    @property
    def name(self) -> str:
        """Such as ``depthwise_1x56x56x64_k3x3_s1x1``."""
        i, w = self.input, self.window
        shape = f"{i.batch}x{i.height}x{i.width}x{i.channels}"
        return f"depthwise_{shape}_k{w.kernel[0]}x{w.kernel[1]}_s{w.strides[0]}x{w.strides[1]}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return operand_names(self.epilogue)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call, padding not counted."""
        o, taps = self.output, self.window.kernel[0] * self.window.kernel[1]
        return o.batch * o.height * o.width * o.channels * taps

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
        """Pack ``weight`` int ``[C, 1, kh, kw]``; other constants as for a convolution."""
        weights, channels = np.asarray(weight), self.output.channels
        if weights.shape != (channels, 1, *self.window.kernel):
            raise ConfigError(
                f"The weight has shape {weights.shape}; the kernel needs "
                f"{(channels, 1, *self.window.kernel)}."
            )
        needed = parts_needed(weights, isa.least_weight)
        if needed > self.weight_parts:
            raise ConfigError(f"The weights need weight_parts={needed}.")
        cut = ChannelCut(self, isa)
        start, scale = channel_constants(weights, bias, multiplier, input_zero_point, isa)
        parameters = cut.parameters.pack(
            cut.spread(start, self.epilogue.form),
            cut.spread(scale, self.epilogue.form),
            output_zero_point=output_zero_point,
            low=low,
            high=high,
            residual_zero_point=residual_zero_point,
            residual_multiplier=residual_multiplier,
            table=table,
        )
        return {"weight": cut.pack_weight(weights), "parameters": parameters}

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``; threads share out rows and channel blocks."""
        return DepthwiseWriter(self, isa, declare_kernel(module, symbol, self.operands)).write()


def depthwise_kernel(
    source: ActivationLayout,
    target: ActivationLayout,
    weight: Any,
    *,
    multiplier: Any,
    input_zero_point: int,
    bias: Any | None = None,
    window: Window | None = None,
    form: Form = "uint8",
    residual: ActivationLayout | None = None,
    residual_multiplier: float = 0.0,
    table: bool = False,
    shifted: bool = True,
    clamped: bool = True,
    least_weight: int = -128,
) -> DepthwiseKernel:
    """The specification for real constants: ``weight`` int ``[C, 1, kh, kw]``.

    ``shifted`` and ``clamped`` as in :class:`Epilogue`; ``least_weight`` is that of the
    instruction set.

    Raises :class:`ConfigError` when an accumulator can leave int32 (contract 2).
    """
    weights = np.asarray(weight)
    epilogue = epilogue_for(
        weights,
        bias,
        multiplier,
        input_zero_point,
        form=form,
        residual=residual,
        residual_multiplier=residual_multiplier,
        table=table,
        shifted=shifted,
        clamped=clamped,
    )
    return DepthwiseKernel(
        input=source,
        output=target,
        window=window or Window(weights.shape[2:]),
        epilogue=epilogue,
        weight_parts=parts_needed(weights, least_weight),
    )
