"""Convolutions in Winograd's domain: every byte as the contract says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm import tuning
from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.kernels import STACK_LIMIT
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel, conv_kernel
from qcc.backends.llvm.kernels.window import Window
from qcc.backends.llvm.kernels.winograd import (
    WinogradKernel,
    can_transform,
    in_winograd_domain,
    transformed_weights,
)
from qcc.backends.llvm.winograd_schedule import WinogradShape
from tests.backends.llvm.conv_case import ConvCase, check_conv
from tests.backends.llvm.native import executable_form

AVX2 = INSTRUCTION_SETS["x86-avx2"]
SAME = (1, 1, 1, 1)

CASES = [
    ConvCase(height=6, width=8, channels=16, outputs=16),
    ConvCase(height=6, width=8, channels=7, outputs=13, output_halo=1),
    ConvCase(batch=3, height=14, width=10, channels=70, outputs=40, residual=True, table=True),
    ConvCase(height=8, width=4, channels=33, outputs=50, pads=(0, 0, 0, 0), extreme=True),
    ConvCase(height=20, width=22, channels=64, outputs=64, form="float32", extra_stride=8),
    ConvCase(height=10, width=12, channels=300, outputs=24, form="int32", extreme=True),
    ConvCase(height=2, width=2, channels=4, outputs=1, weights=(127, 127), activations=(255, 255)),
    ConvCase(height=7, width=6, channels=20, outputs=12, pads=(1, 0, 0, 2), low=20, high=200),
    ConvCase(batch=2, height=7, width=5, channels=20, outputs=24, residual=True, output_halo=1),
    ConvCase(height=9, width=4, channels=20, outputs=20, table=True),
    ConvCase(height=4, width=3, channels=20, outputs=9, form="float32"),
]


def in_domain(case: ConvCase) -> ConvCase:
    pads = SAME if case.pads == (0, 0, 0, 0) and not case.extreme else case.pads
    return replace(case, kernel=(3, 3), pads=pads, winograd=True)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_bytes_are_those_of_the_contract(case: ConvCase, threads: int) -> None:
    check_conv(in_domain(case), executable_form("x86-avx2"), threads)


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    channels=st.integers(1, 40),
    outputs=st.integers(1, 40),
    seed=st.integers(0, 1000),
    residual=st.booleans(),
)
def test_any_shape(
    size: tuple[int, int], channels: int, outputs: int, seed: int, residual: bool
) -> None:
    case = ConvCase(
        height=size[0],
        width=size[1],
        channels=channels,
        outputs=outputs,
        residual=residual,
    )
    check_conv(in_domain(case), executable_form("x86-avx2"), 1, seed)


def test_transformed_weights_are_four_times_the_textbook_ones() -> None:
    g = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    taps = np.random.default_rng(0).integers(-128, 128, (2, 3, 3, 3))
    found = transformed_weights(taps).reshape(4, 4, 2, 3)
    np.testing.assert_array_equal(found[:, :, 1, 2], 4 * g @ taps[1, 2] @ g.T)


def test_without_room_for_whole_tiles_it_is_refused() -> None:
    kernel, weight = kernel_of((7, 8), 20, 20)
    assert not can_transform(kernel, weight, AVX2)


@pytest.mark.parametrize("channels", [16, 64, 256, 500, 512, 1000, 1024, 1100, 2048, 4096])
@pytest.mark.parametrize("tiles", [4, 9, 49, 64, 256])
def test_scratch_memory_stays_within_the_stack(channels: int, tiles: int) -> None:
    shape = WinogradShape(tiles, channels, 512)
    cut = shape.schedule(AVX2)
    fits = shape.scratch(AVX2, cut).size_bytes <= STACK_LIMIT
    assert fits == shape.fits_stack(AVX2)
    assert fits or channels > 1024, "common sizes are not given up"


def test_too_many_channels_for_the_stack_are_refused() -> None:
    kernel, weight = kernel_of((6, 6), 4096, 8)
    assert not can_transform(kernel, weight, AVX2)


def kernel_of(
    size: tuple[int, int], channels: int, outputs: int, stride: int = 1, top: int = 9
) -> tuple[ConvKernel, np.ndarray]:
    weight = np.random.default_rng(0).integers(-top, top + 1, (outputs, channels, 3, 3))
    source = ActivationLayout(1, *size, channels, -(-channels // 4) * 4, 1, 1, 1, 1)
    target = ActivationLayout.plain(1, size[0] // stride, size[1] // stride, outputs)
    window = Window((3, 3), (stride, stride), pads=(1, 1))
    kernel = conv_kernel(source, target, weight, multiplier=1e-3, input_zero_point=3, window=window)
    return kernel, weight


@pytest.mark.parametrize(
    ("size", "channels", "wins"),
    [((56, 56), 64, True), ((32, 32), 16, True), ((56, 56), 3, False), ((2, 2), 64, False)],
)
def test_it_is_chosen_where_it_wins(size: tuple[int, int], channels: int, wins: bool) -> None:
    made = in_winograd_domain(*kernel_of(size, channels, 64), AVX2)
    assert made is not None
    assert made.gains(AVX2) == wins


@pytest.mark.parametrize("winner", [0, 1])
def test_tuning_measures_both_and_remembers(
    winner: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, weight = kernel_of((8, 8), 16, 16)
    transformed = in_winograd_domain(kernel, weight, AVX2)

    class Timed:
        def __init__(self, form: object, isa: object, packed: object) -> None:
            self.time = 1.0 if isinstance(form, WinogradKernel) == (winner == 1) else 2.0

        def seconds(self) -> float:
            return self.time

    monkeypatch.setattr(tuning, "_Run", Timed)
    monkeypatch.setattr(tuning, "can_run", lambda isa: True)
    tuner = tuning.Tuner(AVX2, 60, tmp_path / "schedules.json")
    chosen = tuner.choose(kernel, lambda form: {}, transformed)
    assert (chosen is transformed) == (winner == 1)
    tuner.save()
    again = tuning.Tuner(AVX2, 1e-9, tmp_path / "schedules.json")
    assert again.choose(kernel, lambda form: {}, transformed) == chosen
    assert again.known == 1


def test_it_is_refused_where_it_does_not_apply() -> None:
    strided, weight = kernel_of((56, 56), 64, 64, stride=2)
    assert not can_transform(strided, weight, AVX2)
    plain, weight = kernel_of((56, 56), 64, 64)
    assert not can_transform(plain, weight, INSTRUCTION_SETS["x86-avxvnni"])
    assert not can_transform(plain, np.full((64, 64, 3, 3), 127) * 255, AVX2)
