"""Convolutions and matrix products against numpy, on every instruction set, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel, has_safe_pairs, matmul_kernel
from qcc.backends.llvm.kernels.epilogue import Epilogue, needs_float_clamp
from qcc.backends.llvm.kernels.panels import byte_parts, parts_needed
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.machine import host_architecture
from qcc.errors import ConfigError
from tests.backends.llvm.conv_case import ConvCase, check_conv
from tests.backends.llvm.native import executable_form, native_or_skip

ISAS = tuple(INSTRUCTION_SETS)

CASES = {
    "pointwise": ConvCase(),
    "residual": ConvCase(residual=True, outputs=33, channels=15),
    "table": ConvCase(table=True, outputs=9, residual=True),
    "float output": ConvCase(form="float32", outputs=10),
    "int32 output": ConvCase(form="int32", outputs=19),
    "3x3 into a halo": ConvCase(
        kernel=(3, 3), pads=(1, 1, 1, 1), channels=5, outputs=33, output_halo=1
    ),
    "3x3 stride 2": ConvCase(
        height=9, width=9, kernel=(3, 3), strides=(2, 2), pads=(0, 0, 1, 1), channels=64, outputs=70
    ),
    "dilated batch": ConvCase(
        batch=2, kernel=(3, 2), dilations=(2, 2), pads=(2, 1, 2, 1), channels=17, outputs=24
    ),
    "three groups": ConvCase(kernel=(3, 3), pads=(1, 1, 1, 1), channels=21, outputs=15, groups=3),
    "two groups": ConvCase(channels=64, outputs=66, groups=2, residual=True),
    "all extreme": ConvCase(channels=65, outputs=31, extreme=True, zero_point=0),
    "saturating pairs": ConvCase(
        channels=65, outputs=17, extreme=True, weights=(-128, -127), zero_point=255
    ),
    "only 255 times 127": ConvCase(
        channels=64, outputs=8, weights=(127, 127), activations=(255, 255), zero_point=0
    ),
    "safe pairs": ConvCase(channels=63, outputs=65, weights=(-64, 64), extreme=True),
    "safe pairs, taps": ConvCase(
        batch=2, channels=63, outputs=17, weights=(-64, 64), kernel=(3, 3), strides=(2, 1)
    ),
    "9-bit weights": ConvCase(
        channels=9, outputs=31, weights=(-255, 255), kernel=(3, 3), extreme=True, zero_point=0
    ),
    "float clamp": ConvCase(scale=1e9, residual=True),
    "narrow clamp": ConvCase(low=40, high=200, output_zero_point=255),
    "wide stride": ConvCase(extra_stride=12, channels=7, outputs=17),
    "vector times matrix": ConvCase(height=1, width=1, channels=130, outputs=65),
    "one output": ConvCase(height=3, width=21, channels=33, outputs=1),
    "few channels": ConvCase(
        height=11,
        width=13,
        kernel=(7, 7),
        strides=(2, 2),
        pads=(3, 3, 3, 3),
        channels=3,
        outputs=17,
    ),
    "few channels, safe pairs": ConvCase(
        kernel=(3, 5), pads=(1, 2, 1, 2), channels=3, outputs=9, weights=(-64, 64), extreme=True
    ),
    "one channel": ConvCase(
        height=12, width=9, kernel=(10, 4), strides=(2, 2), channels=1, outputs=24, extreme=True
    ),
    "six channels, 9-bit weights": ConvCase(
        batch=2, kernel=(2, 3), channels=6, outputs=12, weights=(-255, 255), zero_point=0
    ),
    "first layer": ConvCase(
        height=11, width=12, channels=3, outputs=32, kernel=(7, 7), strides=(2, 2), pads=(3,) * 4
    ),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_conv_gives_the_bytes_of_the_contract(case: ConvCase, isa: str) -> None:
    check_conv(case, executable_form(isa))


@pytest.mark.parametrize(
    "isa", [n for n in ISAS if INSTRUCTION_SETS[n].architecture == host_architecture()]
)
def test_native_conv(isa: str) -> None:
    check_conv(ConvCase(channels=33, outputs=65, residual=True), native_or_skip(isa))


def test_avx2_and_its_emulation_agree() -> None:
    emulated = INSTRUCTION_SETS["x86-avx2"].for_emulation()
    check_conv(ConvCase(channels=17, outputs=33, residual=True), emulated)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["3x3 into a halo", "two groups", "vector times matrix"])
def test_any_number_of_threads(name: str, threads: int) -> None:
    check_conv(CASES[name], executable_form("x86-avx2"), threads)


SIZES = st.sampled_from([1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65])


@st.composite
def random_cases(draw: st.DrawFn) -> ConvCase:
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    pads = draw(st.tuples(*[st.integers(0, 1)] * 4))
    case = ConvCase(
        batch=draw(st.integers(1, 2)),
        height=draw(st.integers(3, 9)),
        width=draw(st.integers(3, 17)),
        channels=draw(SIZES),
        outputs=draw(SIZES),
        kernel=kernel,
        strides=draw(st.tuples(st.integers(1, 2), st.integers(1, 3))),
        pads=pads,
        extreme=draw(st.booleans()),
        weights=draw(st.sampled_from([(-128, 127), (-64, 64), (-127, 127), (-255, 255)])),
        zero_point=draw(st.sampled_from([0, 1, 128, 255])),
        output_zero_point=draw(st.sampled_from([0, 77, 255])),
        residual=draw(st.booleans()),
        table=draw(st.booleans()),
        output_halo=draw(st.integers(0, 1)),
        extra_stride=draw(st.sampled_from([0, 0, 4])),
    )
    return (
        replace(case, form=draw(st.sampled_from(["uint8"] * 3 + ["float32", "int32"])))
        if not (case.residual or case.table)
        else case
    )


@settings(max_examples=25, deadline=None)
@given(case=random_cases(), seed=st.integers(0, 99), threads=st.integers(1, 3))
def test_random_convolutions_on_avx2(case: ConvCase, seed: int, threads: int) -> None:
    check_conv(case, executable_form("x86-avx2"), threads, seed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "isa", ["x86-avx512vnni", "x86-avxvnni", "arm-neon", "arm-dotprod", "arm-i8mm"]
)
@settings(max_examples=12, deadline=None)
@given(case=random_cases(), seed=st.integers(0, 99))
def test_random_convolutions_elsewhere(isa: str, case: ConvCase, seed: int) -> None:
    check_conv(case, executable_form(isa), 2, seed)


@given(st.lists(st.integers(-255, 255), min_size=1, max_size=20))
def test_byte_parts_add_up(values: list[int]) -> None:
    weight = np.array(values, np.int16)
    parts = byte_parts(weight, parts_needed(weight))
    assert (np.sum(parts, axis=0) == weight).all()
    assert all(part.min() >= -128 and part.max() <= 127 for part in parts)


@pytest.mark.parametrize(
    ("pair", "safe"),
    [((64, 64), True), ((65, 64), False), ((-64, -65), False), ((127, -128), True)],
)
def test_safe_pairs_are_those_that_fit_int16(pair: tuple[int, int], safe: bool) -> None:
    assert has_safe_pairs(np.array(pair).reshape(1, 2, 1, 1)) is safe


def test_float_clamp_is_asked_for_when_the_product_can_pass_two_to_the_thirty() -> None:
    assert not needs_float_clamp(2**20, [1.0, 1000.0])
    assert needs_float_clamp(2**20, [1.0, 1024.0])
    assert needs_float_clamp(1, [np.inf])


def test_a_window_that_leaves_the_halo_is_refused() -> None:
    layout = ActivationLayout.plain(1, 8, 8, 16)
    with pytest.raises(ConfigError, match="larger halo"):
        ConvKernel(layout, layout, Window((3, 3), pads=(1, 1)))


def test_a_residual_of_another_shape_is_refused() -> None:
    layout = ActivationLayout.plain(1, 8, 8, 16)
    other = ActivationLayout.plain(1, 8, 8, 12)
    with pytest.raises(ConfigError, match="residual"):
        ConvKernel(layout, layout, epilogue=Epilogue(residual=other))


def test_weights_that_break_the_specification_are_refused() -> None:
    layout = ActivationLayout.plain(1, 1, 1, 2)
    weight = np.full((2, 2, 1, 1), 127)
    kernel = ConvKernel(layout, layout, safe_pairs=True)
    isa = INSTRUCTION_SETS["x86-avx2"]
    with pytest.raises(ConfigError, match="saturate"):
        kernel.pack(isa, weight=weight, multiplier=1.0, input_zero_point=0)
    with pytest.raises(ConfigError, match="weight_parts=2"):
        ConvKernel(layout, layout).pack(isa, weight=2 * weight, multiplier=1.0, input_zero_point=0)


def test_an_accumulator_that_can_overflow_is_refused() -> None:
    weight = np.full((2**17, 1), 127)
    with pytest.raises(ConfigError, match="pass 2\\^31"):
        matmul_kernel(1, 2**17, 1, weight, multiplier=1.0, input_zero_point=0)
