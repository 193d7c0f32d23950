"""Softmax against the op's own evaluation, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.backends.llvm.kernels.softmax import SoftmaxKernel
from qcc.errors import ConfigError
from qcc.ir.types import Quant
from tests.backends.llvm.kernels.buffers import ISAS, blank, bytes_of, constants, reference
from tests.backends.llvm.native import executable_form, run

Y = Quant.make("uint8", 1 / 255, 2, low=1, high=250)


def check(x: np.ndarray, scale: float, isa: str, quantized: bool, threads: int = 2) -> None:
    element: str | Quant = Y if quantized else "float32"
    quant = Quant.make("uint8", scale, 200)
    want = reference("q.softmax", [(x, quant)], element, x.shape, axis=-1)
    form = executable_form(isa)
    size = want.dtype.itemsize
    source, target = dense_view(x.shape, 1), dense_view(x.shape, size)
    kernel = SoftmaxKernel.of(x.shape, source, target, Y.scale[0] if quantized else None)
    packed = (
        kernel.pack(form, input_scale=scale, output_scale=Y.scale[0], output_zero_point=2, low=1,
                    high=250)
        if quantized
        else kernel.pack(form, input_scale=scale)
    )  # fmt: skip
    output = blank(want.size * size)
    run(kernel, form, {"source": bytes_of(x), "target": output, **constants(packed)}, threads)
    np.testing.assert_array_equal(output, np.frombuffer(want.tobytes(), np.uint8))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("shape", [(3, 1000), (2, 5, 10), (4, 1), (1, 7), (2, 3, 64), (1, 257)])
def test_softmax(shape: tuple[int, ...], quantized: bool, isa: str) -> None:
    x = np.random.default_rng(5).integers(0, 256, shape).astype(np.uint8)
    check(x, 0.043, isa, quantized)


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 300),
    scale=st.floats(2.0**-20, 2.0, width=32),
    spread=st.sampled_from([1, 2, 20, 256]),
    base=st.integers(0, 255),
    quantized=st.booleans(),
)
def test_any_row(
    rows: int, length: int, scale: float, spread: int, base: int, quantized: bool
) -> None:
    x = np.random.default_rng(length).integers(0, spread, (rows, length)) + base
    check(np.minimum(x, 255).astype(np.uint8), scale, "x86-avx2", quantized)


def test_sums_beyond_float_precision_round_once() -> None:
    # 2^30 times 70001 equal terms needs 47 bits: the conversion to float32 must round to even.
    check(np.full((1, 70001), 9, np.uint8), 0.1, "x86-avx2", False, 1)
    x = np.random.default_rng(1).integers(100, 256, (1, 70003)).astype(np.uint8)
    check(x, 0.01, "x86-avx2", False, 1)


def test_rows_with_gaps_are_refused_only_along_the_row() -> None:
    with pytest.raises(ConfigError, match="contiguous"):
        SoftmaxKernel((2, 3), View(0, (6, 2)), View(0, (12, 4)))
    SoftmaxKernel((2, 3), View(0, (8, 1)), View(0, (12, 4)))
