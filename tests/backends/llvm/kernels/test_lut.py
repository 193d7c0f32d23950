"""Lookup tables and concatenation against numpy, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc import numerics
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.concat import concat_kernels
from qcc.backends.llvm.kernels.copy import CopyKernel
from qcc.backends.llvm.kernels.lut import LutKernel, clamp_bounds
from qcc.backends.llvm.kernels.nest import dense_view
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

RANDOM = np.random.default_rng(2).integers(0, 256, 256).astype(np.uint8)
TABLES = {
    "random": RANDOM,
    "identity": np.arange(256, dtype=np.uint8),
    "reversed": np.arange(256, dtype=np.uint8)[::-1].copy(),
    "relu": np.maximum(np.arange(256), 117).astype(np.uint8),
    "clip": np.clip(np.arange(256), 20, 220).astype(np.uint8),
    "constant": np.full(256, 9, np.uint8),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_byte_at_every_length(table: np.ndarray, isa: str) -> None:
    form = executable_form(isa)
    x = np.concatenate([np.arange(256), np.arange(37)]).astype(np.uint8)
    kernel = LutKernel((293,), dense_view((293,), 1), dense_view((293,), 1))
    buffer = bytes_of(x)
    operands = {"source": buffer, "target": buffer, **constants(kernel.pack(form, table=table))}
    run(kernel, form, operands, 2)
    np.testing.assert_array_equal(buffer, table[x])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("table", ["random", "clip"])
@pytest.mark.parametrize("channels", [3, 64, 77])
def test_between_layouts(channels: int, table: str, isa: str) -> None:
    rng = np.random.default_rng(4)
    shape = (2, channels, 5, 9)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    source, target = layout_of(shape, halo=(1, 1, 0, 2)), layout_of(shape, 80, (0, 2, 1, 0))
    kernel = LutKernel.between(source, target, TABLES[table])
    assert kernel.clamp == (table == "clip")
    form = executable_form(isa)
    output = blank(target.size_bytes)
    packed = constants(kernel.pack(form, table=TABLES[table]))
    run(kernel, form, {"source": physical(source, x, 7, rng), "target": output, **packed}, 3)
    want = TABLES[table][x].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(interior(target, output), want)
    assert outside_intact(target, output, FILL)


@given(st.integers(0, 255), st.integers(0, 255))
def test_only_clamps_are_taken_for_clamps(low: int, high: int) -> None:
    low, high = min(low, high), max(low, high)
    table = np.clip(np.arange(256), low, high)
    assert clamp_bounds(table) == (low, high)
    table[128] ^= 1
    assert clamp_bounds(table) in (None, (128, 128), (129, 129)) or low == high


@settings(deadline=None, max_examples=15)
@given(
    channels=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    axis=st.integers(0, 3),
    data=st.data(),
)
def test_concat(channels: list[int], axis: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(1)
    onnx_axis = (0, 2, 3, 1)[axis]
    shapes = []
    for size in channels:
        shape = [2, 13, 3, 4]
        shape[onnx_axis] = size if axis == 3 else 1 + size % 4
        shapes.append((shape[0], shape[1], shape[2], shape[3]))
    arrays = [rng.integers(0, 256, s).astype(np.uint8) for s in shapes]
    out = Quant.make("uint8", 0.02, 120)
    scaled = [data.draw(st.booleans()) for _ in shapes]
    quants = [Quant.make("uint8", 0.013 + 0.005 * i, 90) if s else out
              for i, s in enumerate(scaled)]  # fmt: skip
    inputs = list(zip(arrays, quants, strict=True))
    want = reference("q.concat", [(a, q) for a, q in inputs], out, (), axis=onnx_axis)
    n, c, h, w = want.shape
    target = layout_of((n, c, h, w), halo=(1, 1, 1, 1))
    sources = [layout_of(s, halo=(0, 1, 0, 1)) for s in shapes]
    output = blank(target.size_bytes)
    form = executable_form("x86-avx2")
    kernels = concat_kernels(sources, target, axis, scaled)
    for kernel, source, array, quant in zip(kernels, sources, arrays, quants, strict=True):
        operands = {"source": physical(source, array, 7, rng), "target": output}
        if not isinstance(kernel, CopyKernel):
            table = numerics.unary_table(
                lambda x: x, quant.scale[0], 90, "uint8", 0.02, 120, "uint8"
            )
            operands |= constants(kernel.pack(form, table=table))
        run(kernel, form, operands, 2)
    np.testing.assert_array_equal(interior(target, output), want.transpose(0, 2, 3, 1))
    pixels = output.reshape(target.batch, target.rows, target.columns, -1)
    assert (pixels[..., c:] == FILL).all()
    assert outside_intact(target, output, FILL)


def test_refusals() -> None:
    view = dense_view((4,), 1)
    isa = host_instruction_set()
    with pytest.raises(ConfigError, match="256 entries"):
        LutKernel((4,), view, view).pack(isa, table=np.zeros(255))
    with pytest.raises(ConfigError, match="more than clamp"):
        LutKernel((4,), view, view, clamp=True).pack(isa, table=RANDOM)
    part, whole = layout_of((1, 4, 2, 2)), layout_of((1, 9, 2, 2))
    with pytest.raises(ConfigError, match="8 long"):
        concat_kernels([part, part], whole, 3)
    with pytest.raises(ConfigError, match="does not fit"):
        concat_kernels([part, whole], whole, 1)
