"""Pooling and means against the ops' own evaluations, on every instruction set, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.backends.llvm.kernels.pooling import AveragePoolKernel, MaxPoolKernel
from qcc.backends.llvm.kernels.reduce import Form, ReduceMeanKernel
from qcc.backends.llvm.kernels.window import Window
from qcc.errors import ConfigError
from qcc.ir.types import Quant
from tests.backends.llvm.kernels.buffers import (
    FILL,
    ISAS,
    blank,
    bytes_of,
    constants,
    layout_of,
    reference,
)
from tests.backends.llvm.native import executable_form, interior, outside_intact, physical, run

X = Quant.make("uint8", 0.0173, 77)
Y = Quant.make("uint8", 0.0141, 103, low=5, high=250)


@dataclass(frozen=True)
class Pool:
    """One pooling: input shape ``[N, C, H, W]`` and ONNX's attributes."""

    shape: tuple[int, int, int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    ceil: int = 0

    @property
    def window(self) -> Window:
        return Window(self.kernel, self.strides, self.dilations, self.pads[:2])

    def attributes(self) -> dict[str, Any]:
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
            "ceil_mode": self.ceil,
        }


POOLS = {
    "resnet": Pool((1, 64, 12, 12), (3, 3), (2, 2), (1, 1, 1, 1)),
    "two": Pool((2, 7, 8, 9), (2, 2), (2, 2)),
    "ceil": Pool((1, 33, 7, 8), (3, 3), (2, 2), (0, 0, 0, 0), ceil=1),
    "spp": Pool((1, 20, 7, 9), (5, 5), (1, 1), (2, 2, 2, 2)),
    "wide": Pool((1, 3, 17, 19), (3, 9), (1, 1), (1, 4, 1, 4)),
    "uneven pads": Pool((1, 17, 6, 7), (3, 4), (2, 1), (2, 0, 1, 3)),
    "dilated": Pool((1, 12, 9, 9), (2, 3), (2, 1), (1, 2, 0, 2), (3, 2)),
    "spp, many channels": Pool((2, 300, 9, 7), (5, 5), (1, 1), (2, 2, 2, 2)),
    "dilated by table": Pool((1, 40, 13, 11), (4, 4), (1, 2), (3, 3, 3, 3), (2, 2)),
    "global": Pool((2, 40, 7, 5), (7, 5)),
    "one channel": Pool((1, 1, 9, 33), (3, 3), (2, 2), (1, 1, 1, 1)),
    "ceil past the pad": Pool((1, 5, 5, 5), (2, 2), (3, 3), (1, 1, 1, 1), ceil=1),
}


def stored(shape: tuple[int, ...], extreme: int = 0) -> np.ndarray:
    rng = np.random.default_rng(11)
    if extreme:
        return np.full(shape, 255 if extreme == 1 else 0, np.uint8)
    return rng.integers(0, 256, shape).astype(np.uint8)


def check_max(pool: Pool, isa: str, threads: int, halo: int, extra: int) -> None:
    x = stored(pool.shape)
    want = reference("q.max_pool", [(x, X)], X, (), **pool.attributes())
    source = layout_of(pool.shape, halo=(halo, halo, 0, 0))
    target = layout_of(want.shape, pool.shape[1] + extra & ~3, (0, halo, halo, 0))
    kernel = MaxPoolKernel(source, target, pool.window)
    output = blank(target.size_bytes)
    form = executable_form(isa)
    operands = {"input": physical(source, x, 255, np.random.default_rng(0)), "output": output}
    run(kernel, form, {**operands, **constants(kernel.pack(form))}, threads)
    np.testing.assert_array_equal(interior(target, output), want.transpose(0, 2, 3, 1))
    assert outside_intact(target, output, FILL)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_max_pool(pool: Pool, isa: str) -> None:
    check_max(pool, isa, 1 + pool.shape[2] % 3, pool.shape[1] % 2, 7)


def check_average(
    pool: Pool, isa: str, threads: int, include: bool, form: Form, extreme: int = 0
) -> None:
    x = stored(pool.shape, extreme)
    element: str | Quant = Y if form == "uint8" else "float32"
    attributes = {**pool.attributes(), "count_include_pad": int(include)}
    want = reference("q.average_pool", [(x, X)], element, (), **attributes)
    source, target = (
        layout_of(pool.shape, halo=(1, 1, 0, 0)),
        layout_of(want.shape, halo=(0, 1, 1, 0)),
    )
    kernel = AveragePoolKernel(source, target, pool.window, include, pool.pads[2:], form)
    output = blank(want.size * 4 if form == "float32" else target.size_bytes)
    isa_form = executable_form(isa)
    scales: dict[str, Any] = {
        "output_scale": Y.scale[0],
        "output_zero_point": 103,
        "low": 5,
        "high": 250,
    }
    packed = kernel.pack(
        isa_form, input_scale=X.scale[0], input_zero_point=77, **(scales if form == "uint8" else {})
    )
    operands = {"input": physical(source, x, 255, np.random.default_rng(0)), "output": output}
    run(kernel, isa_form, {**operands, **constants(packed)}, threads)
    want = want.transpose(0, 2, 3, 1)
    if form == "float32":
        np.testing.assert_array_equal(output.view(np.float32), want.ravel())
        return
    np.testing.assert_array_equal(interior(target, output), want)
    assert outside_intact(target, output, FILL)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_average_pool(pool: Pool, include: bool, isa: str) -> None:
    check_average(pool, isa, 1 + pool.shape[2] % 3, include, "uint8")


@pytest.mark.parametrize("extreme", [0, 1, 2])
@pytest.mark.parametrize("form", ["uint8", "float32"])
def test_average_of_many_taps(form: Form, extreme: int) -> None:
    pool = Pool((1, 37, 23, 30), (17, 19), (3, 3), (8, 9, 8, 9))
    check_average(pool, "x86-avx2", 2, True, form, extreme)


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_any_pool(data: st.DataObject) -> None:
    pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
    kernel, strides = data.draw(pairs), data.draw(pairs)
    dilations = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    # Padding below the kernel, and a window that always meets the image.
    pad = [data.draw(st.integers(0, kernel[i % 2] - 1)) if dilations[i % 2] == 1 else 0
           for i in range(4)]  # fmt: skip
    pads = (pad[0], pad[1], pad[2], pad[3])
    shape = (
        data.draw(st.integers(1, 2)),
        data.draw(st.integers(1, 70)),
        max(reach[0], data.draw(st.integers(1, 9))),
        max(reach[1], data.draw(st.integers(1, 9))),
    )
    pool = Pool(shape, kernel, strides, pads, dilations, data.draw(st.integers(0, 1)))
    threads = data.draw(st.integers(1, 3))
    check_max(pool, "x86-avx2", threads, data.draw(st.integers(0, 1)), data.draw(st.integers(0, 9)))
    check_average(pool, "x86-avx2", threads, data.draw(st.booleans()), "uint8")


def check_mean(
    sizes: tuple[int, ...], axes: tuple[int, ...], isa: str, form: Form = "uint8", extreme: int = 0
) -> None:
    x = stored(sizes, extreme)
    element: str | Quant = Y if form == "uint8" else "float32"
    want = reference("q.reduce_mean", [(x, X)], element, (), axes=list(axes), keepdims=1)
    size = 1 if form == "uint8" else 4
    strides = dense_view(want.shape, size).strides
    strides = tuple(0 if axis in axes else s for axis, s in enumerate(strides))
    kernel = ReduceMeanKernel(sizes, axes, dense_view(sizes, 1), View(0, strides), form)
    isa_form = executable_form(isa)
    scales: dict[str, Any] = {
        "output_scale": Y.scale[0],
        "output_zero_point": 103,
        "low": 5,
        "high": 250,
    }
    packed = kernel.pack(
        isa_form, input_scale=X.scale[0], input_zero_point=77, **(scales if form == "uint8" else {})
    )
    output = blank(want.size * size)
    run(kernel, isa_form, {"source": bytes_of(x), "target": output, **constants(packed)}, 2)
    np.testing.assert_array_equal(output, np.frombuffer(want.tobytes(), np.uint8))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("sizes", "axes"),
    [
        ((2, 7, 7, 40), (1, 2)),
        ((1, 7, 7, 1280), (1, 2)),
        ((1, 20, 31, 33), (1, 2)),
        ((1, 5, 300, 9), (2,)),
        ((2, 5, 6, 7), (3,)),
        ((2, 5, 6, 70), (3,)),
        ((2, 5, 6, 70), (1, 3)),
        ((2, 5, 6, 7), (0, 1, 2, 3)),
        ((3, 4, 5), (0,)),
        ((4, 1, 1, 13), (1, 2)),
    ],
)
def test_mean(sizes: tuple[int, ...], axes: tuple[int, ...], isa: str) -> None:
    check_mean(sizes, axes, isa)


@pytest.mark.parametrize("extreme", [1, 2])
@pytest.mark.parametrize("form", ["uint8", "float32"])
def test_mean_of_extremes(form: Form, extreme: int) -> None:
    check_mean((1, 257, 1, 33), (1,), "x86-avx2", form, extreme)
    check_mean((1, 258, 2, 33), (1, 2), "x86-avx2", form, extreme)
    check_mean((1, 64, 64, 20), (1, 2), "x86-avx2", form, extreme)


@settings(deadline=None, max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    picks=st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_mean_over_any_axes(sizes: list[int], picks: list[bool]) -> None:
    axes = tuple(axis for axis in range(len(sizes)) if picks[axis])
    check_mean(tuple(sizes), axes or (0,), "x86-avx2")


def test_huge_scales_are_clamped_as_the_contract_says() -> None:
    isa = host_instruction_set()
    x = np.array([[0, 0], [255, 255], [1, 2]], np.uint8)
    wide, tiny = Quant.make("uint8", 1e20, 1), Quant.make("uint8", 1e-20, 9)
    want = reference("q.reduce_mean", [(x, wide)], tiny, (), axes=[1], keepdims=1)
    kernel = ReduceMeanKernel((3, 2), (1,), View(0, (2, 1)), View(0, (1, 0)), clamp_float=True)
    arguments: dict[str, Any] = {"input_scale": 1e20, "input_zero_point": 1, "output_scale": 1e-20}
    output = blank(3)
    packed = constants(kernel.pack(isa, **arguments, output_zero_point=9))
    run(kernel, isa, {"source": bytes_of(x), "target": output, **packed})
    np.testing.assert_array_equal(output, want.ravel())
    with pytest.raises(ConfigError, match="clamp_float"):
        ReduceMeanKernel((3, 2), (1,), View(0, (2, 1)), View(0, (1, 0))).pack(isa, **arguments)


def test_refusals() -> None:
    isa = host_instruction_set()
    view = View(0, (1,))
    with pytest.raises(ConfigError, match="stride 0"):
        ReduceMeanKernel((4,), (0,), view, view)
    with pytest.raises(ConfigError, match="can pass 2\\^31"):
        ReduceMeanKernel((2**24,), (0,), view, View(0, (0,)))
    kernel = ReduceMeanKernel((4,), (0,), view, View(0, (0,)))
    with pytest.raises(ConfigError, match="has an output scale"):
        kernel.pack(isa, input_scale=1.0, input_zero_point=0)
    source, target = layout_of((1, 4, 4, 4)), layout_of((1, 8, 4, 4))
    with pytest.raises(ConfigError, match="keeps images and channels"):
        MaxPoolKernel(source, target, Window())
    with pytest.raises(ConfigError, match="wholly in the padding"):
        AveragePoolKernel(source, layout_of((1, 4, 9, 4)), Window())
