"""Quantize and dequantize against the numerics contract, every layout, every instruction set."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc import numerics
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.boundary import DequantizeKernel, Order, QuantizeKernel
from qcc.backends.llvm.kernels.rounding import division_for, exact_fused_multiply_add
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import (
    ISAS,
    at_page_end,
    blank,
    bytes_of,
    constants,
    layout_of,
)
from tests.backends.llvm.native import (
    build,
    executable_form,
    interior,
    outside_intact,
    physical,
    run,
)

HALO = (1, 2, 0, 3)
LAYOUTS = {
    "image": layout_of((1, 3, 7, 9)),
    "image in a halo": layout_of((2, 3, 5, 37), halo=HALO),
    "one channel": layout_of((1, 1, 6, 11), halo=HALO),
    "two planes": layout_of((1, 2, 9, 33)),
    "eight": layout_of((1, 8, 3, 35)),
    "seven of twelve": layout_of((1, 7, 4, 17), stride=12, halo=HALO),
    "three of twelve": layout_of((1, 3, 4, 17), stride=12),
    "many": layout_of((1, 65, 3, 17)),
    "exact blocks": layout_of((1, 32, 2, 32)),
    "29 channels": layout_of((1, 29, 1, 31), halo=HALO),
    "vector": layout_of((3, 1000, 1, 1)),
    "long": layout_of((1, 4, 64, 67)),
}
SPECIAL = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-42, 0.0, -0.0], np.float32)


def values_for(layout: ActivationLayout, scale: float, rng: np.random.Generator) -> np.ndarray:
    """float32 ``[N, C, H, W]``: random, exact halves, neighbours of halves, and odd values."""
    shape = (layout.batch, layout.channels, layout.height, layout.width)
    x = rng.normal(0, 90 * scale, shape).astype(np.float32)
    halves = ((rng.integers(-300, 300, shape) + 0.5) * np.float32(scale)).astype(np.float32)
    nudged = np.nextafter(halves, np.where(rng.random(shape) < 0.5, np.inf, -np.inf))
    kind = rng.integers(0, 8, shape)
    x = np.where(kind < 2, halves, np.where(kind < 4, nudged.astype(np.float32), x))
    return np.where(kind == 7, rng.choice(SPECIAL, shape), x).astype(np.float32)


def in_order(x: np.ndarray, order: Order) -> np.ndarray:
    return x if order == "nchw" else x.transpose(0, 2, 3, 1)


def check_quantize(
    layout: ActivationLayout, order: Order, isa_name: str, threads: int, scale: float, z: int
) -> None:
    rng = np.random.default_rng(7)
    x = values_for(layout, scale, rng)
    isa = executable_form(isa_name)
    kernel = QuantizeKernel.of(layout, order, scale)
    output = blank(layout.size_bytes)
    packed = kernel.pack(isa, scale=scale, zero_point=z, low=3, high=251)
    run(kernel, isa, {"input": bytes_of(in_order(x, order)), "output": output, **constants(packed)},
        threads)  # fmt: skip
    want = numerics.quantize(x, scale, z, "uint8", low=3, high=251).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(interior(layout, output), want)
    assert outside_intact(layout, output, 0x5A)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", ["nchw", "nhwc"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_quantize(layout: ActivationLayout, order: Order, isa: str) -> None:
    check_quantize(layout, order, isa, 1 + layout.width % 3, 0.0173, 114)


@settings(deadline=None, max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 34), st.integers(1, 4), st.integers(1, 70)),
    halo=st.tuples(*[st.integers(0, 2)] * 4),
    order=st.sampled_from(["nchw", "nhwc"]),
    exponent=st.floats(-70, 70),
    z=st.integers(0, 255),
    threads=st.integers(1, 4),
)
def test_quantize_any_shape(
    shape: tuple[int, int, int, int],
    halo: tuple[int, int, int, int],
    order: Order,
    exponent: float,
    z: int,
    threads: int,
) -> None:
    scale = float(np.float32(2.0**exponent))
    check_quantize(layout_of(shape, halo=halo), order, "x86-avx2", threads, scale, z)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("order", ["nchw", "nhwc"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_dequantize(layout: ActivationLayout, order: Order, isa: str) -> None:
    rng = np.random.default_rng(8)
    shape = (layout.batch, layout.channels, layout.height, layout.width)
    q = rng.integers(0, 256, shape).astype(np.uint8)
    form = executable_form(isa)
    kernel = DequantizeKernel(layout, order)
    output = blank(4 * q.size)
    packed = kernel.pack(form, scale=0.0371, zero_point=131)
    operands = {"input": physical(layout, q, 99, rng), "output": output, **constants(packed)}
    run(kernel, form, operands, 1 + layout.width % 3)
    want = in_order(numerics.dequantize(q, 0.0371, 131), order)
    np.testing.assert_array_equal(output.view(np.float32), want.ravel())


@pytest.mark.parametrize("order", ["nchw", "nhwc"])
@pytest.mark.parametrize("shape", [(1, 3, 5, 9), (1, 21, 3, 7), (1, 1, 1, 1), (1, 1001, 1, 1)])
def test_float_tensors_are_not_touched_past_their_end(
    shape: tuple[int, int, int, int], order: Order
) -> None:
    layout = layout_of(shape)
    rng = np.random.default_rng(3)
    x = rng.normal(0, 2, shape).astype(np.float32)
    isa = host_instruction_set()
    activation = blank(layout.size_bytes)
    floats = at_page_end(in_order(x, order))
    for kernel, operands in (
        (QuantizeKernel(layout, order), [floats, activation]),
        (DequantizeKernel(layout, order), [activation, floats]),
    ):
        packed = constants(kernel.pack(isa, scale=0.02, zero_point=128))
        loaded = machine.load_object(build(kernel, isa).object_code)
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int32, ctypes.c_int32)
        pointers = [a.ctypes.data for a in (operands[0], packed["parameters"], operands[1])]
        signature(loaded.address("kernel"))(*pointers, 0, 1)
    want = numerics.dequantize(numerics.quantize(x, 0.02, 128, "uint8"), 0.02, 128)
    np.testing.assert_array_equal(floats.view(np.float32), in_order(want, order).ravel())


@given(st.floats(2.0**-60, 2.0**60, exclude_min=True, exclude_max=True, width=32))
@settings(max_examples=50)
def test_reciprocal_equals_division_where_proved(scale: float) -> None:
    if division_for(scale) != "reciprocal":
        return
    s = np.float32(scale)
    rng = np.random.default_rng(1)
    steps = ((rng.integers(-256, 257, 20000) + 0.5) * s).astype(np.float32)
    x = (steps.view(np.int32) + rng.integers(-2, 3, steps.size)).astype(np.int32).view(np.float32)
    r = np.float32(1 / float(s))
    e = np.float32((1 - float(r) * float(s)) / float(s))
    product = exact_fused_multiply_add(x, np.full_like(x, r), x * e)
    np.testing.assert_array_equal(np.rint(product), np.rint(x / s))


def test_reciprocal_is_proved_for_usual_scales_and_not_beyond() -> None:
    assert all(division_for(s) == "reciprocal" for s in (1 / 255, 1 / 127, 0.5, 1.0, 0.0235))
    assert division_for(1e-40) == "divide"
    kernel = QuantizeKernel(layout_of((1, 3, 2, 2)), "nchw", "reciprocal")
    with pytest.raises(ConfigError, match="cannot be replaced"):
        kernel.pack(host_instruction_set(), scale=1e-40, zero_point=0)
