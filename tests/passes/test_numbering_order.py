"""Groups run in one order on both sides, however their nodes are interleaved in the schedule."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.registry import backend_config
from qcc.pipeline import convert, prepare
from qcc.ref.evaluate import evaluate
from tests.backends.tensorrt.placements import SmallNet
from tests.passes.float_models import feeds_for


@pytest.mark.parametrize("name", ["x86", "onnx", "tensorrt"])
def test_an_activation_that_storage_implies_may_stand_far_behind_its_layer(name: str) -> None:
    """Both layers come first, and their activations in the other order."""
    net = SmallNet()
    x = net.image()
    first, second = net.conv(x, bias=True), net.conv(x, bias=True)
    op = "Clip" if name == "tensorrt" else "Relu"
    limits = (-1e3, 1e3) if op == "Clip" else ()
    late = net.op(op, second, *limits)
    early = net.op(op, first, *limits)
    graph = net.graph(net.conv(late), net.conv(early))
    prepared = prepare(graph, backend=backend_config(name))
    prepared.calibrate([feeds_for(graph, None, seed) for seed in range(4)])
    made = convert(prepared)
    assert not any(node.op == op for node in made.graph.nodes), "storage implies both"
    assert all((row.sqnr_db or 0) > 25 for row in made.report.nodes if row.is_int8)
    feeds = feeds_for(graph, None, 9)
    wanted, found = evaluate(graph, feeds), evaluate(made.graph, feeds)
    for key, exact in wanted.items():
        noise = np.square(found[key] - exact, dtype=np.float64).sum()
        assert noise < 1e-2 * np.square(exact, dtype=np.float64).sum()
