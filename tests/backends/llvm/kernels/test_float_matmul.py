"""Float matrix products against the numerics contract, byte for byte."""

from __future__ import annotations

import ctypes
import dataclasses
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc import numerics
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels import float_matmul
from qcc.backends.llvm.kernels.float_matmul import FloatMatmulKernel
from qcc.backends.llvm.kernels.nest import View, broadcast_view, dense_view
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, ISAS, at_page_end, blank, bytes_of
from tests.backends.llvm.native import build, executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]
SIZES = st.tuples(st.integers(1, 21), st.integers(1, 12), st.integers(1, 70))


def kernel_of(a: tuple[int, ...], b: tuple[int, ...]) -> FloatMatmulKernel:
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    rows, depth, columns = a[-2], a[-1], b[-1]
    return FloatMatmulKernel(
        batch,
        rows,
        depth,
        columns,
        broadcast_view(a, (*batch, rows, depth), 4),
        broadcast_view(b, (*batch, depth, columns), 4),
        dense_view((*batch, rows, columns), 4),
    )


def check(a: np.ndarray, b: np.ndarray, isa: str = "x86-avx2", threads: int = 2) -> None:
    wanted = numerics.matmul(a, b)
    output = blank(wanted.nbytes)
    operands = {"a": bytes_of(a), "b": bytes_of(b), "output": output}
    run(kernel_of(a.shape, b.shape), executable_form(isa), operands, threads)
    assert output.tobytes() == wanted.tobytes()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=12)
@given(sizes=SIZES)
def test_any_sizes(isa: str, sizes: tuple[int, int, int]) -> None:
    rows, depth, columns = sizes
    check(random(2, rows, depth), random(2, depth, columns), isa)


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("columns", [16, 32, 33, 64, 65])
def test_attention(isa: str, columns: int) -> None:
    check(random(1, 3, 40, 32), random(1, 3, 32, columns), isa, 3)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3, 4, 5), (5, 6)),
        ((4, 5), (2, 3, 5, 6)),
        ((2, 1, 4, 5), (1, 3, 5, 6)),
        ((3, 1, 5), (3, 5, 1)),
        ((3, 17, 1), (1, 1, 9)),
    ],
)
def test_leading_axes_broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    check(random(*a), random(*b))


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("depth", [127, 256, 300, 600])
def test_long_sums_wait_in_the_output(isa: str, depth: int) -> None:
    with mock.patch.object(float_matmul, "PANEL_BYTES", 128 * 64):
        check(random(35, depth), random(depth, 37), isa)


def test_few_panels_share_rows() -> None:
    check(random(1, 203, 20), random(1, 20, 16), threads=3)


def test_what_is_not_finite() -> None:
    a, b = random(1, 9, 6), random(1, 6, 20)
    a[0, :3, 2] = [np.inf, np.nan, -np.inf]
    b[0, 2, :5] = [0, -0.0, np.inf, -np.inf, np.nan]
    b[0, 4] = 3e38
    a[0, 5] = 3e38
    check(a, b)
    check(np.full((2, 3), -0.0, np.float32), np.ones((3, 4), np.float32))


def test_the_rows_of_operands_may_have_gaps() -> None:
    a, b = random(10, 12), random(8, 40)
    kernel = FloatMatmulKernel(
        (), 10, 8, 25, View(8, (48, 4)), View(20, (160, 4)), dense_view((10, 25), 4)
    )
    output = blank(1000)
    operands = {"a": bytes_of(a), "b": bytes_of(b), "output": output}
    run(kernel, executable_form("x86-avx2"), operands)
    assert output.tobytes() == numerics.matmul(a[:, 2:10], b[:, 5:30]).tobytes()


@pytest.mark.parametrize("columns", [1, 5, 16, 23])
@pytest.mark.parametrize("rows", [1, 30])
def test_not_a_byte_past_the_end_is_touched(rows: int, columns: int) -> None:
    a, b = random(rows, 7), random(7, columns)
    kernel = kernel_of(a.shape, b.shape)
    loaded = machine.load_object(build(kernel, host_instruction_set()).object_code)
    output = at_page_end(np.zeros((rows, columns), np.float32))
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int32, ctypes.c_int32)
    arrays = [at_page_end(a), at_page_end(b), output]
    signature(loaded.address("kernel"))(*(array.ctypes.data for array in arrays), 0, 1)
    assert output.tobytes() == numerics.matmul(a, b).tobytes()


def test_what_is_refused() -> None:
    kernel = kernel_of((2, 3), (3, 4))
    with pytest.raises(ConfigError, match="side by side"):
        dataclasses.replace(kernel, b=View(0, (4, 12)))
    with pytest.raises(ConfigError, match="2 strides"):
        dataclasses.replace(kernel, a=View(0, (0, 12, 4)))
    with pytest.raises(ConfigError, match="without elements"):
        dataclasses.replace(kernel, depth=0)


def test_products_are_fused_and_nothing_is_called() -> None:
    for name in ISAS:
        text = build(kernel_of((2, 40, 33), (2, 33, 50)), INSTRUCTION_SETS[name]).assembly
        assert any(word in text for word in ("vfmadd", "fmla"))
        assert not any(word in text for word in ("vmulps", "fmul", "callq", "\tbl\t"))
