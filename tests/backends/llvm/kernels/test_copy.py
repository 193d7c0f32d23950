"""Copies and fills against numpy's own views, for every way elements can move."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.copy import CopyKernel, FillKernel, border_parts
from qcc.backends.llvm.kernels.nest import View, activation_view, broadcast_view, dense_view
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import (
    FILL,
    ISAS,
    at_page_end,
    blank,
    bytes_of,
    constants,
    layout_of,
)
from tests.backends.llvm.native import (
    aligned,
    build,
    executable_form,
    interior,
    outside_intact,
    physical,
    run,
)

DTYPES: dict[int, Any] = {1: np.uint8, 2: np.int16, 4: np.float32, 8: np.int64}


def view_of(base: NDArray[Any], part: NDArray[Any]) -> View:
    """The view of ``base``'s memory that numpy calls ``part``."""
    return View(part.ctypes.data - base.ctypes.data, part.strides)


def numbers(shape: tuple[int, ...], size: int) -> NDArray[Any]:
    rng = np.random.default_rng(5)
    return rng.integers(-(2**15), 2**15, shape).astype(DTYPES[size])


def check_copy(
    x: NDArray[Any], part: NDArray[Any], isa: str = "x86-avx2", threads: int = 1
) -> None:
    """Copy ``part`` (a view of ``x``) into a dense tensor."""
    form = executable_form(isa)
    size = x.dtype.itemsize
    target = dense_view(part.shape, size)
    kernel = CopyKernel(part.shape, view_of(x, part), target, size)
    output = blank(part.size * size)
    run(kernel, form, {"source": bytes_of(x), "target": output}, threads)
    np.testing.assert_array_equal(output, np.frombuffer(part.tobytes(), np.uint8))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [1, 2, 7, 8, 9, 31, 33, 64, 65])
@pytest.mark.parametrize("first", [0, 1])
def test_every_other_channel(channels: int, first: int, isa: str) -> None:
    x = numbers((3, 5, 2 * channels), 1)
    check_copy(x, x[:, :, first::2], isa, threads=2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((2, 3, 9, 17), (0, 2, 3, 1)),
        ((2, 9, 17, 3), (0, 3, 1, 2)),
        ((1, 33, 7, 35), (0, 2, 3, 1)),
        ((64, 49), (1, 0)),
        ((5, 6, 7), (2, 1, 0)),
        ((3, 4, 5, 6), (2, 0, 3, 1)),
        ((2, 3, 4, 5, 3, 2), (5, 3, 1, 0, 2, 4)),
    ],
)
def test_transpose(shape: tuple[int, ...], order: tuple[int, ...], size: int, isa: str) -> None:
    x = numbers(shape, size)
    check_copy(x, x.transpose(order), isa, threads=2)


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_any_slice_and_order(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 5))
    shape = tuple(data.draw(st.integers(1, 40 if rank < 3 else 9)) for _ in range(rank))
    x = numbers(shape, data.draw(st.sampled_from([1, 2, 4, 8])))
    picks = []
    for n in shape:
        step = data.draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2]))
        start = data.draw(st.integers(0, n - 1))
        picks.append(slice(start, None, step))
    part = x[tuple(picks)].transpose(data.draw(st.permutations(range(rank))))
    check_copy(x, part, threads=data.draw(st.integers(1, 3)))


@pytest.mark.parametrize("size", [1, 4])
def test_expand(size: int) -> None:
    x = numbers((3, 1, 5, 1), size)
    check_copy(x, np.broadcast_to(x, (2, 3, 4, 5, 37)))
    check_copy(x, np.broadcast_to(x.transpose(0, 3, 1, 2), (3, 9, 21, 5)))
    check_copy(x[:1, :, :1], np.broadcast_to(x[:1, :, :1], (3, 1, 5, 7)))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_long_runs_are_shared_out(threads: int) -> None:
    x = numbers((3, 70001), 1)
    check_copy(x, x[:1], threads=threads)
    check_copy(x, x[:, 1:70000], threads=threads)


@pytest.mark.parametrize("blocks", [2, 3])
def test_depth_to_space(blocks: int) -> None:
    x = numbers((2, 5 * blocks**2, 4, 6), 1)
    part = x.reshape(2, blocks, blocks, 5, 4, 6).transpose(0, 3, 4, 1, 5, 2)
    check_copy(x, part)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("channels", "stride"), [(3, 0), (20, 0), (20, 32), (64, 0), (7, 8)])
def test_between_layouts(channels: int, stride: int, isa: str) -> None:
    rng = np.random.default_rng(4)
    source = layout_of((2, channels, 5, 7), halo=(1, 1, 1, 1))
    target = layout_of((2, channels, 5, 7), stride, halo=(0, 2, 1, 0))
    x = rng.integers(0, 256, (2, channels, 5, 7)).astype(np.uint8)
    output = blank(target.size_bytes)
    operands = {"source": physical(source, x, 9, rng), "target": output}
    run(CopyKernel.between(source, target), executable_form(isa), operands, 3)
    np.testing.assert_array_equal(interior(target, output), x.transpose(0, 2, 3, 1))
    assert outside_intact(target, output, FILL)


def test_channel_slices_leave_their_neighbours_alone() -> None:
    rng = np.random.default_rng(4)
    source, target = layout_of((1, 13, 5, 7)), layout_of((1, 40, 5, 7), halo=(1, 1, 1, 1))
    x = rng.integers(0, 256, (1, 13, 5, 7)).astype(np.uint8)
    kernel = CopyKernel((1, 5, 7, 13), activation_view(source), activation_view(target, 21))
    output = blank(target.size_bytes)
    form = executable_form("x86-avx2")
    run(kernel, form, {"source": physical(source, x, 9, rng), "target": output})
    got = interior(target, output)
    np.testing.assert_array_equal(got[..., 21:34], x.transpose(0, 2, 3, 1))
    assert (got[..., :21] == FILL).all()
    assert (got[..., 34:] == FILL).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 4])
def test_gather(axis: int, size: int, isa: str) -> None:
    rng = np.random.default_rng(6)
    x = numbers((6, 7, 21), size)
    indices = rng.integers(0, x.shape[axis], 19)
    want = np.take(x, indices, axis=axis)
    strides = list(x.strides)
    step, strides[axis] = strides[axis], 0
    kernel = CopyKernel(
        want.shape, View(0, tuple(strides)), dense_view(want.shape, size), size, (axis,)
    )
    form = executable_form(isa)
    output = blank(want.size * size)
    packed = constants(kernel.pack(form, **{f"indices{axis}": indices * step}))
    run(kernel, form, {"source": bytes_of(x), "target": output, **packed}, 2)
    np.testing.assert_array_equal(output, np.frombuffer(want.tobytes(), np.uint8))


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    pads=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=4),
    size=st.sampled_from([1, 2, 4, 8]),
)
@settings(deadline=None, max_examples=12)
def test_pad_is_a_copy_and_fills(shape: list[int], pads: list[tuple[int, int]], size: int) -> None:
    pads = pads[: len(shape)]
    x = numbers(tuple(shape), size)
    want = np.pad(x, pads, constant_values=x.dtype.type(77))
    output = blank(want.size * size)
    whole = dense_view(want.shape, size)
    before, after = [b for b, _ in pads], [a for _, a in pads]
    form = executable_form("x86-avx2")
    copy = CopyKernel(x.shape, dense_view(x.shape, size), whole.shifted(before), size)
    run(copy, form, {"source": bytes_of(x), "target": output}, 2)
    for first, sizes in border_parts(shape, before, after):
        fill = FillKernel(sizes, whole.shifted(first), size)
        packed = constants(fill.pack(form, value=x.dtype.type(77)))
        run(fill, form, {"target": output, **packed}, 2)
    np.testing.assert_array_equal(output, np.frombuffer(want.tobytes(), np.uint8))


@pytest.mark.parametrize("isa", ISAS)
def test_fill_writes_its_elements_only(isa: str) -> None:
    form = executable_form(isa)
    x = np.full((5, 9, 21), FILL * 0x101, np.int16)
    part = x[1:4, ::2, 3:20]
    kernel = FillKernel(part.shape, view_of(x, part), 2)
    output = aligned(np.frombuffer(x.tobytes(), np.uint8))
    run(kernel, form, {"target": output, **constants(kernel.pack(form, value=np.int16(-2)))})
    part[...] = -2
    np.testing.assert_array_equal(output.view(np.int16).reshape(x.shape), x)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("size", [1, 4])
def test_nothing_outside_the_source_is_read(order: tuple[int, int], size: int) -> None:
    x = numbers((19, 37), size)
    part = x.transpose(order)
    isa = host_instruction_set()
    kernel = CopyKernel(part.shape, view_of(x, part), dense_view(part.shape, size), size)
    loaded = machine.load_object(build(kernel, isa).object_code)
    source, target = at_page_end(x), at_page_end(x)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, ctypes.c_int32, ctypes.c_int32)
    signature(loaded.address("kernel"))(source.ctypes.data, target.ctypes.data, 0, 1)
    np.testing.assert_array_equal(target, np.frombuffer(part.tobytes(), np.uint8))


def test_bad_copies_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 bytes"):
        CopyKernel((2,), View(0, (3,)), View(0, (3,)), 3)
    with pytest.raises(ConfigError, match="empty axis"):
        CopyKernel((0,), View(0, (1,)), View(0, (1,)))
    with pytest.raises(ConfigError, match="takes its source offsets from a table"):
        CopyKernel((2,), View(0, (1,)), View(0, (1,)), indexed=(0,))
    with pytest.raises(ConfigError, match="tables of these lengths"):
        CopyKernel((2,), View(0, (0,)), View(0, (1,)), indexed=(0,)).pack(host_instruction_set())
    with pytest.raises(ConfigError, match="does not broadcast"):
        broadcast_view((2, 3), (2, 4), 1)
    with pytest.raises(ConfigError, match="one value of 4 bytes"):
        FillKernel((2,), View(0, (4,)), 4).pack(host_instruction_set(), value=1)
