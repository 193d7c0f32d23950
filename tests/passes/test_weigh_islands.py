"""Parts of a graph whose conversions cost more than int8 saves stay float, and say so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qcc.backends.registry import backend_config
from qcc.backends.x86.config import CONFIG as X86
from qcc.errors import ConfigError
from qcc.ir.builder import GraphBuilder
from qcc.ir.core import Graph
from qcc.ir.types import TensorType, float32
from qcc.passes.fusion_plan import FusionPlan
from qcc.passes.select_fusions import select_fusions
from qcc.passes.weigh_islands import estimated, islands, losing_islands
from qcc.quant.backend_config import BackendConfig, Speeds

SPEEDS = Speeds(100.0, 50.0, 16.0, 4.0, 5.0)


def product(rows: int | str, inputs: int, outputs: int) -> Graph:
    """exp(x) @ w, then exp: nothing beside the product is quantized."""
    b = GraphBuilder()
    x = b.input("x", TensorType((rows, inputs), "float32"))
    w = b.constant(np.full((inputs, outputs), 0.1, np.float32), "w")
    return b.output(b.op.Exp(b.op.MatMul(b.op.Exp(x), w, name="product")))


def plan_of(graph: Graph, backend: BackendConfig = X86) -> FusionPlan:
    return select_fusions(graph, backend, backend.default_mapping)


def test_a_product_by_few_columns_does_not_pay_for_its_conversion() -> None:
    backend = replace(X86, speeds=SPEEDS)
    plan = plan_of(product(1000, 512, 4), backend)
    assert plan.groups == ()
    (node,) = [node for node in plan.refusals if node.op == "MatMul"]
    # 512,000 elements take 102.4 us to convert; 2,048,000 products take 20.5 us, 41 us in float.
    # The results of both are 4000 elements.
    assert plan.refusals[node][0] == (
        "in int8 it and what it exchanges 8-bit values with would take about 123 us, of which "
        "102 us are conversions, and 42 us in float"
    )


def test_a_product_by_many_columns_pays() -> None:
    assert len(plan_of(product(1000, 512, 64)).groups) == 1


def test_small_losses_and_unknown_sizes_are_left_alone() -> None:
    assert len(plan_of(product(10, 64, 2)).groups) == 1
    assert len(plan_of(product("rows", 512, 4)).groups) == 1


def test_backends_without_speeds_weigh_nothing() -> None:
    assert len(plan_of(product(1000, 512, 4), replace(X86, speeds=None)).groups) == 1
    assert backend_config("onnx").speeds is None


def two_parts() -> Graph:
    """Two convolutions in a row, an exponential, and a third one."""
    b = GraphBuilder()
    x = b.input("x", float32(1, 4, 9, 9))
    w = b.constant(np.ones((4, 4, 3, 3), np.float32), "w")
    y = b.op.Conv(b.op.Conv(x, w), w)
    return b.output(b.op.Conv(b.op.Exp(y), w))


def test_islands_are_what_exchanges_quantized_values() -> None:
    plan = plan_of(two_parts())
    found = [[group.label for group in island] for island in islands(plan.groups)]
    assert found == [["conv", "conv_2"], ["conv_3"]]


def test_an_estimate_counts_products_and_what_crosses_the_shore() -> None:
    plan = plan_of(two_parts())
    first = estimated(islands(plan.groups)[0], SPEEDS)
    assert first is not None
    products, moved = 4 * 36 * 49 + 4 * 36 * 25, 4 * 49 + 4 * 25
    assert first.floats == pytest.approx(products / 50 + moved / 4)
    assert first.integers == pytest.approx(products / 100 + moved / 16)
    # The second gives float itself; the result of the first never leaves.
    assert first.border == pytest.approx(4 * 81 / 5)
    assert not first.loses
    assert losing_islands(plan.groups, SPEEDS) == []


def test_speeds_are_positive_and_travel_as_json() -> None:
    with pytest.raises(ConfigError, match="positive"):
        Speeds(1.0, 0.0, 1.0, 1.0, 1.0)
    again = BackendConfig.from_json(X86.to_json(), X86.patterns)
    assert again.speeds == X86.speeds is not None
    with pytest.raises(ConfigError, match="int8_macs"):
        Speeds.from_dict({"int8_macs": 3})
