"""Quantization parameters as a value, and how they follow from a range.

:class:`QuantParams` is what an observer gives and what the number-assigning pass writes into types.
:func:`affine_qparams` is the one place where a range becomes a scale and a zero point; it is
torch.ao's ``UniformQuantizationObserverBase._calculate_qparams`` (torch 2.13), in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.errors import ConfigError, DataError
from qcc.ir.types import Quant
from qcc.numerics import STORAGE_RANGE

DEFAULT_EPS = 2.0**-23
"""The smallest scale that an observer gives unless told otherwise: float32's machine epsilon."""


@dataclass(frozen=True)
class QuantParams:
    """Affine parameters: ``real = (stored - zero_point) * scale``; frozen and hashable.

    ``scale`` holds Python floats that are exact float32 values (one, or one a channel along
    ``axis``), ``zero_point`` as many integers, ``storage`` a key of
    :data:`qcc.numerics.STORAGE_RANGE`; ``quant_min`` and ``quant_max`` are the inclusive stored
    bounds.  Raises ConfigError when the parts do not fit together.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    storage: str
    axis: int | None = None
    quant_min: int = 0
    quant_max: int = 255

    def __post_init__(self) -> None:
        """Check every part; raises ConfigError."""
        check_quant_range(self.storage, self.quant_min, self.quant_max)
        if not self.scale or len(self.scale) != len(self.zero_point):
            raise ConfigError(
                f"quantization parameters need one zero point for each scale, got "
                f"{len(self.scale)} scales and {len(self.zero_point)} zero points"
            )
        if self.axis is None and len(self.scale) != 1:
            raise ConfigError(
                f"per-tensor quantization has one scale, got {len(self.scale)}; give an axis"
            )
        scales = self.scales
        if not (np.isfinite(scales) & (scales > 0)).all():
            raise ConfigError(
                "every scale must be a positive finite float32: give data of a smaller range"
            )
        if any(not self.quant_min <= z <= self.quant_max for z in self.zero_point):
            raise ConfigError(
                f"every zero point must lie in [{self.quant_min}, {self.quant_max}], "
                f"got {min(self.zero_point)}..{max(self.zero_point)}"
            )

    @classmethod
    def make(
        cls,
        scale: Any,
        zero_point: Any,
        storage: str,
        *,
        axis: int | None = None,
        quant_min: int | None = None,
        quant_max: int | None = None,
    ) -> QuantParams:
        """Build from scalars or 1-D arrays: scales round to float32, zero points broadcast.

        ``quant_min`` and ``quant_max`` default to the bounds of ``storage``.
        """
        low, high = storage_range(storage)
        scales = np.asarray(scale, np.float32).reshape(-1)
        zeros = np.broadcast_to(np.asarray(zero_point, np.int64).reshape(-1), scales.shape)
        return cls(
            tuple(float(s) for s in scales),
            tuple(int(z) for z in zeros),
            storage,
            axis,
            low if quant_min is None else quant_min,
            high if quant_max is None else quant_max,
        )

    @property
    def per_tensor(self) -> bool:
        """Whether one scale holds for the whole tensor."""
        return self.axis is None

    @property
    def scales(self) -> NDArray[np.float32]:
        """The scales as a 1-D float32 array."""
        return np.asarray(self.scale, np.float32)

    @property
    def zero_points(self) -> NDArray[np.int64]:
        """The zero points as a 1-D int64 array."""
        return np.asarray(self.zero_point, np.int64)

    @property
    def real_range(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The least and the greatest real value that can be stored: two 1-D float32 arrays."""
        low = (self.quant_min - self.zero_points).astype(np.float32) * self.scales
        high = (self.quant_max - self.zero_points).astype(np.float32) * self.scales
        return low, high

    def to_quant(self) -> Quant:
        """The same parameters as an element type of the IR."""
        return Quant.make(
            self.storage, self.scales, self.zero_points, self.axis, self.quant_min, self.quant_max
        )

    @classmethod
    def from_quant(cls, quant: Quant) -> QuantParams:
        """The parameters that an element type of the IR carries."""
        low, high = quant.range
        return cls(quant.scale, quant.zero_point, quant.storage, quant.axis, low, high)

    def to_arrays(self) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Scale and zero point as ONNX wants them: 0-D per tensor, 1-D per channel.

        The zero point has the stored numpy dtype (4-bit values live one a byte).
        """
        dtype = {"int4": "int8", "uint4": "uint8"}.get(self.storage, self.storage)
        scale, zero = self.scales, self.zero_points.astype(dtype)
        return (scale.reshape(()), zero.reshape(())) if self.per_tensor else (scale, zero)


def storage_range(storage: str) -> tuple[int, int]:
    """Inclusive bounds of ``storage``; raises ConfigError when it is no quantized storage type."""
    try:
        return STORAGE_RANGE[storage]
    except KeyError:
        known = ", ".join(STORAGE_RANGE)
        raise ConfigError(f"'{storage}' cannot hold quantized values: use one of {known}") from None


def check_quant_range(storage: str, quant_min: int, quant_max: int) -> None:
    """Raise ConfigError unless ``[quant_min, quant_max]`` fits ``storage`` and is not a point."""
    low, high = storage_range(storage)
    if not low <= quant_min < quant_max <= high:
        raise ConfigError(
            f"quant_min={quant_min}, quant_max={quant_max} is no range within {storage}'s "
            f"[{low}, {high}]"
        )


def symmetric_zero_point(storage: str, quant_min: int, quant_max: int, *, custom: bool) -> int:
    """The zero point of a symmetric range: 0 for signed storage, the middle for unsigned.

    The middle of a ``custom`` 8-bit range is rounded down, and that of a default one is
    ``2**(bits - 1)``, as in torch.
    """
    low, high = storage_range(storage)
    if low < 0:
        return 0
    return (quant_min + quant_max) // 2 if custom else (high + 1) // 2


def affine_qparams(
    low: Any,
    high: Any,
    storage: str,
    *,
    symmetric: bool = False,
    quant_min: int | None = None,
    quant_max: int | None = None,
    eps: float = DEFAULT_EPS,
    axis: int | None = None,
) -> QuantParams:
    """The scale and zero point that cover ``[low, high]`` and always 0.

    ``low`` and ``high``: scalars, or 1-D along ``axis``.  With ``lo = min(low, 0)`` and
    ``hi = max(high, 0)``:

    * affine: ``scale = (hi - lo) / (quant_max - quant_min)``,
      ``zero_point = clamp(quant_min - round_half_even(lo / scale))``;
    * symmetric: ``scale = max(-lo, hi) / ((quant_max - quant_min) / 2)``, so that [-127, 127] gives
      ``absmax / 127`` and [-128, 127] gives torch's ``absmax / 127.5``.

    A scale below ``eps`` is raised to it, so a range of no width gives a valid scale.  The bounds
    default to the storage's, or to [-127, 127] for symmetric int8.  Raises DataError when a bound
    is not finite or the width does not fit float32, ConfigError for a bad stored range.
    """
    bottom, top = default_quant_range(storage, symmetric=symmetric)
    custom = quant_min is not None
    q_low = bottom if quant_min is None else quant_min
    q_high = top if quant_max is None else quant_max
    check_quant_range(storage, q_low, q_high)
    lo = np.minimum(np.asarray(low, np.float32), np.float32(0))
    hi = np.maximum(np.asarray(high, np.float32), np.float32(0))
    with np.errstate(over="ignore"):
        if symmetric:
            scale = np.maximum(-lo, hi) / np.float32((q_high - q_low) / 2)
        else:
            scale = (hi - lo) / np.float32(q_high - q_low)
    if not np.isfinite(scale).all():
        raise DataError(
            "a range to quantize is not finite, or wider than float32 can hold: "
            "remove infinite and extreme values from the data"
        )
    scale = np.maximum(scale, np.float32(eps))
    if symmetric:
        zero: Any = symmetric_zero_point(storage, q_low, q_high, custom=custom)
    else:
        steps = np.rint(lo / scale).astype(np.int64)
        zero = np.clip(q_low - steps, q_low, q_high)
    return QuantParams.make(scale, zero, storage, axis=axis, quant_min=q_low, quant_max=q_high)


def default_quant_range(storage: str, *, symmetric: bool) -> tuple[int, int]:
    """The stored bounds used when none are given: [-127, 127] for symmetric int8, else all."""
    return (-127, 127) if symmetric and storage == "int8" else storage_range(storage)
