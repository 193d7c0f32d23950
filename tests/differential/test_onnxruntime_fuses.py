"""In onnxruntime, nothing of a quantized vision model multiplies matrices in float.

The model that onnxruntime made of the export is read back, after all of its optimizations.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from qcc.onnxio import write_onnx
from tests.differential.models import DIGITS, sample

MODELS = (
    "squeezenet10_imagenet",
    "mobilenet_v2_10_224_imagenet",
    "resnet20_cifar10",
    "resnet8_cifar10_nhwc",
)

FLOAT_OPS = {"Conv", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
"""What multiplies matrices in float; onnxruntime's own fusions included."""

INTEGER_OPS = {"Conv": {"QLinearConv"}, "Gemm": {"QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}}
"""What onnxruntime makes of each op between Q/DQ."""

OPSETS = (13, 21)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def optimized(path: Path) -> Counter[str]:
    """The operators of the model after onnxruntime's default optimizations."""
    target = path.with_suffix(".optimized.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return operators(target)


def check(name: str, folder: Path) -> None:
    graph = sample(name, batches=2).numbered("onnx")
    for opset in OPSETS:
        path = folder / f"{name}.{opset}.onnx"
        write_onnx(graph, path, opset=opset)
        before, after = operators(path), optimized(path)
        assert before["Conv"] > 0
        assert not FLOAT_OPS & set(after), f"opset {opset} left {after}"
        for op, integer in INTEGER_OPS.items():
            assert sum(after[name] for name in integer) == before[op] + before["MatMul"] * (
                op == "Gemm"
            )


def test_digits(tmp_path: Path) -> None:
    check(DIGITS, tmp_path)


@pytest.mark.shared
@pytest.mark.parametrize("name", MODELS)
def test_zoo(name: str, zoo: Path, tmp_path: Path) -> None:
    check(name, tmp_path)
