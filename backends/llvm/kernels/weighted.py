"""What all convolutions have in common: operands, constants of a channel, what numbers allow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.epilogue import Epilogue, Form, needs_float_clamp
from qcc.errors import ConfigError


def operand_names(epilogue: Epilogue) -> tuple[str, ...]:
    """Pointer parameters in order."""
    residual = () if epilogue.residual is None else ("residual",)
    return ("input", "weight", "parameters", *residual, "output")


def channel_constants(
    weight: NDArray[Any],
    bias: Any | None,
    multiplier: Any,
    input_zero_point: int,
    isa: InstructionSet,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Where accumulators start and what multiplies them, each ``[O]``.

    ``weight`` int ``[O, ...]``; ``bias`` int32 and ``multiplier`` float32 are ``[O]`` or scalars.
    """
    channels = len(weight)
    total = weight.astype(np.int64).reshape(channels, -1).sum(1)
    # Signed products see activations less 128.
    centre = input_zero_point - (128 if isa.signed else 0)
    start = (0 if bias is None else np.asarray(bias, np.int64)) - centre * total
    scale = np.broadcast_to(np.asarray(multiplier, np.float32), channels)
    return np.broadcast_to(start, channels).astype(np.int32), scale


def epilogue_for(
    weight: NDArray[Any],
    bias: Any | None,
    multiplier: Any,
    input_zero_point: int,
    *,
    form: Form,
    residual: ActivationLayout | None,
    residual_multiplier: float,
    table: bool,
    shifted: bool,
    clamped: bool,
) -> Epilogue:
    """The epilogue for real constants: it clamps in float only where accumulators can need it.

    Raises :class:`ConfigError` when an accumulator can leave int32 (contract 2).
    """
    low, high = -input_zero_point, 255 - input_zero_point
    bound = numerics.accumulator_bound(weight, bias, low, high, 0)
    if bound >= 2**31:
        raise ConfigError(
            "The accumulators of a convolution can pass 2^31; keep this operator in float."
        )
    clamp = form == "uint8" and needs_float_clamp(bound, multiplier, residual_multiplier)
    if form != "uint8":
        return Epilogue(form, residual, table, clamp)
    return Epilogue(form, residual, table, clamp, shifted, clamped)
