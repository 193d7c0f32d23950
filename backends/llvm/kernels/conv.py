"""Convolution and matrix product over 8-bit activations: implicit GEMM with a fused epilogue.

A pointwise convolution of stride 1 reads its activations in place.  Other convolutions either walk
the taps of each output pixel in place or, where the inner loop wants another form, copy the taps of
a block of output pixels into scratch memory that stays in cache (``conv_plan.Source``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.builder import declare_kernel
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv_code import ConvWriter
from qcc.backends.llvm.kernels.conv_plan import ConvPlan, weight_matrix
from qcc.backends.llvm.kernels.epilogue import Epilogue, Form, ParameterBlock
from qcc.backends.llvm.kernels.pairing import lane_sums, paired_share, safe_groups
from qcc.backends.llvm.kernels.panels import parts_needed
from qcc.backends.llvm.kernels.weighted import channel_constants, epilogue_for, operand_names
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.schedule import GemmSchedule
from qcc.errors import ConfigError


@dataclass(frozen=True)
class ConvKernel:
    """Convolution ``[N,C,H,W] * [O,C/groups,kh,kw]`` over physical NHWC uint8 activations.

    ``weight_parts``: how many bytes make a weight (1 when all weights fit int8).
    ``safe_pairs``: the weights allow ``vpmaddubsw`` without saturation (:func:`has_safe_pairs`).
    ``partners``: share of the weights' groups of four that find a partner (``pairing.py``) in
    column tiles of 1, 2, ... vectors; empty where none are sought.  ``schedule`` overrides the
    cost model.  The residual, if any, has the output's shape.
    Operands: ``input, weight, parameters, [residual,] output``.
    """

    input: ActivationLayout
    output: ActivationLayout
    window: Window = field(default_factory=Window)
    groups: int = 1
    epilogue: Epilogue = field(default_factory=Epilogue)
    weight_parts: int = 1
    safe_pairs: bool = False
    partners: tuple[float, ...] = ()
    schedule: GemmSchedule | None = None

    def __post_init__(self) -> None:
        self.window.check(self.input, self.output)
        if self.input.channels % self.groups or self.output.channels % self.groups:
            raise ConfigError(
                f"{self.input.channels} input and {self.output.channels} output channels cannot be "
                f"divided into {self.groups} groups."
            )
        residual = self.epilogue.residual
        if residual is not None and _shape(residual) != _shape(self.output):
            raise ConfigError("The residual must have the shape of the convolution's output.")

    @property
    def name(self) -> str:
        """Such as ``conv_1x56x56x64_64_k3x3_s1x1``."""
        i, w = self.input, self.window
        shape = f"{i.batch}x{i.height}x{i.width}x{i.channels}_{self.output.channels}"
        taps = f"k{w.kernel[0]}x{w.kernel[1]}_s{w.strides[0]}x{w.strides[1]}"
        return f"conv_{shape}_{taps}" + (f"_g{self.groups}" if self.groups > 1 else "")

    @property
    def tight(self) -> bool:
        """Whether taps are copied without the padding of their channels, which are few."""
        layout, window = self.input, self.window
        return (
            self.groups == 1
            and layout.channels < TIGHT_CHANNELS
            and layout.channels % 4 != 0
            and layout.channel_stride == layout.padded_channels
            and window.kernel != (1, 1)
            and window.dilations[1] == 1
        )

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        return operand_names(self.epilogue)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call, padding not counted."""
        taps = self.window.kernel[0] * self.window.kernel[1]
        pixels = self.output.batch * self.output.height * self.output.width
        return pixels * self.output.channels * taps * (self.input.channels // self.groups)

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
        """Pack ``weight`` int ``[O, C/groups, kh, kw]`` and the epilogue's constants.

        ``multiplier`` float32 and ``bias`` int32 are ``[O]`` (or scalars); zero points and the
        clamp bounds ``[low, high]`` are in stored uint8 units.  Raises :class:`ConfigError` when
        the weights break what the specification says of them.
        """
        weights = np.asarray(weight)
        self._check_weight(weights, isa)
        plan = ConvPlan.of(self, isa)
        start, scale = channel_constants(weights, bias, multiplier, input_zero_point, isa)
        per_group = self.output.channels // self.groups
        groups = [slice(g * per_group, (g + 1) * per_group) for g in range(self.groups)]
        matrix = plan.matrix(weights)
        block = ParameterBlock(isa, plan.panels.vectors * self.groups, self.epilogue)
        parameters = block.pack(
            np.concatenate([plan.panels.spread(start[g]) for g in groups]),
            np.concatenate([plan.panels.spread(scale[g]) for g in groups]),
            output_zero_point=output_zero_point,
            low=low,
            high=high,
            residual_zero_point=residual_zero_point,
            residual_multiplier=residual_multiplier,
            table=table,
        )
        packed = np.concatenate([plan.panels.pack(matrix[g], plan.walk.offsets()) for g in groups])
        return {"weight": packed, "parameters": parameters}

    def _check_weight(self, weight: NDArray[Any], isa: InstructionSet) -> None:
        shape = (self.output.channels, self.input.channels // self.groups, *self.window.kernel)
        if weight.shape != shape:
            raise ConfigError(f"The weight has shape {weight.shape}; the kernel needs {shape}.")
        needed = parts_needed(weight, isa.least_weight)
        if needed > self.weight_parts:
            raise ConfigError(
                f"The weights lie in [{weight.min()}, {weight.max()}], which needs weight_parts="
                f"{needed}, not {self.weight_parts}."
            )
        if self.safe_pairs and not has_safe_pairs(weight, tight=self.tight):
            raise ConfigError("The weights can saturate a pair sum; make the kernel without it.")

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function to ``module``."""
        return ConvWriter(self, isa, declare_kernel(module, symbol, self.operands)).write()


def _shape(layout: ActivationLayout) -> tuple[int, int, int, int]:
    return layout.batch, layout.height, layout.width, layout.channels


TIGHT_CHANNELS = 8
"""Pixels of fewer channels are copied without their padding (:attr:`ConvKernel.tight`)."""


def has_safe_pairs(weight: Any, *, tight: bool = False) -> bool:
    """Whether no sum of two neighbouring byte products ``u8 * w`` can leave int16.

    ``weight`` ``[O, C, kh, kw]``: pairs are channels ``(0,1), (2,3), ...`` of one tap (channel
    padding is zero); in a ``tight`` kernel the taps follow each other without padding.
    """
    w = np.asarray(weight)
    if parts_needed(w) > 1:
        return False
    rows = weight_matrix(w, tight=tight)
    return bool(safe_groups(lane_sums(rows.reshape(1, len(rows), -1, 4))).all())


LEAST_PARTNERS = 0.25
"""Where fewer groups find partners, sorting them costs more than it saves."""

MOST_PAIRED_VECTORS = 4
"""Vectors of the widest column tile in which partners are sought."""


def with_partners(kernel: ConvKernel, weight: Any, isa: InstructionSet) -> ConvKernel:
    """``kernel`` with what ``weight`` ``[O, C/groups, kh, kw]`` says of partners on ``isa``."""
    if isa.dot != "vpmaddwd" or kernel.groups > 1 or kernel.weight_parts > 1:
        return kernel
    if kernel.tight and not kernel.safe_pairs:
        return kernel
    rows = weight_matrix(np.asarray(weight), tight=kernel.tight)
    most = max(1, min(MOST_PAIRED_VECTORS, -(-len(rows) // isa.lanes)))
    shares = tuple(paired_share(rows, count * isa.lanes) for count in range(1, most + 1))
    return replace(kernel, partners=shares if max(shares) >= LEAST_PARTNERS else ())


def conv_kernel(
    source: ActivationLayout,
    target: ActivationLayout,
    weight: Any,
    *,
    multiplier: Any,
    input_zero_point: int,
    bias: Any | None = None,
    window: Window | None = None,
    groups: int = 1,
    form: Form = "uint8",
    residual: ActivationLayout | None = None,
    residual_multiplier: float = 0.0,
    table: bool = False,
    shifted: bool = True,
    clamped: bool = True,
    least_weight: int = -128,
) -> ConvKernel:
    """The specification for real constants: it reads what may be assumed of weights and numbers.

    ``weight`` int ``[O, C/groups, kh, kw]``; ``bias`` int32 and ``multiplier`` float32 ``[O]``;
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
    kernel = ConvKernel(
        input=source,
        output=target,
        window=window or Window(weights.shape[2:]),
        groups=groups,
        epilogue=epilogue,
        weight_parts=parts_needed(weights, least_weight),
    )
    return replace(kernel, safe_pairs=has_safe_pairs(weights, tight=kernel.tight))


def matmul_kernel(
    rows: int, depth: int, columns: int, weight: Any, *, row_stride: int | None = None, **rest: Any
) -> ConvKernel:
    """``[rows, depth] x [depth, columns]`` as a pointwise convolution over ``rows`` pixels.

    ``weight`` int ``[depth, columns]``; ``row_stride`` bytes from one row of the input to the next
    (default: ``depth`` rounded up to 4).  Other arguments as in :func:`conv_kernel`.  Pack the
    kernel's weight as ``weight.T[:, :, None, None]``.
    """
    stride = -(-depth // 4) * 4 if row_stride is None else row_stride
    source = ActivationLayout(1, 1, rows, depth, stride)
    target = ActivationLayout.plain(1, 1, rows, columns)
    return conv_kernel(source, target, np.asarray(weight).T[:, :, None, None], **rest)
