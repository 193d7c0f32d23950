"""One convolution with random data and its numpy reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.isa import InstructionSet
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel, conv_kernel, with_partners
from qcc.backends.llvm.kernels.depthwise import DepthwiseKernel, depthwise_kernel
from qcc.backends.llvm.kernels.epilogue import Form
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.kernels.winograd import WinogradKernel, can_transform
from tests.backends.llvm.native import aligned, interior, outside_intact, physical, run

FILL = 0x5A


@dataclass(frozen=True)
class ConvCase:
    """Sizes, data range and epilogue of a test convolution.

    ``weights`` and ``activations`` are inclusive ranges; ``extreme`` picks only their end points.
    """

    batch: int = 1
    height: int = 5
    width: int = 6
    channels: int = 8
    outputs: int = 16
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    weights: tuple[int, int] = (-128, 127)
    activations: tuple[int, int] = (0, 255)
    extreme: bool = False
    zero_point: int = 117
    output_zero_point: int = 9
    low: int = 0
    high: int = 255
    form: Form = "uint8"
    residual: bool = False
    table: bool = False
    output_halo: int = 0
    extra_stride: int = 0
    scale: float = 1.0
    depthwise: bool = False
    winograd: bool = False

    @property
    def output_size(self) -> tuple[int, int]:
        top, left, bottom, right = self.pads
        size = (self.height + top + bottom, self.width + left + right)
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        return (
            (size[0] - reach[0]) // self.strides[0] + 1,
            (size[1] - reach[1]) // self.strides[1] + 1,
        )


def convolve(x: NDArray[Any], w: NDArray[Any], case: ConvCase) -> NDArray[np.int64]:
    """Exact int64 convolution of centred, padded ``x [N,C,H,W]`` with ``w [O,C/g,kh,kw]``."""
    oh, ow = case.output_size
    per_group, outputs = w.shape[1], w.shape[0] // case.groups
    acc = np.zeros((x.shape[0], w.shape[0], oh, ow), np.int64)
    for ky in range(w.shape[2]):
        for kx in range(w.shape[3]):
            y0, x0 = ky * case.dilations[0], kx * case.dilations[1]
            seen = x[:, :, y0 :: case.strides[0], x0 :: case.strides[1]][:, :, :oh, :ow]
            for g in range(case.groups):
                part = seen[:, g * per_group : (g + 1) * per_group].astype(np.float64)
                weight = w[g * outputs : (g + 1) * outputs, :, ky, kx].astype(np.float64)
                term = np.einsum("nchw,oc->nohw", part, weight)
                acc[:, g * outputs : (g + 1) * outputs] += term.astype(np.int64)
    return acc


def _draw(
    rng: np.random.Generator, bounds: tuple[int, int], shape: tuple[int, ...], extreme: bool
) -> NDArray[np.int64]:
    if extreme:
        return rng.choice(np.array(bounds, np.int64), shape)
    return rng.integers(bounds[0], bounds[1] + 1, shape)


def check_conv(
    case: ConvCase,
    isa: InstructionSet,
    threads: int = 1,
    seed: int = 0,
    runner: Callable[..., None] = run,
) -> None:
    """Run ``case`` on ``isa`` (by ``runner``) and compare every byte with ``qcc.numerics``."""
    rng = np.random.default_rng(seed)
    n, (oh, ow) = case.batch, case.output_size
    x = _draw(rng, case.activations, (n, case.channels, case.height, case.width), case.extreme)
    shape = (case.outputs, case.channels // case.groups, *case.kernel)
    w = _draw(rng, case.weights, shape, case.extreme)
    bias = rng.integers(-3000, 3000, case.outputs).astype(np.int32)
    top, left, bottom, right = case.pads
    stride = -(-case.channels // 4) * 4 + case.extra_stride
    below, beside = (bottom + oh % 2, right + ow % 2) if case.winograd else (bottom, right)
    source = ActivationLayout(
        n, case.height, case.width, case.channels, stride, top, left, below, beside
    )
    halo = case.output_halo
    out_stride = -(-case.outputs // 4) * 4 + case.extra_stride
    target = ActivationLayout(n, oh, ow, case.outputs, out_stride, halo, halo, halo, halo)
    residual_layout = ActivationLayout(n, oh, ow, case.outputs, out_stride + 4, 0, 1, 1, 0)
    padded = np.pad(x - case.zero_point, ((0, 0), (0, 0), (top, bottom), (left, right)))
    acc = convolve(padded, w, case) + bias[:, None, None]
    spread = max(1.0, float(np.abs(acc).max()))
    multiplier = (case.scale * 150.0 / spread * rng.uniform(0.5, 2.0, case.outputs)).astype("f4")
    residual_multiplier = 0.37 if case.residual else 0.0
    window = Window(case.kernel, case.strides, case.dilations, (top, left))
    common: dict[str, Any] = {
        "multiplier": multiplier,
        "input_zero_point": case.zero_point,
        "bias": bias,
        "window": window,
        "form": case.form,
        "residual": residual_layout if case.residual else None,
        "residual_multiplier": residual_multiplier,
        "table": case.table,
        "shifted": case.output_zero_point != 0,
        "clamped": (case.low, case.high) != (0, 255),
        "least_weight": isa.least_weight,
    }
    kernel: ConvKernel | DepthwiseKernel | WinogradKernel
    if case.depthwise:
        kernel = depthwise_kernel(source, target, w, **common)
    else:
        direct = conv_kernel(source, target, w, groups=case.groups, **common)
        kernel = with_partners(direct, w, isa)
        if case.winograd:
            assert can_transform(direct, w, isa)
            kernel = WinogradKernel(direct)
    table = rng.integers(0, 256, 256).astype(np.uint8)
    r = rng.integers(0, 256, (n, case.outputs, oh, ow))
    packed = kernel.pack(
        isa,
        weight=w,
        multiplier=multiplier,
        input_zero_point=case.zero_point,
        bias=bias,
        output_zero_point=case.output_zero_point,
        low=case.low,
        high=case.high,
        residual_zero_point=31,
        residual_multiplier=residual_multiplier,
        table=table,
    )
    size = kernel.epilogue.element_bytes
    buffers = {name: aligned(content) for name, content in packed.items()}
    buffers["input"] = physical(source, x, case.zero_point, rng)
    buffers["output"] = aligned(np.full(target.size_bytes * size, FILL, np.uint8))
    if case.residual:
        buffers["residual"] = physical(residual_layout, r, 255, rng)
    runner(kernel, isa, buffers, threads)

    acc = acc.transpose(0, 2, 3, 1)
    r = r.transpose(0, 2, 3, 1)
    want: NDArray[Any]
    if case.form == "uint8":
        want = numerics.requantize(
            acc,
            multiplier,
            case.output_zero_point,
            case.low,
            case.high,
            r if case.residual else None,
            residual_multiplier,
            31,
        ).astype(np.uint8)
        want = table[want] if case.table else want
        got = interior(target, buffers["output"])
        assert outside_intact(target, buffers["output"], FILL)
    elif case.form == "float32":
        want = numerics.dequantize_accumulator(acc, multiplier)
        got = interior(target, buffers["output"].view(np.float32))
    else:
        want = acc.astype(np.int32)
        got = interior(target, buffers["output"].view(np.int32))
    np.testing.assert_array_equal(got, want)
