"""Time the element kernels on this machine's CPU, one thread: microseconds and cycles a byte.

The byte count is that of the 8-bit side of each kernel (of the result where both sides are).
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from bench_kernels import clock_hertz
from llvmlite import ir
from numpy.typing import NDArray

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels import Kernel
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.binary import BinaryKernel
from qcc.backends.llvm.kernels.boundary import DequantizeKernel, QuantizeKernel
from qcc.backends.llvm.kernels.copy import CopyKernel
from qcc.backends.llvm.kernels.formulas import Numbers, Op
from qcc.backends.llvm.kernels.lut import LutKernel
from qcc.backends.llvm.kernels.nest import View, activation_view, dense_view
from qcc.backends.llvm.kernels.pooling import AveragePoolKernel, MaxPoolKernel
from qcc.backends.llvm.kernels.reduce import ReduceMeanKernel
from qcc.backends.llvm.kernels.resize import ResizeLinearKernel, nearest_kernel
from qcc.backends.llvm.kernels.softmax import SoftmaxKernel
from qcc.backends.llvm.kernels.window import Window

EVEN = Numbers((0.021, 130), (0.013, 101), (0.029, 140))
TIES = Numbers((0.3, 77), (0.3, 0), (0.6, 128))


@dataclass(frozen=True)
class Case:
    label: str
    kernel: Kernel
    size: int
    """Bytes that cycles are counted for."""
    constants: dict[str, Any]


def plain(size: int, channels: int, width: int | None = None) -> ActivationLayout:
    return ActivationLayout.plain(1, size, width or size, channels)


def halo(layout: ActivationLayout) -> ActivationLayout:
    n, h, w, c, s = layout.batch, layout.height, layout.width, layout.channels, 0
    return ActivationLayout(n, h, w, c, layout.channel_stride + s, 1, 1, 1, 1)


def boundaries() -> Iterator[Case]:
    numbers = {"scale": 0.0173, "zero_point": 114}
    for size, channels in ((224, 3), (56, 64), (7, 1280), (1, 1000)):
        layout = plain(size, channels)
        count = size * size * channels
        label = f"{size}x{size}x{channels}"
        for order in ("nchw", "nhwc") if size > 1 and channels > 3 else ("nchw",):
            quantize = QuantizeKernel.of(layout, order, 0.0173)
            yield Case(f"quantize {order} {label}", quantize, count, numbers)
            real = DequantizeKernel(layout, order)
            yield Case(f"dequantize {order} {label}", real, count, numbers)
    divide = QuantizeKernel(plain(224, 3), "nchw", "divide")
    yield Case("quantize nchw 224x224x3, dividing", divide, 224 * 224 * 3, numbers)


def elementwise() -> Iterator[Case]:
    layout = plain(56, 64)
    rows: tuple[tuple[str, Op, Numbers], ...] = (
        ("add, affine", "add", EVEN),
        ("add, exact", "add", TIES),
        ("mul, product", "mul", Numbers((0.021, 130), (0.013, 0), (0.017, 117))),
    )
    for label, op, numbers in rows:
        kernel = BinaryKernel.of(op, layout, layout, layout, numbers)
        yield Case(f"{label} 56x56x64", kernel, 56 * 56 * 64, {"numbers": numbers})
    gate, wide = plain(1, 96), plain(56, 96)
    numbers = Numbers((0.021, 130), (0.013, 0), (0.017, 117))
    mul = BinaryKernel.of("mul", wide, gate, wide, numbers)
    yield Case("mul by channel 56x56x96", mul, 56 * 56 * 96, {"numbers": numbers})
    table = np.random.default_rng(0).integers(0, 256, 256)
    lut = LutKernel.between(layout, layout, table)
    yield Case("lut 56x56x64", lut, 56 * 56 * 64, {"table": table})
    clip = np.clip(np.arange(256), 10, 200)
    clamp = LutKernel.between(layout, layout, clip)
    yield Case("clamp 56x56x64", clamp, 56 * 56 * 64, {"table": clip})


def pools() -> Iterator[Case]:
    three = Window((3, 3), (2, 2), (1, 1), (1, 1))
    kernel: Kernel = MaxPoolKernel(plain(112, 64), plain(56, 64), three)
    yield Case("max pool 3x3 s2 112x112x64", kernel, 56 * 56 * 64, {})
    five = Window((5, 5), (1, 1), (1, 1), (2, 2))
    yield Case("max pool 5x5 20x20x256", MaxPoolKernel(plain(20, 256), plain(20, 256), five),
               20 * 20 * 256, {})  # fmt: skip
    two = Window((2, 2), (2, 2))
    scales = {"input_scale": 0.02, "input_zero_point": 128, "output_scale": 0.02}
    kernel = AveragePoolKernel(plain(56, 128), plain(28, 128), two)
    yield Case("average pool 2x2 56x56x128", kernel, 28 * 28 * 128, scales)
    for size, channels in ((7, 1280), (56, 96), (112, 64)):
        sizes = (1, size, size, channels)
        target = View(0, (channels, 0, 0, 1))
        mean = ReduceMeanKernel(sizes, (1, 2), dense_view(sizes, 1), target)
        yield Case(f"global mean {size}x{size}x{channels}", mean, size * size * channels, scales)


def movements() -> Iterator[Case]:
    for size, channels in ((56, 64), (14, 512), (224, 3), (112, 24)):
        count = size * size * channels
        label = f"{size}x{size}x{channels}"
        layout = plain(size, channels)
        planes = dense_view((1, channels, size, size), 1)
        back = activation_view(layout)
        order = (1, size, size, channels)
        out = CopyKernel(order, back, planes.permuted((0, 2, 3, 1)))
        yield Case(f"copy to nchw {label}", out, count, {})
        into = CopyKernel(order, planes.permuted((0, 2, 3, 1)), back)
        yield Case(f"copy from nchw {label}", into, count, {})
        yield Case(f"copy into halo {label}", CopyKernel.between(layout, halo(layout)), count, {})
        four = dense_view((1, channels, size, size), 4).permuted((0, 2, 3, 1))
        floats = CopyKernel(order, four, dense_view(order, 4), 4)
        yield Case(f"copy float from nchw {label}", floats, 4 * count, {})
    slice_ = activation_view(plain(56, 48), 24)
    concat = CopyKernel((1, 56, 56, 24), activation_view(plain(56, 24)), slice_)
    yield Case("concat 24 of 48 channels 56x56", concat, 56 * 56 * 24, {})
    small, large = plain(28, 128), plain(56, 128)
    rows = np.arange(56) // 2
    tables = {"indices1": rows * small.row_bytes, "indices2": rows * small.channel_stride}
    yield Case("nearest x2 28x28x128", nearest_kernel(small, large), 56 * 56 * 128, tables)
    linear = ResizeLinearKernel.of(small, large, 0.02, 0.02)
    taps = (rows, np.minimum(rows + 1, 27), np.full(56, 0.25, np.float32))
    scales = {"input_scale": 0.02, "input_zero_point": 128, "output_scale": 0.02}
    numbers = {**scales, "output_zero_point": 128, "rows": taps, "columns": taps}
    yield Case("linear x2 28x28x128", linear, 56 * 56 * 128, numbers)
    for shape in ((1, 1000), (4096, 64)):
        floating = SoftmaxKernel.of(shape, dense_view(shape, 1), dense_view(shape, 4))
        label = "x".join(map(str, shape))
        yield Case(f"softmax float {label}", floating, shape[0] * shape[1], {"input_scale": 0.04})
        eight = SoftmaxKernel.of(shape, dense_view(shape, 1), dense_view(shape, 1), 1 / 255)
        numbers = {"input_scale": 0.04, "output_scale": 1 / 255}
        yield Case(f"softmax uint8 {label}", eight, shape[0] * shape[1], numbers)


def buffer(content: NDArray[np.uint8] | None, size: int = 0) -> NDArray[np.uint8]:
    floats = np.random.default_rng(0).normal(0, 2, (size + 128) // 4).astype(np.float32)
    raw = floats.view(np.uint8)
    if content is not None:
        raw = np.zeros(content.size + 128, np.uint8)
    start = -raw.ctypes.data % 64
    if content is not None:
        raw[start : start + content.size] = content
    return raw[start:]


def call(symbol_owner: Any, kernel: Kernel, pointers: list[int]) -> Any:
    signature = ctypes.CFUNCTYPE(
        None, *[ctypes.c_void_p] * len(kernel.operands), ctypes.c_int32, ctypes.c_int32
    )
    function = signature(symbol_owner.address("kernel"))
    return lambda: function(*pointers, 0, 1)


def seconds(function: Any, budget: float = 0.05) -> float:
    """The least time of one call of several."""
    best, spent = float("inf"), 0.0
    while spent < budget:
        start = time.perf_counter()
        function()
        took = time.perf_counter() - start
        best, spent = min(best, took), spent + took
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", choices=sorted(INSTRUCTION_SETS), help="default: the best here")
    parser.add_argument("--only", default="", help="print the cases whose label holds this")
    arguments = parser.parse_args()
    isa = INSTRUCTION_SETS[arguments.isa] if arguments.isa else host_instruction_set()
    rate = clock_hertz(isa)
    print(f"{isa.name}, {rate / 1e9:.2f} GHz")
    print(f"{'kernel':38} {'us':>8} {'cycles/byte':>12} {'code ms':>8}")
    for group in (boundaries, elementwise, pools, movements):
        for case in group():
            if arguments.only not in case.label:
                continue
            start = time.perf_counter()
            module = ir.Module("bench")
            case.kernel.emit(module, isa, "kernel")
            compiled = machine.compile_module(module, isa)
            compile_ms = (time.perf_counter() - start) * 1e3
            packed = case.kernel.pack(isa, **case.constants)
            buffers = [
                buffer(packed[name]) if name in packed else buffer(None, 8 * case.size + 65536)
                for name in case.kernel.operands
            ]
            loaded = machine.load_object(compiled.object_code)
            taken = seconds(call(loaded, case.kernel, [b.ctypes.data for b in buffers]))
            per_byte = taken * rate / case.size
            print(f"{case.label:38} {taken * 1e6:8.1f} {per_byte:12.2f} {compile_ms:8.0f}")


if __name__ == "__main__":
    main()
