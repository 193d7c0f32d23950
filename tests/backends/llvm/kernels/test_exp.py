"""The exponential against its reference, and the reference against float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcc import numerics
from qcc.backends.llvm.kernels.elementwise import FloatUnaryKernel
from qcc.backends.llvm.kernels.nest import dense_view
from qcc.curves import exp
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, ISAS, blank, bytes_of
from tests.backends.llvm.native import executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]
EDGES = [0.0, -0.0, -87.0, -87.00001, 88.0, 88.3762, 88.72283, 88.7229, 89.0, 1e30, -1e30, 1e-45]
FLOATS = st.floats(width=32) | st.floats(-90, 90, width=32) | st.sampled_from([np.float32(88.5)])


def check(x: np.ndarray, isa: str) -> None:
    view, target = dense_view(x.shape, 4), blank(x.nbytes)
    kernel = FloatUnaryKernel("exp", x.shape, view, view)
    run(kernel, executable_form(isa), {"source": bytes_of(x), "target": target}, 2)
    assert target.tobytes() == exp(x).tobytes()


@pytest.mark.parametrize("isa", FLOAT_ISAS)
def test_kernel(isa: str) -> None:
    x = np.random.default_rng(0).uniform(-100, 100, 1001).astype(np.float32)
    x[: len(EDGES)] = EDGES
    x[20:23] = [np.nan, np.inf, -np.inf]
    check(x, isa)


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=20)
@given(x=arrays.arrays(np.float32, st.integers(1, 70), elements=FLOATS))
def test_any_floats(isa: str, x: np.ndarray) -> None:
    check(x, isa)


def test_reference_is_accurate() -> None:
    x = np.linspace(-87, 88.72, 400_001).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    units = np.abs(exp(x) - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() <= 1.25
    assert np.isinf(exp(np.float32(88.7229)))
    assert exp(np.float32(-87.1)) == 0


def test_of_negative_numbers_it_is_that_of_softmax() -> None:
    x = -np.abs(np.random.default_rng(1).normal(0, 30, 5000)).astype(np.float32)
    assert exp(x).tobytes() == numerics.exponential(x).tobytes()
