"""OpenVINO runs what target onnx-openvino quantizes on integers, with nothing in between."""

from __future__ import annotations

from collections import Counter

import pytest

from qcc.errors import ModelError
from qcc.ir.core import Graph
from qcc.onnxio import to_model_proto
from qcc.runtime import openvino_layers as layers
from qcc.runtime.openvino_layers import OpenvinoLayer, float_layers
from tests.backends.onnx.nets import NETS, decoder_net, exported, silu_net

TARGET = "onnx-openvino"


def compiled(graph: Graph) -> tuple[OpenvinoLayer, ...]:
    pytest.importorskip("openvino")
    return layers.openvino_layers(to_model_proto(graph, opset=21).SerializeToString())


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize("name", NETS)
def test_every_product_and_pool_computes_on_integers(name: str) -> None:
    graph = exported(NETS[name], TARGET)
    found = compiled(graph)
    assert [layer.name for layer in float_layers(found)] == []
    assert sum(layer.kind in layers.MULTIPLYING for layer in found) == sum(
        op in ("Conv", "Gemm") for op in ops(graph)
    )
    assert all(layer.is_integer for layer in found if layer.kind in ("Pooling", "Concatenation"))


def test_movement_and_joining_cost_no_conversion() -> None:
    """The one conversion is that of the input; behind pools and joins there is none."""
    kinds = Counter(layer.kind for layer in compiled(exported(decoder_net, TARGET)))
    assert kinds["Subgraph"] == 1


def test_an_activation_is_computed_by_the_layer_in_front_of_it() -> None:
    graph = exported(silu_net, TARGET)
    for node in graph.nodes:
        if node.op in ("Sigmoid", "Mul"):
            assert all(v is None or v.producer.op != "q.dequantize" for v in node.inputs)  # type: ignore[union-attr]
    names = {layer.name: layer.sources for layer in compiled(graph)}
    assert not [name for name in names if "Sigmoid" in name]


def test_biases_stay_float_and_weights_are_8_bit() -> None:
    for node in exported(silu_net, TARGET).nodes:
        if node.op not in ("Conv", "Gemm"):
            continue
        bias, weight = node.operand(2), node.operand(1).producer
        assert bias.constant is not None
        assert bias.tensor.is_float
        assert weight is not None
        assert weight.operand(0).tensor.storage == "int8"


def test_without_openvino_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "installed", lambda: False)
    with pytest.raises(ModelError, match="OpenVINO is not installed"):
        layers.openvino_layers(b"")


def test_what_openvino_refuses_is_one_sentence() -> None:
    pytest.importorskip("openvino")
    with pytest.raises(ModelError, match="OpenVINO refuses the model"):
        layers.openvino_layers(b"no model")
