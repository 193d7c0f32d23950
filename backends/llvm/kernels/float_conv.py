"""Float32 convolution (contract 16): dense, grouped, depthwise, and matrix products by constants.

Rows are output pixels, columns output channels, which are packed into panels of a few vectors.  A
tile of accumulators begins as the bias, takes its products in the contract's order, one fused
multiply-add each, and is finished in registers: residual, bounds, one kind of NaN.  In a depthwise
convolution every channel is a group of its own, and a product multiplies vectors of channels.

The scheme of register tiles over packed panels is that of Goto and van de Geijn, "Anatomy of
High-Performance Matrix Multiplication" (2008).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.builder import declare_kernel
from qcc.backends.llvm.float_schedule import FloatSchedule, Shape, choose
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.float_conv_code import FloatConvWriter
from qcc.backends.llvm.kernels.lanes import Scalars
from qcc.backends.llvm.kernels.nest import View
from qcc.errors import ConfigError

BOUNDS = Scalars((("low", "f32"), ("high", "f32")))


@dataclass(frozen=True)
class FloatConvKernel:
    """``output = clamp(bias + sum of products + residual)`` on channels-last images.

    ``sizes`` are images, rows, columns and channels of the output, ``depth`` the input channels of
    one of ``groups`` groups.  Views have strides ``(image, row, column, channel)`` in bytes, the
    channel's is 4; that of the input begins at the first pixel of the first window, and every
    window lies inside memory (padding is +0 in the input's halo).  ``kernel``, ``strides`` and
    ``dilations`` are ``(vertical, horizontal)``.  ``low`` and ``high`` say which bounds there are.

    Operands: ``input, weights, bias, [residual,] [bounds,] output``, of which the output overlaps
    none: sums may wait in it.  Reads and writes exactly the elements.
    """

    sizes: tuple[int, int, int, int]
    depth: int
    input: View
    output: View
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    residual: View | None = None
    low: bool = False
    high: bool = False
    schedule: FloatSchedule | None = None
    """None: the cost model's choice."""

    def __post_init__(self) -> None:
        views = [view for view in (self.input, self.output, self.residual) if view is not None]
        if any(len(view.strides) != 4 or view.strides[3] != 4 for view in views):
            raise ConfigError(
                "The views of a float convolution need 4 strides, the last of them 4."
            )
        if min(*self.sizes, self.depth, self.groups, *self.kernel) < 1:
            raise ConfigError("A float convolution without elements has no kernel.")
        if self.sizes[3] % self.groups:
            raise ConfigError(
                f"{self.sizes[3]} channels cannot be split into {self.groups} groups."
            )

    @property
    def name(self) -> str:
        """Such as ``float_conv_1x56x56x64_64_k3x3``."""
        shape = "x".join(map(str, self.sizes))
        group = f"_g{self.groups}" if self.groups > 1 else ""
        stride = f"_s{self.strides[0]}x{self.strides[1]}" if self.strides != (1, 1) else ""
        window = f"k{self.kernel[0]}x{self.kernel[1]}{stride}{group}"
        return f"float_conv_{shape}_{self.depth}_{window}"

    @property
    def operands(self) -> tuple[str, ...]:
        """Pointer parameters in order."""
        residual = ("residual",) if self.residual is not None else ()
        bounds = ("bounds",) if self.low or self.high else ()
        return ("input", "weights", "bias", *residual, *bounds, "output")

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is a group of its own."""
        return self.groups > 1 and self.depth == 1 and self.groups == self.sizes[3]

    @property
    def rows(self) -> int:
        """Output pixels."""
        return self.sizes[0] * self.sizes[1] * self.sizes[2]

    @property
    def lines(self) -> tuple[int, int]:
        """``(count, length)``: runs of pixels that have one distance in every operand."""
        images, rows, columns, _ = self.sizes
        steps = [(self.input, self.strides), (self.output, (1, 1))]
        steps += [(self.residual, (1, 1))] if self.residual is not None else []
        for view, (down, right) in steps:
            image, line, pixel, _ = view.strides
            whole = line * down == columns * right * pixel or rows == 1
            if not (whole and (image == rows * columns * right * pixel or images == 1)):
                return images * rows, columns
        return 1, images * rows * columns

    @property
    def columns(self) -> int:
        """Channels that share their inputs; all of them where each has its own."""
        return self.sizes[3] if self.is_depthwise else self.sizes[3] // self.groups

    @property
    def products(self) -> int:
        """Products of one result."""
        return self.kernel[0] * self.kernel[1] * self.depth

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one call."""
        return self.rows * self.sizes[3] * self.products

    def cut(self, isa: InstructionSet) -> FloatSchedule:
        """The schedule on ``isa``."""
        if self.schedule is not None:
            return self.schedule
        lines, length = self.lines
        pixel = 4 * (self.columns if self.is_depthwise else self.depth)
        touched = min(self.strides[0], self.kernel[0]) * min(self.strides[1], self.kernel[1])
        groups = 1 if self.is_depthwise else self.groups
        run = self.depth
        if self.input.strides[2] * self.dilations[1] == 4 * run:
            run *= self.kernel[1]
        shape = Shape(
            lines,
            length,
            self.columns,
            self.products,
            run,
            groups,
            pixel * touched,
            self.is_depthwise,
        )
        return choose(isa, shape)

    def pack(
        self,
        isa: InstructionSet,
        *,
        weight: Any,
        bias: Any | None = None,
        low: float | None = None,
        high: float | None = None,
    ) -> Packed:
        """``weight`` [O, I/group, kh, kw], ``bias`` [O]; the bounds that the kernel has."""
        weight = np.asarray(weight, np.float32)
        channels = self.sizes[3]
        if weight.shape != (channels, self.depth, *self.kernel):
            raise ConfigError(f"The weight {weight.shape} does not fit {self.name}.")
        if (low is not None, high is not None) != (self.low, self.high):
            raise ConfigError(f"The bounds of {self.name} must be those that it was made with.")
        start = np.zeros(channels, np.float32) if bias is None else np.asarray(bias, np.float32)
        # [product, channel]: by kernel rows, kernel columns, input channels.
        factors = weight.transpose(2, 3, 1, 0).reshape(self.products, channels)
        groups = 1 if self.is_depthwise else self.groups
        width = self.cut(isa).vectors * isa.lanes
        panels = [_panels(factors[:, part], width, isa.lanes) for part in _parts(channels, groups)]
        starts = [_panels(start[None, part], width, isa.lanes) for part in _parts(channels, groups)]
        packed = {
            "weights": _octets(np.concatenate(panels)),
            "bias": _octets(np.concatenate(starts)),
        }
        if self.low or self.high:
            numbers = {
                "low": -np.inf if low is None else low,
                "high": np.inf if high is None else high,
            }
            packed["bounds"] = BOUNDS.pack(**numbers)
        return packed

    def emit(self, module: Any, isa: InstructionSet, symbol: str) -> Any:
        """Add the kernel's function; threads share out blocks of rows, groups and columns."""
        function = declare_kernel(module, symbol, self.operands)
        return FloatConvWriter(self, self.cut(isa), isa, function).write()


def _parts(channels: int, groups: int) -> list[slice]:
    count = channels // groups
    return [slice(g * count, (g + 1) * count) for g in range(groups)]


def _panels(columns: NDArray[np.float32], width: int, lanes: int) -> NDArray[np.float32]:
    """``[K, N]`` as panels of ``width`` columns, each ``[K, width]``; the last is narrower."""
    count = -(-columns.shape[1] // lanes) * lanes
    padded = np.zeros((len(columns), count), np.float32)
    padded[:, : columns.shape[1]] = columns
    return np.concatenate(
        [padded[:, first : first + width].reshape(-1) for first in range(0, count, width)]
    )


def _octets(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.frombuffer(values.tobytes(), np.uint8)
