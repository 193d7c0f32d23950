"""Models written in an older or newer opset than the pinned one compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper

from qcc.errors import ModelError
from qcc.onnxio import read_onnx, to_model_proto
from tests.onnxio.models import RUNTIME_OPSET, assert_same, model, run, run_in_runtime

make = helper.make_node
X = np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32)
ROUNDING = 1e-6
"""Where an op is written by other ops in the older opset."""


def ints(*items: int) -> np.ndarray[Any, Any]:
    return np.asarray(items, np.int64)


LOWERED: list[tuple[NodeProto, dict[str, Any], int, float]] = [
    (make("ReduceMean", ["x", "c"], ["y"]), {"c": ints(1)}, 10, 0),
    (make("ReduceSum", ["x", "c"], ["y"], keepdims=0), {"c": ints(-1)}, 11, 0),
    (make("ReduceMax", ["x"], ["y"], noop_with_empty_axes=1), {}, 10, 0),
    (make("ReduceL2", ["x"], ["y"]), {}, 10, ROUNDING),
    (make("Squeeze", ["x1", "c"], ["y"]), {"c": ints(0)}, 10, 0),
    (make("Unsqueeze", ["x", "c"], ["y"]), {"c": ints(1, 2)}, 10, 0),
    (make("Split", ["x", "c"], ["y", "z"], axis=1), {"c": ints(2, 4)}, 10, 0),
    (make("Split", ["x"], ["y", "z"], axis=1, num_outputs=2), {}, 10, 0),
    (make("Softmax", ["x"], ["y"]), {}, 10, 0),
    (make("Softmax", ["x"], ["y"], axis=1), {}, 10, 0),
    (make("LogSoftmax", ["x"], ["y"], axis=0), {}, 10, 0),
    (make("Clip", ["x", "c", "d"], ["y"]), {"c": np.float32(-1), "d": np.float32(1)}, 10, 0),
    (make("Clip", ["x", "", "d"], ["y"]), {"d": np.float32(1)}, 10, 0),
    (make("Clip", ["x", "c"], ["y"]), {"c": np.float32(0)}, 10, 0),
    (make("Pad", ["x", "c", "d"], ["y"]), {"c": ints(0, 1, 2, 0, 0, 0), "d": np.float32(2)}, 10, 0),
    (make("Dropout", ["x", "c"], ["y"]), {"c": np.float32(0.2)}, 10, 0),
    (make("LayerNormalization", ["x", "c"], ["y"]), {"c": X[0, 0]}, 14, ROUNDING),
    (make("Gelu", ["x"], ["y"]), {}, 13, ROUNDING),
    (make("HardSwish", ["x"], ["y"]), {}, 12, ROUNDING),
    (make("Mish", ["x"], ["y"]), {}, 13, ROUNDING),
    (make("GreaterOrEqual", ["x", "x"], ["y"]), {}, 11, 0),
    (make("Cast", ["x"], ["y"], to=onnx.TensorProto.INT32), {}, 10, 0),
    (make("CumSum", ["x", "c"], ["y"]), {"c": np.asarray(1)}, 11, 0),
]


@pytest.mark.parametrize("case", LOWERED, ids=lambda case: f"{case[0].op_type}-{case[2]}")
def test_older_opsets_compute_the_same(case: tuple[NodeProto, dict[str, Any], int, float]) -> None:
    node, constants, opset, tolerance = case
    if RUNTIME_OPSET < 25 and any(a.name == "noop_with_empty_axes" for a in node.attribute):
        pytest.skip("this onnxruntime refuses noop_with_empty_axes")
    feeds = {"x1": X[None]} if "x1" in node.input else {"x": X}
    arrays = {name: np.asarray(data) for name, data in constants.items()}
    before = model([node], feeds, list(node.output), 21, arrays)
    graph = read_onnx(before)
    for target in (opset, 17, 22, 25):
        after = to_model_proto(graph, opset=target)
        assert next(i.version for i in after.opset_import if not i.domain) == target
        onnx.checker.check_model(after, full_check=True)
        rounding = ROUNDING if target > RUNTIME_OPSET else tolerance
        assert_same(run(after, feeds), run_in_runtime(before, feeds), rounding)
    assert to_model_proto(graph) == to_model_proto(read_onnx(before))


def test_bodies_and_functions_are_lowered_too() -> None:
    reduce = make("ReduceMean", ["a", "axes"], ["r"])
    axes = make("Constant", [], ["axes"], value_ints=[1])
    imports = [helper.make_opsetid("", 21)]
    function = helper.make_function("mine", "mean", ["a"], ["r"], [axes, reduce], imports)
    inner = make("ReduceMean", ["x", "c"], ["t"])
    branches = [
        helper.make_graph([inner], name, [], [helper.make_tensor_value_info("t", 1, [2, 1, 4])])
        for name in ("then", "else")
    ]
    nodes = [
        make("If", ["flag"], ["h"], then_branch=branches[0], else_branch=branches[1]),
        make("mean", ["h"], ["y"], domain="mine"),
    ]
    feeds = {"x": X, "flag": np.asarray(True)}
    before = model(
        nodes,
        feeds,
        ["y"],
        21,
        {"c": ints(1)},
        functions=[function],
        opset_imports=[*imports, helper.make_opsetid("mine", 1)],
    )
    after = to_model_proto(read_onnx(before), opset=13)
    assert after.functions[0].opset_import[0].version == 13
    assert_same(run_in_runtime(after, feeds), run_in_runtime(before, feeds))


@pytest.mark.parametrize(
    ("node", "opset", "words"),
    [
        (make("Trilu", ["x"], ["y"], name="n"), 13, "opset 13 has no Trilu.*node 'n'"),
        (make("ReduceMean", ["x", "c"], ["y"], name="n"), 13, "fewer operands.*node 'n'"),
        (make("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD"), 10, "no attribute 'mode'"),
    ],
)
def test_what_the_older_opset_lacks_is_refused(node: NodeProto, opset: int, words: str) -> None:
    feeds = {"x": X[None], "c": ints(1)}
    proto = model([node], {name: feeds[name] for name in node.input}, ["y"], 21)
    with pytest.raises(ModelError, match=words):
        to_model_proto(read_onnx(proto), opset=opset)
