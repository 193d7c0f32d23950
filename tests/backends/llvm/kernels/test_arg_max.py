"""ArgMax against its reference."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels.arg_max import ArgMaxKernel
from qcc.errors import ConfigError
from qcc.ref.arg_max import arg_max
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, ISAS, at_page_end, blank, bytes_of
from tests.backends.llvm.native import build, executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]
FEW = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.0, np.inf, np.nan])
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 80)), elements=FEW)


def check(x: np.ndarray, isa: str, last: bool) -> None:
    kernel, output = ArgMaxKernel(len(x), x.shape[1], last), blank(8 * len(x))
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": output}, 2)
    assert output.tobytes() == arg_max(x, 1, last=last).tobytes()


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 21, 33, 64, 65, 1001])
@pytest.mark.parametrize("last", [False, True])
def test_rows(length: int, isa: str, last: bool) -> None:
    rng = np.random.default_rng(length)
    check(rng.normal(size=(13, length)).astype(np.float32), isa, last)
    check(rng.integers(0, 3, (13, length)).astype(np.float32), isa, last)


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=25)
@given(x=ROWS, last=st.booleans())
def test_equal_infinite_and_absent_numbers(isa: str, x: np.ndarray, last: bool) -> None:
    check(x, isa, last)


def test_not_a_byte_past_the_end_is_touched() -> None:
    x = np.random.default_rng(0).normal(size=(3, 13)).astype(np.float32)
    kernel = ArgMaxKernel(3, 13)
    loaded = machine.load_object(build(kernel, host_instruction_set()).object_code)
    source, target = at_page_end(x), at_page_end(np.zeros(3, np.int64))
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, ctypes.c_int32, ctypes.c_int32)
    signature(loaded.address("kernel"))(source.ctypes.data, target.ctypes.data, 0, 1)
    assert target.tobytes() == arg_max(x, 1).tobytes()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="one element"):
        ArgMaxKernel(3, 0)


def test_nothing_is_called() -> None:
    for name in ISAS:
        text = build(ArgMaxKernel(5, 1001), INSTRUCTION_SETS[name]).assembly
        assert not any(word in text for word in ("callq", "\tbl\t"))
