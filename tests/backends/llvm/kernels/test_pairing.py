"""Groups of products that are added in 16 bits: who is whose partner, and that sums stay exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.isa import INSTRUCTION_SETS, instruction_set
from qcc.backends.llvm.kernels import pairing
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.conv import ConvKernel, conv_kernel, with_partners
from qcc.backends.llvm.kernels.conv_plan import ConvPlan
from qcc.backends.llvm.kernels.pairing import lane_sums, paired_share, partners, safe_groups
from tests.backends.llvm.conv_case import ConvCase, check_conv
from tests.backends.llvm.native import executable_form


def weights(seed: int, spread: float, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers within int8, normally distributed."""
    drawn = np.random.default_rng(seed).normal(size=shape) * spread
    return np.clip(np.rint(drawn), -127, 127).astype(np.int16)


def spec(weight: np.ndarray, isa_name: str = "x86-avx2") -> ConvKernel:
    """A pointwise convolution by ``weight`` ``[O, C]``."""
    outputs, channels = weight.shape
    source = ActivationLayout.plain(1, 3, 5, channels)
    target = ActivationLayout.plain(1, 3, 5, outputs)
    as_conv = weight[:, :, None, None]
    kernel = conv_kernel(source, target, as_conv, multiplier=1e-3, input_zero_point=0)
    return with_partners(kernel, as_conv, instruction_set(isa_name))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([4.0, 12.0, 25.0, 45.0]),
    groups=st.integers(1, 60),
    lanes=st.sampled_from([8, 16, 24]),
)
def test_partners_are_mutual_and_their_sums_fit_16_bits(
    seed: int, spread: float, groups: int, lanes: int
) -> None:
    tiles = weights(seed, spread, (2, lanes, groups, 4))
    sums = lane_sums(tiles)
    found = partners(sums)
    products = tiles.astype(np.int64).reshape(2, lanes, groups, 2, 2)
    most = 255 * np.maximum(products, 0).sum(-1)
    least = 255 * np.minimum(products, 0).sum(-1)
    alone_fits = ((most <= 32767) & (least >= -32768)).all(axis=(1, 3))
    np.testing.assert_array_equal(safe_groups(sums), alone_fits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairing, "FEW_FREE", 1)  # turn by turn to the end
        np.testing.assert_array_equal(partners(sums), found)
    for tile in range(2):
        for group, other in enumerate(found[tile]):
            if other < 0:
                continue
            assert found[tile, other] == group != other
            for bound in (most, least):
                together = bound[tile, :, group] + bound[tile, :, other]
                assert together.min() >= -32768
                assert together.max() <= 32767


def test_no_two_single_groups_of_a_piece_could_have_been_partners() -> None:
    tiles = weights(3, 30.0, (4, 16, 90, 4))
    sums = lane_sums(tiles)
    found = partners(sums)
    assert 0 < (found >= 0).mean() < 1
    for tile in range(4):
        alone = np.flatnonzero((found[tile] < 0) & safe_groups(sums)[tile])
        for i, a in enumerate(alone):
            for b in alone[i + 1 :]:
                assert (sums[tile, a].astype(int) + sums[tile, b]).max() > pairing.MOST_SUM


def test_groups_are_paired_within_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "TOGETHER", 7)
    found = partners(lane_sums(weights(0, 4.0, (1, 8, 20, 4))))[0]
    assert (found >= 0).sum() == 18  # three of 7, 7 and 6 groups have no partner left
    pieces = np.arange(20) // 7
    paired = found >= 0
    np.testing.assert_array_equal(pieces[paired], pieces[found[paired]])


def test_small_weights_find_partners_and_even_ones_do_not() -> None:
    assert paired_share(weights(0, 10.0, (32, 128)), 16) == 1
    assert paired_share(np.full((32, 128), 60, np.int16), 16) == 0
    assert paired_share(weights(0, 10.0, (5, 4)), 8) == 0  # one group


@pytest.mark.parametrize(
    ("isa_name", "spread", "inner"),
    [
        ("x86-avx2", 12.0, "partners"),
        ("x86-avxvnni", 12.0, "dot"),
        ("x86-avx512vnni", 12.0, "dot"),
    ],
)
def test_partners_are_sought_only_without_vnni(isa_name: str, spread: float, inner: str) -> None:
    kernel = spec(weights(1, spread, (24, 96)), isa_name)
    assert bool(kernel.partners) == (inner == "partners")
    assert ConvPlan.of(kernel, instruction_set(isa_name)).inner == inner


def test_unsafe_groups_beside_partners_are_widened() -> None:
    weight = weights(1, 12.0, (24, 96))
    weight[3, 8:10] = 120
    kernel = spec(weight)
    assert kernel.partners
    assert not kernel.safe_pairs
    assert ConvPlan.of(kernel, instruction_set("x86-avx2")).inner == "mixed"


CASES = {
    # 255 times 128 in every lane that the weights fill: the most that 16 bits hold.
    "full lanes": ConvCase(
        channels=63, outputs=65, weights=(-32, 32), extreme=True, activations=(255, 255)
    ),
    "taps": ConvCase(
        batch=2, channels=60, outputs=17, weights=(-30, 30), kernel=(3, 3), strides=(2, 1)
    ),
    "partners and single groups": ConvCase(channels=200, outputs=41, weights=(-50, 50)),
    "partners, single and unsafe groups": ConvCase(channels=400, outputs=23, weights=(-68, 68)),
    "first layer": ConvCase(
        height=11, width=12, channels=3, outputs=32, kernel=(7, 7), pads=(3,) * 4, weights=(-30, 30)
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sums_of_partners_are_exact(case: ConvCase) -> None:
    check_conv(case, executable_form("x86-avx2"))
    check_conv(case, INSTRUCTION_SETS["x86-avx2"].for_emulation())
