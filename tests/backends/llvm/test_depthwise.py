"""Depthwise convolutions against numpy, on every instruction set, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.depthwise import DepthwiseKernel, depthwise_kernel
from qcc.errors import ConfigError
from tests.backends.llvm.conv_case import ConvCase, check_conv
from tests.backends.llvm.native import executable_form


def depthwise(channels: int, **rest: object) -> ConvCase:
    sizes = {"channels": channels, "outputs": channels, "groups": channels, "depthwise": True}
    return ConvCase(**{"kernel": (3, 3), "pads": (1, 1, 1, 1), **sizes, **rest})  # type: ignore[arg-type]


CASES = {
    "3x3": depthwise(32),
    "3x3 stride 2": depthwise(24, strides=(2, 2), height=9, width=11),
    "5x5": depthwise(17, kernel=(5, 5), pads=(2, 2, 2, 2), residual=True),
    "5x5 stride 2": depthwise(48, kernel=(5, 5), strides=(2, 2), pads=(1, 1, 2, 2)),
    "dilated": depthwise(65, dilations=(2, 2), pads=(2, 2, 2, 2), table=True),
    "1x7 batch": depthwise(9, batch=2, kernel=(1, 7), pads=(0, 3, 0, 3), output_halo=1),
    "one channel": depthwise(1, height=3, width=17),
    "all extreme": depthwise(33, extreme=True, zero_point=0, residual=True),
    "minimum weights": depthwise(16, weights=(-128, -127), zero_point=255, extreme=True),
    "float output": depthwise(23, form="float32"),
    "int32 output": depthwise(40, form="int32"),
    "9-bit weights": depthwise(31, weights=(-255, 255), extreme=True),
    "float clamp": depthwise(8, scale=1e9),
    "wide stride": depthwise(63, extra_stride=8, width=8),
}


@pytest.mark.parametrize("isa", tuple(INSTRUCTION_SETS))
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_depthwise_gives_the_bytes_of_the_contract(case: ConvCase, isa: str) -> None:
    check_conv(case, executable_form(isa))


@settings(max_examples=30, deadline=None)
@given(
    isa=st.sampled_from(["x86-avx2", "arm-neon", "arm-dotprod", "arm-i8mm"]),
    channels=st.sampled_from([1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    width=st.integers(5, 18),
    threads=st.integers(1, 3),
    residual=st.booleans(),
    zero_point=st.sampled_from([0, 128, 255]),
)
def test_random_depthwise(
    isa: str,
    channels: int,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    width: int,
    threads: int,
    residual: bool,
    zero_point: int,
) -> None:
    case = depthwise(
        channels,
        kernel=kernel,
        strides=strides,
        width=width,
        pads=(1, 0, 0, 1),
        residual=residual,
        zero_point=zero_point,
    )
    check_conv(case, executable_form(isa), threads)


def test_a_channel_multiplier_is_refused() -> None:
    with pytest.raises(ConfigError, match="grouped convolution"):
        DepthwiseKernel(ActivationLayout.plain(1, 4, 4, 8), ActivationLayout.plain(1, 4, 4, 16))


def test_an_overflowing_accumulator_is_refused() -> None:
    layout = ActivationLayout.plain(1, 1, 1, 4)
    weight = np.full((4, 1, 1, 1), 127)
    bias = np.full(4, 2**31 - 1)
    with pytest.raises(ConfigError, match="pass 2\\^31"):
        depthwise_kernel(layout, layout, weight, multiplier=1.0, input_zero_point=0, bias=bias)
