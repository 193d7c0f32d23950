"""The float pipeline and Q/DQ import on real models with real data."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcc.ir.core import Graph, Stage
from qcc.onnxio import read_onnx
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.fold_batchnorm import FoldBatchNorm
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.import_qdq import ImportQdq
from qcc.passes.refuse_gelu import RefuseGelu
from qcc.passes.refuse_hardsigmoid import RefuseHardSigmoid
from qcc.passes.refuse_hardswish import RefuseHardSwish
from qcc.passes.refuse_layernorm import RefuseLayerNorm
from qcc.passes.refuse_leakyrelu import RefuseLeakyRelu
from qcc.passes.refuse_softmax import RefuseSoftmax
from qcc.passes.specialize import specialize_graph
from qcc.passes.use_lookups import UseLookups
from tests.passes.float_models import apply, ops_of, relative_error, run

pytestmark = pytest.mark.shared

TOLERANCE = 1e-4
"""Relative to the largest output: re-fused ops add floats in another order, layer by layer."""

FLOAT_PASSES = (
    FoldConstants(),
    Canonicalize(),
    RefuseLayerNorm(),
    RefuseGelu(),
    RefuseSoftmax(),
    RefuseHardSwish(),
    RefuseHardSigmoid(),
    RefuseLeakyRelu(),
    FoldBatchNorm(),
    UseLookups(),
    Canonicalize(),
    EliminateDead(),
)

FLOAT_MODELS = (
    "squeezenet10_imagenet",
    "mobilenet_v2_10_224_imagenet",
    "mobilenet_v1_025_128_imagenet",
    "resnet20_cifar10",
    "resnet8_cifar10_nhwc",
    "vww_mobilenet025_96_nhwc",
    "kws_dscnn",
    "sww_wakeword",
    "ad_autoencoder",
    "mnist_cntk",
    "mnist_gru",
    "magika_v3_3",
    "fastestdet_coco",
    "ultraface_rfb320",
    "yunet_n_dynamic",
    "deeplabv3_mnv2_dm05_voc",
    "espcn_superres_x3",
    "silero_vad_16k",
    "silero_vad_if_dynamic",
    "dreams260k_llama",
)
QUANTIZED_MODELS = (
    "mobilenet_v1_025_128_imagenet_tflite_qat_qdq",
    "mobilenet_v2_10_224_imagenet_tflite_qat_qdq",
)

SHAPE_OPS = ("Shape", "Constant", "ConstantOfShape", "Expand", "Size", "Range")

STILL_DYNAMIC = ("silero_vad_if_dynamic", "dreams260k_llama")
"""Models whose shapes depend on more than one unknown: chains stay until they are specialized."""

WANTED: dict[str, dict[str, int]] = {
    "ad_autoencoder": {"Gemm": 10, "Relu": 9},
    "sww_wakeword": {
        "Conv": 8,
        "Gemm": 1,
        "Relu": 4,
        "Reshape": 1,
        "Softmax": 1,
        "Transpose": 1,
    },
    "mnist_cntk": {"Conv": 2, "Gemm": 1, "MaxPool": 2, "Relu": 2, "Reshape": 1},
}


@pytest.fixture(scope="module")
def tasks(zoo: Path) -> dict[str, Any]:
    """The evaluation tasks by model name."""
    spec = importlib.util.spec_from_file_location("evalkit", zoo / "scripts" / "evalkit.py")
    assert spec is not None
    assert spec.loader is not None
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    kinds: list[Any] = [item for item in vars(kit).values() if isinstance(item, type)]
    return {
        kind.model: kind(str(zoo))
        for kind in kinds
        if issubclass(kind, kit.Task) and getattr(kind, "model", None)
    }


def feeds_of(task: Any, count: int = 2) -> list[dict[str, Any]]:
    return [{k: np.asarray(v) for k, v in feed.items()} for feed in task.calib()[:count]]


def agree(before: Graph, after: Graph, feeds: list[dict[str, Any]], tolerance: float) -> None:
    for feed in feeds:
        assert relative_error(run(before, feed), run(after, feed)) <= tolerance


@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_float_pipeline(name: str, tasks: dict[str, Any]) -> None:
    graph = read_onnx(tasks[name].onnx())
    copy = graph.clone()
    apply(copy, *FLOAT_PASSES)
    agree(graph, copy, feeds_of(tasks[name]), TOLERANCE)
    left = ops_of(copy)
    assert "BatchNormalization" not in left
    if name not in STILL_DYNAMIC:
        assert not set(SHAPE_OPS) & set(left)
    if name in WANTED:
        assert left == WANTED[name]
    assert sum(left.values()) <= sum(ops_of(graph).values())


def test_magika_is_fused_again(tasks: dict[str, Any]) -> None:
    graph = read_onnx(tasks["magika_v3_3"].onnx())
    apply(graph, *FLOAT_PASSES)
    left = ops_of(graph)
    # The first GELU went into the table that the bytes are looked up in.
    assert (left["LayerNormalization"], left["Gelu"], left["Softmax"]) == (2, 1, 1)
    assert (left["Gather"], left.get("Equal", 0)) == (1, 0)
    assert not {"Erf", "Tanh", "Sqrt", "Exp", "ReduceSum", "Mul"} & set(left)


@pytest.mark.parametrize("name", QUANTIZED_MODELS)
def test_import_of_quantized_models(name: str, tasks: dict[str, Any]) -> None:
    graph = read_onnx(tasks[name].onnx())
    copy = graph.clone()
    assert apply(copy, FoldConstants(), Canonicalize(), ImportQdq(), EliminateDead()) == []
    agree(graph, copy, feeds_of(tasks[name]), 0.0)
    left = ops_of(copy)
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(left)
    assert copy.stage is Stage.NUMBERED
    assert copy.inputs[0].tensor.storage == copy.outputs[0].tensor.storage == "uint8"


@pytest.mark.parametrize(
    "name", ["yunet_n_dynamic", "dreams260k_llama", "espcn_superres_x3", "magika_v3_3"]
)
def test_specialization(name: str, tasks: dict[str, Any]) -> None:
    graph = read_onnx(tasks[name].onnx())
    (feed,) = feeds_of(tasks[name], 1)
    copy = specialize_graph(graph, {key: value.shape for key, value in feed.items()})
    assert all(value.tensor.is_static for value in copy.values())
    agree(graph, copy, [feed], 0.0)
    assert not set(SHAPE_OPS) & set(ops_of(copy))
