"""Time convolution kernels on this machine's CPU, one thread, on the layers of real networks.

Prints per layer the time, GMAC/s and the share of the multiply bound (``MACs a cycle`` times the
clock, which is measured by a chain of dependent additions).
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from qcc.backends.llvm import machine
from qcc.backends.llvm.builder import I64, LoopBuilder, declare_kernel
from qcc.backends.llvm.isa import InstructionSet, host_instruction_set
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel, conv_kernel, with_partners
from qcc.backends.llvm.kernels.conv_plan import ConvPlan
from qcc.backends.llvm.kernels.depthwise import depthwise_kernel
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.kernels.winograd import WinogradKernel, in_winograd_domain
from qcc.backends.llvm.schedule import GemmSchedule, candidates


@dataclass(frozen=True)
class Layer:
    size: int
    channels: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    count: int = 1
    depthwise: bool = False


MOBILENET_POINTWISE = [
    Layer(112, 32, 16), Layer(112, 16, 96), Layer(56, 96, 24), Layer(56, 24, 144, count=2),
    Layer(56, 144, 24), Layer(28, 144, 32), Layer(28, 32, 192, count=3),
    Layer(28, 192, 32, count=2), Layer(14, 192, 64), Layer(14, 64, 384, count=4),
    Layer(14, 384, 64, count=3), Layer(14, 384, 96), Layer(14, 96, 576, count=3),
    Layer(14, 576, 96, count=2), Layer(7, 576, 160), Layer(7, 160, 960, count=3),
    Layer(7, 960, 160, count=2), Layer(7, 960, 320), Layer(7, 320, 1280), Layer(1, 1280, 1000),
]  # fmt: skip
RESNET = [
    Layer(224, 3, 64, 7, 2), Layer(56, 64, 64), Layer(56, 64, 64, 3, count=3),
    Layer(56, 64, 256, count=4), Layer(56, 256, 64, count=2), Layer(56, 256, 128),
    Layer(56, 128, 128, 3, 2), Layer(28, 128, 512, count=4), Layer(28, 512, 128, count=3),
    Layer(28, 128, 128, 3, count=3), Layer(56, 256, 512, 1, 2), Layer(28, 256, 256, 3, 2),
    Layer(14, 256, 1024, count=6), Layer(14, 1024, 256, count=5), Layer(14, 256, 256, 3, count=5),
    Layer(14, 512, 512, 3, 2), Layer(7, 512, 2048, count=3), Layer(7, 2048, 512, count=2),
    Layer(7, 512, 512, 3, count=2), Layer(1, 2048, 1000),
]  # fmt: skip
DEPTHWISE = [
    Layer(112, 32, 32, 3), Layer(112, 96, 96, 3, 2), Layer(56, 144, 144, 3),
    Layer(56, 144, 144, 3, 2), Layer(28, 192, 192, 3, count=2), Layer(28, 192, 192, 3, 2),
    Layer(14, 384, 384, 3, count=4), Layer(14, 576, 576, 3, count=2), Layer(14, 576, 576, 3, 2),
    Layer(7, 960, 960, 3, count=3), Layer(14, 672, 672, 5), Layer(28, 240, 240, 5, 2),
]  # fmt: skip
DEPTHWISE = [replace(layer, depthwise=True) for layer in DEPTHWISE]
NETWORKS = {"mobilenet": MOBILENET_POINTWISE, "resnet": RESNET, "depthwise": DEPTHWISE}
MACS_A_CYCLE = {
    "x86-avx2": 32,
    "x86-avxvnni": 64,
    "x86-avx512vnni": 64,
    "arm-neon": 8,
    "arm-dotprod": 32,
    "arm-i8mm": 64,
}
"""AArch64: of cores that begin one ``smull``, two ``sdot`` or two ``usmmla`` in a cycle."""


def aligned(content: NDArray[Any]) -> NDArray[np.uint8]:
    raw = np.zeros(content.nbytes + 192, np.uint8)
    start = -raw.ctypes.data % 64
    view = raw[start : start + content.nbytes]
    view[:] = content.reshape(-1).view(np.uint8)
    return view


def best_time(call: Callable[[], Any], budget: float = 0.15) -> float:
    """Fastest of many calls, in seconds."""
    call()
    best, end = float("inf"), time.perf_counter() + budget
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def clock_hertz(isa: InstructionSet) -> float:
    """The clock under load, from a chain of dependent multiplications (3 cycles) and xors (1)."""
    module = ir.Module("clock")
    k = LoopBuilder(declare_kernel(module, "clock", ["out"]))
    start = k.load(I64, k.operand("out"))

    def turn(_: Any, value: Any) -> list[Any]:
        for _i in range(10):
            value = k.ir.xor(k.ir.mul(value, start), start)
        return [value]

    (last,) = k.loop(0, 100_000, turn, carried=[start])
    k.store(last, k.operand("out"))
    k.finish()
    code = machine.load_object(machine.compile_module(module, isa).object_code)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)(
        code.address("clock")
    )
    out = aligned(np.ones(1, np.int64))
    return 4e6 / best_time(lambda: function(out.ctypes.data, 0, 1), 0.3)


def quantized_normal(
    rng: np.random.Generator, shape: tuple[int, ...], top: int
) -> NDArray[np.int64]:
    """Normal weights with one scale a channel, as a quantizer makes them."""
    weight = rng.normal(size=shape)
    largest = np.abs(weight).reshape(shape[0], -1).max(1).reshape(-1, 1, 1, 1)
    rounded: NDArray[np.int64] = np.rint(weight / largest * top).astype(np.int64)
    return rounded


def make_kernel(layer: Layer, weight: NDArray[Any], isa: InstructionSet) -> Any:
    pad = layer.kernel // 2
    out = -(-layer.size // layer.stride)
    halo = (pad,) * 4
    source = ActivationLayout(
        1, layer.size, layer.size, layer.channels, -(-layer.channels // 4) * 4, *halo
    )
    target = ActivationLayout.plain(1, out, out, layer.outputs)
    window = Window((layer.kernel,) * 2, (layer.stride,) * 2, pads=(pad, pad))
    arguments: dict[str, Any] = {
        "multiplier": np.float32(1e-4),
        "input_zero_point": 3,
        "window": window,
    }
    if layer.depthwise:
        return depthwise_kernel(source, target, weight, **arguments)
    return with_partners(conv_kernel(source, target, weight, **arguments), weight, isa)


def prepare(kernel: Any, isa: InstructionSet, weight: NDArray[Any]) -> Callable[[], Any]:
    """A call without arguments of the compiled kernel."""
    module = ir.Module("bench")
    kernel.emit(module, isa, "kernel")
    code = machine.load_object(machine.compile_module(module, isa).object_code)
    rng = np.random.default_rng(0)
    packed = kernel.pack(isa, weight=weight, multiplier=1e-4, input_zero_point=3)
    buffers = {name: aligned(content) for name, content in packed.items()}
    buffers["input"] = aligned(rng.integers(0, 256, kernel.input.size_bytes).astype(np.uint8))
    buffers["output"] = aligned(np.zeros(kernel.output.size_bytes, np.uint8))
    pointers = [buffers[name].ctypes.data for name in kernel.operands]
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(pointers), *[ctypes.c_int] * 2)
    function = signature(code.address("kernel"))
    return lambda: (function(*pointers, 0, 1), code, buffers)[0]


def tuned(kernel: ConvKernel, isa: InstructionSet, weight: NDArray[Any]) -> str:
    """The fastest tile found by measuring every candidate, as text."""
    plan = ConvPlan.of(kernel, isa)
    found = []
    for rows, vectors in candidates(isa, plan.inner):
        if rows * vectors < 5 or vectors > plan.panels.vectors:
            continue
        schedule = GemmSchedule(
            rows, vectors, max(1, plan.schedule.block_tiles * plan.schedule.rows // rows), 10**6
        )
        call = prepare(replace(kernel, schedule=schedule), isa, weight)
        found.append((best_time(call, 0.05), f"{rows}x{vectors}"))
    found.sort()
    return " ".join(f"{name}:{seconds * 1e6:.1f}" for seconds, name in found[:7])


def chosen(kernel: Any, weight: NDArray[Any], isa: InstructionSet) -> Any:
    """What the compiler would take: the kernel, or its form in Winograd's domain."""
    if not isinstance(kernel, ConvKernel):
        return kernel
    transformed = in_winograd_domain(kernel, weight, isa)
    return transformed if transformed is not None and transformed.gains(isa) else kernel


def described(kernel: ConvKernel | WinogradKernel, isa: InstructionSet) -> str:
    """The inner loop and how it is cut."""
    if isinstance(kernel, WinogradKernel):
        cut, form = kernel.cut(isa), "winograd"
    else:
        plan = ConvPlan.of(kernel, isa)
        cut, form = plan.schedule, f"{plan.inner} {plan.source}"
    return f"{form} {cut.rows}x{cut.vectors} b{cut.block_tiles} c{cut.chunk_tiles}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--bits", type=int, default=8, help="bits of the weights (7: safe pairs)")
    parser.add_argument("--tune", action="store_true", help="measure every tile")
    parser.add_argument("--direct", action="store_true", help="nothing in Winograd's domain")
    options = parser.parse_args()
    isa = host_instruction_set()
    clock = clock_hertz(isa)
    bound = MACS_A_CYCLE[isa.name] * clock / 1e9
    print(f"{isa.name}, {clock / 1e9:.2f} GHz, bound {bound:.0f} GMAC/s")
    top = 2 ** (options.bits - 1) - 1
    for name in options.networks:
        total, macs = 0.0, 0
        for layer in NETWORKS[name]:
            rng = np.random.default_rng(0)
            depth = 1 if layer.depthwise else layer.channels
            shape = (layer.outputs, depth, layer.kernel, layer.kernel)
            weight = quantized_normal(rng, shape, top)
            direct = make_kernel(layer, weight, isa)
            kernel = direct if options.direct else chosen(direct, weight, isa)
            seconds = best_time(prepare(kernel, isa, weight))
            total += seconds * layer.count
            macs += kernel.macs * layer.count
            speed = kernel.macs / seconds / 1e9
            note = "" if layer.depthwise else described(kernel, isa)
            if isinstance(kernel, ConvKernel) and options.tune:
                note += "   " + tuned(kernel, isa, weight)
            print(
                f"{layer.size:4}x{layer.size:<4}{layer.channels:5}->{layer.outputs:<5}"
                f"k{layer.kernel}s{layer.stride} x{layer.count}: {seconds * 1e6:9.1f} us "
                f"{speed:6.1f} GMAC/s {100 * speed / bound:4.0f}%  {note}",
                flush=True,
            )
        print(f"{name}: {total * 1e3:.2f} ms, {macs / total / 1e9:.1f} GMAC/s\n")


if __name__ == "__main__":
    main()
