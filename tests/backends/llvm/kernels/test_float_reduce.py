"""Sums, means and lengths of float rows, and unary ops, byte for byte."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcc import curves, numerics
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels.elementwise import FloatUnaryKernel, UnaryOp
from qcc.backends.llvm.kernels.float_reduce import FloatReduceKernel, Reduction
from qcc.backends.llvm.kernels.nest import dense_view
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, ISAS, at_page_end, blank, bytes_of
from tests.backends.llvm.native import build, executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]
FLOATS = st.floats(width=32) | st.floats(-100, 100, width=32) | st.sampled_from([-0.0, 2.0])
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=FLOATS)
REDUCTIONS: dict[Reduction, Any] = {
    "sum": numerics.row_sum,
    "mean": numerics.row_mean,
    "length": numerics.row_length,
}
UNARY: dict[UnaryOp, Any] = {"square": np.square, "sqrt": np.sqrt, "reciprocal": np.reciprocal}


@pytest.mark.parametrize("isa", X86)
@pytest.mark.parametrize("op", REDUCTIONS)
@settings(deadline=None, max_examples=10)
@given(x=ROWS)
def test_reductions(isa: str, op: Reduction, x: np.ndarray) -> None:
    output = blank(4 * len(x))
    kernel = FloatReduceKernel(op, *x.shape)
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": output}, 2)
    assert output.tobytes() == REDUCTIONS[op](x).tobytes()


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("op", UNARY)
def test_unary(isa: str, op: UnaryOp) -> None:
    x = np.random.default_rng(0).normal(0, 30, 1003).astype(np.float32)
    x[:7] = [np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, -1e-40]
    view = dense_view(x.shape, 4)
    output = blank(x.nbytes)
    kernel = FloatUnaryKernel(op, x.shape, view, view)
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": output}, 2)
    with np.errstate(all="ignore"):
        wanted = UNARY[op](x)
    found = output.view(np.float32)
    assert np.array_equal(found, wanted, equal_nan=True)
    # Which NaN a root of a negative number is, x86 and AArch64 say differently.
    numbers = ~np.isnan(wanted)
    assert np.array_equal(np.signbit(found[numbers]), np.signbit(wanted[numbers]))


CURVES: dict[UnaryOp, Any] = {
    "tanh": curves.tanh,
    "gelu": curves.gelu,
    "gelu_tanh": curves.gelu_tanh,
}


@pytest.mark.parametrize("isa", X86)
@pytest.mark.parametrize("op", CURVES)
@settings(deadline=None, max_examples=8)
@given(x=ROWS)
def test_curves(isa: str, op: UnaryOp, x: np.ndarray) -> None:
    spread = np.random.default_rng(x.size).normal(0, 4, 300).astype(np.float32)
    values = np.concatenate([x.ravel(), spread])
    view = dense_view(values.shape, 4)
    output = blank(values.nbytes)
    kernel = FloatUnaryKernel(op, values.shape, view, view)
    run(kernel, executable_form(isa), {"source": bytes_of(values), "target": output}, 2)
    assert output.tobytes() == CURVES[op](values).tobytes()


@pytest.mark.parametrize("length", [1, 5, 13, 30])
def test_not_a_byte_past_the_end_is_touched(length: int) -> None:
    x = np.random.default_rng(length).normal(0, 2, (3, length)).astype(np.float32)
    kernel = FloatReduceKernel("mean", *x.shape)
    loaded = machine.load_object(build(kernel, host_instruction_set()).object_code)
    source, target = at_page_end(x), at_page_end(x[:, :1])
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, ctypes.c_int32, ctypes.c_int32)
    signature(loaded.address("kernel"))(source.ctypes.data, target.ctypes.data, 0, 1)
    assert target.tobytes() == numerics.row_mean(x).tobytes()


@pytest.mark.parametrize("name", ISAS)
def test_nothing_is_fused_or_called(name: str) -> None:
    view = dense_view((1003,), 4)
    kernels: list[Any] = [FloatReduceKernel(op, 3, 1001) for op in REDUCTIONS]
    kernels += [FloatUnaryKernel(op, (1003,), view, view) for op in (*UNARY, *CURVES)]
    for kernel in kernels:
        text = build(kernel, INSTRUCTION_SETS[name]).assembly
        assert not any(word in text for word in ("vfmadd", "vfnmadd", "vfmsub", "vfnmsub"))
        assert not any(word in text for word in ("fmla", "fmadd", "callq", "\tbl\t"))
