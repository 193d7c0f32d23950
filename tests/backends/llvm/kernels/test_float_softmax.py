"""Float softmax and sigmoid against the numerics contract, byte for byte."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcc import numerics
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels.elementwise import FloatUnaryKernel
from qcc.backends.llvm.kernels.float_softmax import FloatSoftmaxKernel
from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, ISAS, at_page_end, blank, bytes_of
from tests.backends.llvm.native import build, executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]
FLOATS = st.floats(width=32) | st.floats(-100, 100, width=32) | st.sampled_from([-87.0, 88.0, 0.0])
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=FLOATS)


def check_softmax(x: np.ndarray, isa: str, threads: int = 2) -> None:
    view = dense_view(x.shape, 4)
    kernel = FloatSoftmaxKernel(x.shape, view, view)
    output = blank(4 * x.size)
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": output}, threads)
    assert output.tobytes() == numerics.softmax(x).tobytes()


def check_sigmoid(x: np.ndarray, isa: str) -> None:
    view = dense_view(x.shape, 4)
    kernel = FloatUnaryKernel("sigmoid", x.shape, view, view)
    output = blank(4 * x.size)
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": output}, 2)
    assert output.tobytes() == numerics.sigmoid(x).tobytes()


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 17, 24, 31, 40, 57, 64, 100, 1000, 1001])
def test_softmax(length: int, isa: str) -> None:
    rng = np.random.default_rng(length)
    spread = np.array([[0.1], [1], [9], [40], [3]], np.float32)
    x = rng.normal(0, 1, (5, length)).astype(np.float32) * spread
    x[4, :: max(1, length // 3)] = rng.choice([np.nan, -np.inf, 3e38, -3e38])
    check_softmax(x, isa)


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=12)
@given(x=ROWS)
def test_any_floats(isa: str, x: np.ndarray) -> None:
    check_softmax(x, isa)
    check_sigmoid(x, isa)


@pytest.mark.parametrize("isa", FLOAT_ISAS)
def test_sigmoid(isa: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0, 30, 1003).astype(np.float32)
    x[:8] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -87.0, -87.1]
    x[8:9].view(np.uint32)[...] = 0xFFC00001
    check_sigmoid(x, isa)


def test_long_rows_and_many_rows() -> None:
    rng = np.random.default_rng(4)
    check_softmax(rng.normal(0, 2, (2, 50257)).astype(np.float32), "x86-avx2")
    check_softmax(rng.normal(0, 2, (2, 3, 50, 10)).astype(np.float32), "x86-avx2", 3)


def test_in_place_and_with_gaps() -> None:
    x = np.random.default_rng(5).normal(0, 2, (6, 19)).astype(np.float32)
    form = executable_form("x86-avx2")
    view = dense_view(x.shape, 4)
    buffer = bytes_of(x)
    run(FloatSoftmaxKernel(x.shape, view, view), form, {"source": buffer, "target": buffer})
    assert buffer.tobytes() == numerics.softmax(x).tobytes()
    kernel = FloatSoftmaxKernel((6, 11), View(8, (76, 4)), dense_view((6, 11), 4))
    output = blank(4 * 66)
    run(kernel, form, {"source": bytes_of(x), "target": output})
    assert output.tobytes() == numerics.softmax(x[:, 2:13]).tobytes()


@pytest.mark.parametrize("length", [1, 5, 13, 30])
def test_not_a_byte_past_the_end_is_touched(length: int) -> None:
    x = np.random.default_rng(length).normal(0, 2, (3, length)).astype(np.float32)
    view = dense_view(x.shape, 4)
    kernel = FloatSoftmaxKernel(x.shape, view, view)
    loaded = machine.load_object(build(kernel, host_instruction_set()).object_code)
    source, target = at_page_end(x), at_page_end(x)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, ctypes.c_int32, ctypes.c_int32)
    signature(loaded.address("kernel"))(source.ctypes.data, target.ctypes.data, 0, 1)
    assert target.tobytes() == numerics.softmax(x).tobytes()


def test_rows_with_gaps_between_elements_are_refused() -> None:
    with pytest.raises(ConfigError, match="contiguous"):
        FloatSoftmaxKernel((2, 3), View(0, (24, 8)), View(0, (12, 4)))


def test_nothing_is_fused_or_called() -> None:
    view = dense_view((3, 1001), 4)
    for name in ISAS:
        isa = INSTRUCTION_SETS[name]
        for kernel in (
            FloatSoftmaxKernel((3, 1001), view, view),
            FloatUnaryKernel("sigmoid", (3, 1001), view, view),
        ):
            text = build(kernel, isa).assembly
            assert not any(word in text for word in ("vfmadd", "vfnmadd", "vfmsub", "vfnmsub"))
            assert not any(word in text for word in ("fmla", "fmadd", "callq", "\tbl\t"))
