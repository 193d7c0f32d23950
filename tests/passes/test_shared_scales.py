"""One scale for a Concat, its operands, and whatever shares theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from qcc.backends.tensorrt.config import CONFIG
from qcc.ir.core import Graph
from qcc.passes.insert_observers import Observation, Slot, plan_observation
from qcc.passes.scales import resolve_scales, union_of
from qcc.passes.select_fusions import select_fusions
from qcc.quant.observers import FixedQParamsObserver, MinMaxObserver
from qcc.quant.observers.base import ObserverSpec, UniformArguments
from qcc.quant.qparams import QuantParams
from tests.backends.tensorrt.placements import SmallNet

SYMMETRIC = MinMaxObserver.with_args(
    dtype="int8", qscheme="per_tensor_symmetric", quant_min=-128, quant_max=127
)
AFFINE = MinMaxObserver.with_args(dtype="uint8")
HALF_SIGNED = FixedQParamsObserver.with_args(dtype="int8", scale=1 / 256, zero_point=-128)
SYMMETRIC_UNIT = FixedQParamsObserver.with_args(dtype="int8", scale=1 / 127, zero_point=0)
MAPPING = CONFIG.default_mapping
SLOT = Slot("joined", "merged", SYMMETRIC, ("a", "b"))


def parameters(low: float, high: float) -> QuantParams:
    arguments = SYMMETRIC.arguments
    assert isinstance(arguments, UniformArguments)
    return arguments.qparams(np.float32(low), np.float32(high))


def joined_net(*, twice: bool = False) -> Graph:
    """conv1 and a pool of conv2 are joined; another layer reads conv2 (``twice``: and conv1)."""
    net = SmallNet()
    x = net.image()
    first, second = net.conv(x), net.conv(x)
    pooled = net.op("MaxPool", second, kernel_shape=[1, 1])
    joined = net.op("Concat", first, pooled, axis=1)
    other = net.op("Concat", second, first, axis=1) if twice else second
    return net.graph(net.conv(joined, given=32), net.conv(other, given=32 if twice else 16))


RANGES = {
    "x": (-3.0, 3.0),
    "conv1": (-2.0, 1.0),
    "conv2": (0.0, 0.5),
    "concat1": (-1.5, 1.0),
    "concat2": (-1.0, 1.75),
}
JOINED = ("conv1", "conv2", "maxpool1", "concat1")


def resolved(
    *, twice: bool = False, shares: bool = True, slots: Mapping[str, Slot] | None = None
) -> dict[str, QuantParams]:
    """The parameters of the net's values by :data:`RANGES`; ``slots`` replaces some."""
    graph = joined_net(twice=twice)
    plan = select_fusions(graph, replace(CONFIG, concat_shares_scale=shares), MAPPING)
    observation = Observation({**plan_observation(plan).slots, **(slots or {})})
    return resolve_scales(plan, observation, lambda name: parameters(*RANGES[name]))


def test_all_that_a_concat_joins_has_the_widest_scale_of_its_operands() -> None:
    found = resolved()
    widest = parameters(*RANGES["conv1"])
    assert found == {"x": parameters(-3.0, 3.0), **dict.fromkeys(JOINED, widest)}


def test_concats_that_share_an_operand_have_the_widest_of_their_scales() -> None:
    found = resolved(twice=True)
    asked = parameters(*RANGES["conv1"])
    assert {name: found[name] for name in (*JOINED, "concat2")} == dict.fromkeys(
        (*JOINED, "concat2"), asked
    )


def test_without_the_rule_an_operand_that_others_read_keeps_its_finer_scale() -> None:
    found = resolved(shares=False)
    assert found["concat1"] == found["conv1"] == parameters(-2.0, 1.0)
    assert found["conv2"] == found["maxpool1"] == parameters(0.0, 0.5)


@pytest.mark.parametrize("spec", [HALF_SIGNED, SYMMETRIC_UNIT])
def test_a_fixed_operand_takes_the_scale_of_its_concat(spec: ObserverSpec) -> None:
    """Fixed parameters may have a zero point, which must not reach what is symmetric."""
    found = resolved(slots={"conv1": Slot("conv1", "fixed", spec, fixed=spec.fixed)})
    (shared,) = {found[name] for name in JOINED}
    assert shared.zero_point == (0,)
    assert (shared.quant_min, shared.quant_max) == (-128, 127)
    assert 0.9 < float(shared.real_range[1][0]) < 1.01


def test_a_value_that_nothing_joins_keeps_its_fixed_parameters() -> None:
    found = resolved(slots={"x": Slot("x", "fixed", HALF_SIGNED, fixed=HALF_SIGNED.fixed)})
    assert (found["x"].scale, found["x"].zero_point) == ((1 / 256,), (-128,))


@pytest.mark.parametrize("order", [1, -1])
def test_the_union_of_symmetric_ranges_is_the_widest(order: int) -> None:
    """Not a hair wider, however often unions are made of unions."""
    parts = [parameters(-1.0, 0.1), parameters(-0.5, 0.5), parameters(0.0, 0.25)][::order]
    union = union_of(parts, SLOT)
    assert union == parameters(-1.0, 0.1)
    assert union_of([union, *parts], SLOT) == union


def test_the_union_of_affine_ranges_covers_both() -> None:
    arguments = AFFINE.arguments
    assert isinstance(arguments, UniformArguments)
    parts = [arguments.qparams(np.float32(-1), np.float32(2)), arguments.qparams(0.0, 4.0)]
    union = union_of(parts, Slot("joined", "merged", AFFINE))
    low, high = union.real_range
    assert union.storage == "uint8"
    assert low[0] <= -1 + union.scale[0]
    assert high[0] >= 4 - union.scale[0]


def test_a_union_of_another_storage_is_stored_as_the_concat_is() -> None:
    arguments = AFFINE.arguments
    assert isinstance(arguments, UniformArguments)
    union = union_of([arguments.qparams(0.0, 4.0)], SLOT)
    assert (union.storage, union.zero_point) == ("int8", (0,))
    assert union.real_range[1][0] >= 4 - union.scale[0]
