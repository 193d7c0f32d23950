"""Small models that once failed, found by ``tools/fuzz.py`` and shrunk by ``tools/reduce.py``.

Inputs whose name begins with ``w`` are weights: they become random initializers.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.fuzzing.cases import Case, default_targets, failure_of

MODELS = {
    # A region read a reshaped input in its old shape.
    "reshape_of_input_before_region": """
        (float[1, 3, 1, 13] x, float[3, 1, 5] w) => (float[1, 3, 5] y, float[1, 4, 13] z)
        <int64[3] shape = {0, 3, -1}, int64[6] ends = {0, 1, 0, 0, 0, 0}>
        {
            r = Reshape(x, shape)
            y = Conv<group = 3, pads = [2, 2], strides = [3]>(r, w)
            z = Pad<mode = "reflect">(r, ends)
        }""",
    # The tables of a max pool with many kinds of windows were not handed over.
    "max_pool_by_table": """
        (float[1, 3, 3, 8] x, float[8, 24] w) => (float[1, 3, 3, 22] y)
        {
            p = MatMul(x, w)
            y = MaxPool<kernel_shape = [3, 7], pads = [0, 4, 2, 0]>(p)
        }""",
    # What read the first result of a Split was walked before the Split.
    "first_result_of_split_is_an_output": """
        (float[1, 16] x, float[16, 24] w, float[2, 8] w2) => (float[1, 22] a, float[1, 8] y)
        <int64[2] sizes = {22, 2}>
        {
            p = MatMul(x, w)
            a, b = Split<axis = 1>(p, sizes)
            y = Gemm(b, w2)
        }""",
    # Native code and numpy gave zeros of different sign.
    "relu_of_negative_zero": """
        (float[3, 4, 3, 1] x, float[3, 4, 3, 4] z, float[1, 4] w) => (float[3, 4, 3, 4] y)
        {
            p = MatMul(x, w)
            q = Mul(p, z)
            y = Relu(q)
        }""",
    # An output that is an input moved in a way that changes nothing lost its name.
    "transposed_input_is_an_output": """
        (float[1, 1, 8] x, float[8, 24] w) => (float[1, 1, 8] z, float[1, 1, 24] y)
        {
            z = Transpose<perm = [1, 0, 2]>(x)
            y = MatMul(x, w)
        }""",
}


def case_of(text: str, feeds: int = 3) -> Case:
    """A model of the text at opset 21 with random weights and feeds."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {text}')
    random = np.random.default_rng(0)
    arrays = {
        item.name: [
            random.normal(size=[d.dim_value for d in item.type.tensor_type.shape.dim])
            for _ in range(feeds)
        ]
        for item in model.graph.input
    }
    weights = [item for item in model.graph.input if item.name.startswith("w")]
    for item in weights:
        model.graph.input.remove(item)
        data = arrays.pop(item.name)[0].astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(data, item.name))
    made = tuple({k: a[i].astype(np.float32) for k, a in arrays.items()} for i in range(feeds))
    return Case(model.SerializeToString(), made, default_targets(), threads=2, observer="minmax")


@pytest.mark.parametrize("name", MODELS)
def test_small_model(name: str) -> None:
    failure = failure_of(case_of(MODELS[name]))
    assert failure is None, failure.message + failure.details
