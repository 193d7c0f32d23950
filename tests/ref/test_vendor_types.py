from __future__ import annotations

from qcc.ir.types import UNDEFINED
from qcc.ref.vendor_types import infer_vendor_types
from tests.passes.float_models import Net


def test_onnxruntime_says_what_an_op_of_its_own_gives() -> None:
    net = Net()
    y = net.op("com.microsoft.QuickGelu", net.input("x", 2, 3, 4), alpha=1.0)
    z = net.op("Transpose", y, perm=[2, 0, 1])
    graph = net.graph(z)
    assert graph.value(y).tensor.shape is None
    assert infer_vendor_types(graph) > 0
    assert graph.value(y).tensor.static_shape == (2, 3, 4)
    assert graph.value(y).tensor.element == "float32"
    assert graph.value(z).tensor.static_shape == (4, 2, 3)
    assert infer_vendor_types(graph) == 0


def test_constants_and_several_results_count_too() -> None:
    net = Net()
    operands = (net.input("x", 2, 3, 8), net.input("skip", 2, 3, 8), net.normal(8), net.normal(8))
    y, *_ = net.ops("com.microsoft.SkipLayerNormalization", *operands, epsilon=1e-5)
    graph = net.graph(y)
    infer_vendor_types(graph)
    assert graph.value(y).tensor.static_shape == (2, 3, 8)


def test_free_dimensions_stay_free() -> None:
    net = Net()
    y = net.op("com.microsoft.QuickGelu", net.input("x", "N", 3), alpha=1.0)
    graph = net.graph(y)
    infer_vendor_types(graph)
    assert graph.value(y).tensor.shape == (None, 3)


def test_of_an_op_that_nobody_knows_nothing_is_learnt() -> None:
    net = Net()
    y = net.op("some.domain.Thing", net.input("x", 2, 3))
    graph = net.graph(net.op("Identity", y))
    infer_vendor_types(graph)
    assert graph.value(y).tensor.element == UNDEFINED
