"""Layer normalization against the numerics contract, byte for byte."""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcc import numerics
from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels.layer_norm import LayerNormKernel
from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, ISAS, at_page_end, blank, bytes_of
from tests.backends.llvm.native import build, executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]
FLOATS = st.floats(width=32) | st.floats(-100, 100, width=32) | st.sampled_from([-0.0, 1.0])
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=FLOATS)


def kernel_of(shape: tuple[int, ...], epsilon: float = 1e-5, bias: bool = True) -> LayerNormKernel:
    view = dense_view(shape, 4)
    return LayerNormKernel(shape, view, view, epsilon, bias)


def check(x: np.ndarray, isa: str, bias: bool = True, epsilon: float = 1e-5) -> None:
    rng = np.random.default_rng(x.size)
    scale, shift = rng.normal(1, 0.2, (2, x.shape[-1])).astype(np.float32)
    output = blank(4 * x.size)
    operands = {"source": bytes_of(x), "scale": bytes_of(scale), "target": output}
    if bias:
        operands["bias"] = bytes_of(shift)
    run(kernel_of(x.shape, epsilon, bias), executable_form(isa), operands, 2)
    wanted = numerics.layer_norm(x, scale, shift if bias else None, epsilon)
    assert output.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 17, 24, 31, 384, 1001])
def test_layer_norm(length: int, isa: str) -> None:
    rng = np.random.default_rng(length)
    x = rng.normal(3, 2, (2, 3, length)).astype(np.float32)
    x[1, 1, :: max(1, length // 3)] = rng.choice([np.nan, np.inf, 3e38, -3e38])
    check(x, isa, bias=bool(length % 2))


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=12)
@given(x=ROWS, bias=st.booleans(), epsilon=st.sampled_from([0.0, 1e-12, 1e-5, 0.1]))
def test_any_floats(isa: str, x: np.ndarray, bias: bool, epsilon: float) -> None:
    check(x, isa, bias, epsilon)


def test_rows_of_negative_zeros() -> None:
    check(np.full((3, 9), -0.0, np.float32), "x86-avx2", epsilon=0.1)


def test_in_place_and_with_gaps() -> None:
    x = np.random.default_rng(5).normal(0, 2, (6, 19)).astype(np.float32)
    ones, zeros = np.ones(19, np.float32), np.zeros(19, np.float32)
    form = executable_form("x86-avx2")
    buffer = bytes_of(x)
    constants = {"scale": bytes_of(ones), "bias": bytes_of(zeros)}
    run(kernel_of(x.shape), form, {"source": buffer, "target": buffer, **constants})
    assert buffer.tobytes() == numerics.layer_norm(x, ones, zeros, 1e-5).tobytes()
    kernel = LayerNormKernel((6, 11), View(8, (76, 4)), dense_view((6, 11), 4), 1e-5, False)
    output = blank(4 * 66)
    run(kernel, form, {"source": bytes_of(x), "scale": constants["scale"], "target": output})
    wanted = numerics.layer_norm(x[:, 2:13], ones[:11], None, 1e-5)
    assert output.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("length", [1, 5, 13, 30])
def test_not_a_byte_past_the_end_is_touched(length: int) -> None:
    rng = np.random.default_rng(length)
    x, scale = rng.normal(0, 2, (3, length)).astype(np.float32), np.ones(length, np.float32)
    kernel = kernel_of(x.shape, bias=False)
    loaded = machine.load_object(build(kernel, host_instruction_set()).object_code)
    source, factor, target = at_page_end(x), at_page_end(scale), at_page_end(x)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, ctypes.c_int32, ctypes.c_int32)
    pointers = [array.ctypes.data for array in (source, factor, target)]
    signature(loaded.address("kernel"))(*pointers, 0, 1)
    assert target.tobytes() == numerics.layer_norm(x, scale, None, 1e-5).tobytes()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="contiguous"):
        LayerNormKernel((2, 3), View(0, (24, 8)), View(0, (12, 4)), 1e-5)
    with pytest.raises(ConfigError, match="epsilon"):
        dataclasses.replace(kernel_of((2, 3)), epsilon=float("nan"))


def test_nothing_is_fused_or_called() -> None:
    for name in ISAS:
        text = build(kernel_of((3, 1001)), INSTRUCTION_SETS[name]).assembly
        assert not any(word in text for word in ("vfmadd", "vfnmadd", "vfmsub", "vfnmsub"))
        assert not any(word in text for word in ("fmla", "fmadd", "callq", "\tbl\t"))
