from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from qcc.ir.core import Graph
from qcc.passes.canonicalize import Canonicalize
from tests.passes.float_models import Net, check, ops_of


def net_of(build: Callable[[Net, str], str], *shape: int | str) -> Graph:
    """A graph of what ``build`` makes of x, between two Relus, so that x is no graph input."""
    net = Net()
    x = net.op("Neg", net.input("x", *shape))
    return net.graph(net.op("Neg", build(net, x)))


NOTHING: list[tuple[str, Callable[[Net, str], str]]] = [
    ("identity", lambda n, x: n.op("Identity", x)),
    ("dropout", lambda n, x: n.op("Dropout", x, 0.4)),
    ("dropout off", lambda n, x: n.op("Dropout", x, 0.4, np.array(False))),
    ("cast", lambda n, x: n.op("Cast", x, to=TensorProto.FLOAT)),
    ("reshape", lambda n, x: n.op("Reshape", x, np.array([2, 3, 4, 4]))),
    ("reshape zero", lambda n, x: n.op("Reshape", x, np.array([0, 0, -1, 4]))),
    ("transpose", lambda n, x: n.op("Transpose", x, perm=[0, 1, 2, 3])),
    (
        "transposes",
        lambda n, x: n.op("Transpose", n.op("Transpose", x, perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2]),
    ),
    ("pad", lambda n, x: n.op("Pad", x, np.zeros(8, np.int64))),
    ("slice", lambda n, x: n.op("Slice", x, np.array([0, 0]), np.array([2, 99]))),
    (
        "slice axes",
        lambda n, x: n.op(
            "Slice", x, np.array([0]), np.array([2**63 - 1]), np.array([-1]), np.array([1])
        ),
    ),
    ("concat", lambda n, x: n.op("Concat", x, axis=1)),
    ("sum", lambda n, x: n.op("Sum", x)),
    ("split", lambda n, x: n.op("Split", x, num_outputs=1, axis=1)),
    ("expand", lambda n, x: n.op("Expand", x, np.array([3, 1, 4]))),
    ("tile", lambda n, x: n.op("Tile", x, np.array([1, 1, 1, 1]))),
    ("mul one", lambda n, x: n.op("Mul", 1.0, x)),
    ("add zero", lambda n, x: n.op("Add", x, np.zeros((3, 1, 1), np.float32))),
    ("div one", lambda n, x: n.op("Div", x, 1.0)),
    ("clip infinite", lambda n, x: n.op("Clip", x, -3.4028235e38, float("inf"))),
]


@pytest.mark.parametrize("build", [b for _, b in NOTHING], ids=[n for n, _ in NOTHING])
def test_what_does_nothing_vanishes(build: Callable[[Net, str], str]) -> None:
    result = check(net_of(build, 2, 3, 4, 4), Canonicalize(), tolerance=0.0)
    assert ops_of(result) == {"Neg": 2}


STAYS: list[tuple[str, str, Callable[[Net, str], str]]] = [
    ("cast", "Cast", lambda n, x: n.op("Cast", n.op("Cast", x, to=7), to=TensorProto.FLOAT)),
    ("reshape", "Reshape", lambda n, x: n.op("Reshape", x, np.array([3, 2, 4, 4]))),
    ("slice", "Slice", lambda n, x: n.op("Slice", x, np.array([1]), np.array([2]))),
    (
        "reversed",
        "Slice",
        lambda n, x: n.op(
            "Slice", x, np.array([-1]), np.array([-9]), np.array([2]), np.array([-1])
        ),
    ),
    ("expand", "Expand", lambda n, x: n.op("Expand", x, np.array([2, 1, 1, 1, 1]))),
    ("broadcast one", "Mul", lambda n, x: n.op("Mul", x, np.ones((5, 1, 1, 1, 1), np.float32))),
    ("sub from zero", "Sub", lambda n, x: n.op("Sub", 0.0, x)),
]


@pytest.mark.parametrize(
    ("op", "build"), [(o, b) for _, o, b in STAYS], ids=[n for n, _, _ in STAYS]
)
def test_what_does_something_stays(op: str, build: Callable[[Net, str], str]) -> None:
    result = check(net_of(build, 2, 3, 4, 4), Canonicalize(), tolerance=0.0)
    assert op in ops_of(result)


def test_a_full_slice_of_an_unknown_dimension() -> None:
    to_the_end = net_of(lambda n, x: n.op("Slice", x, np.array([0]), np.array([2**31 - 1])), "N", 3)
    ten = net_of(lambda n, x: n.op("Slice", x, np.array([0]), np.array([10])), "N", 3)
    assert ops_of(check(to_the_end, Canonicalize(), tolerance=0.0)) == {"Neg": 2}
    assert "Slice" in ops_of(check(ten, Canonicalize(), tolerance=0.0, sizes={"N": 12}))


def test_empty_operands_of_a_resize_are_absent_ones() -> None:
    empty, scales = np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)
    graph = net_of(lambda n, x: n.op("Resize", x, empty, scales, mode="nearest"), 1, 2, 3, 3)
    result = check(graph, Canonicalize(), tolerance=0.0)
    (resize,) = (node for node in result.nodes if node.op == "Resize")
    assert resize.input(1) is None
    assert resize.input(2) is not None


def test_reshapes_merge_whatever_came_first() -> None:
    graph = net_of(
        lambda n, x: n.op(
            "Reshape",
            n.op("Unsqueeze", n.op("Flatten", x, axis=2), np.array([0])),
            np.array([4, -1]),
        ),
        2,
        3,
        4,
        5,
    )
    assert ops_of(check(graph, Canonicalize(), tolerance=0.0)) == {"Neg": 2, "Reshape": 1}


def test_identity_between_input_and_output_stays() -> None:
    net = Net()
    graph = net.graph(net.op("Identity", net.input("x", 2)))
    assert ops_of(check(graph, Canonicalize(), tolerance=0.0)) == {"Identity": 1}


def test_one_value_as_two_outputs_keeps_both_names() -> None:
    net = Net()
    y = net.op("Relu", net.input("x", 2))
    graph = net.graph(y, net.op("Identity", y))
    assert ops_of(check(graph, Canonicalize(), tolerance=0.0)) == {"Identity": 1, "Relu": 1}


@settings(max_examples=30, deadline=None)
@given(first=st.permutations(range(4)), second=st.permutations(range(4)))
def test_any_two_transposes_are_at_most_one(first: list[int], second: list[int]) -> None:
    graph = net_of(
        lambda n, x: n.op("Transpose", n.op("Transpose", x, perm=first), perm=second), 2, 3, 4, 5
    )
    result = check(graph, Canonicalize(), tolerance=0.0)
    assert ops_of(result).get("Transpose", 0) <= 1


CLAMPS: list[tuple[str, dict[str, int], Callable[[Net, str], str]]] = [
    ("relu6", {"Clip": 1}, lambda n, x: n.op("Min", n.op("Max", x, 0.0), 6.0)),
    ("relu6 other order", {"Clip": 1}, lambda n, x: n.op("Max", 0.0, n.op("Min", 6.0, x))),
    ("max zero", {"Relu": 1}, lambda n, x: n.op("Max", x, np.zeros(1, np.float32))),
    ("relu and clip", {"Clip": 1}, lambda n, x: n.op("Clip", n.op("Relu", x), None, 1.0)),
    ("clip and relu", {"Clip": 1}, lambda n, x: n.op("Relu", n.op("Clip", x, -1.0, 1.0))),
    ("clip at zero", {"Relu": 1}, lambda n, x: n.op("Clip", x, 0.0)),
    ("relu twice", {"Relu": 1}, lambda n, x: n.op("Relu", n.op("Relu", x))),
    ("disjoint", {"Clip": 1}, lambda n, x: n.op("Clip", n.op("Clip", x, 0.0, 1.0), 2.0, 3.0)),
]


@pytest.mark.parametrize(
    ("ops", "build"), [(o, b) for _, o, b in CLAMPS], ids=[n for n, _, _ in CLAMPS]
)
def test_clamps(ops: dict[str, int], build: Callable[[Net, str], str]) -> None:
    result = check(net_of(build, 2, 3), Canonicalize(), tolerance=0.0)
    assert ops_of(result) == {"Neg": 2, **ops}


def test_max_with_a_vector_stays() -> None:
    graph = net_of(lambda n, x: n.op("Max", x, np.array([0.0, 1.0, 2.0], np.float32)), 2, 3)
    assert "Max" in ops_of(check(graph, Canonicalize(), tolerance=0.0))


@pytest.mark.parametrize("shape", [(), (1,), (5,), (1, 5)])
def test_matmul_and_bias_of_matrices_is_gemm(shape: tuple[int, ...]) -> None:
    graph = net_of(
        lambda n, x: n.op("Add", n.normal(*shape), n.op("MatMul", x, n.normal(7, 5))), 4, 7
    )
    assert ops_of(check(graph, Canonicalize())) == {"Neg": 2, "Gemm": 1}


def test_matmul_and_bias_of_other_ranks_stay() -> None:
    for rank, bias in (((2, 4, 7), (5,)), ((4, 7), (4, 1)), ((4, 7), (3, 1, 5))):

        def build(n: Net, x: str, bias: tuple[int, ...] = bias) -> str:
            return n.op("Add", n.op("MatMul", x, n.normal(7, 5)), n.normal(*bias))

        result = check(net_of(build, *rank), Canonicalize(), tolerance=0.0)
        assert ops_of(result) == {"Neg": 2, "MatMul": 1, "Add": 1}


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("mover", ["Squeeze", "Unsqueeze"])
def test_numbers_of_channels_go_in_front_of_a_squeeze(op: str, mover: str) -> None:
    width = 1 if mover == "Squeeze" else 6

    def build(n: Net, x: str) -> str:
        y = n.op(mover, n.op("Conv", x, n.normal(5, 3, 1, 1)), np.array([-1]))
        return n.op(op, y, n.normal(1, 5, *(1,) * (1 if mover == "Squeeze" else 3)))

    graph = check(net_of(build, 2, 3, 4, width), Canonicalize(), tolerance=1e-6)
    order = [node.op for node in graph.nodes]
    assert order.index(op) < order.index(mover)


@pytest.mark.parametrize(
    ("axis", "shape"), [(0, (5, 4, 1)), (3, (4,)), (3, (5, 4)), (3, (1, 1, 1))]
)
def test_other_numbers_stay_behind_a_squeeze(axis: int, shape: tuple[int, ...]) -> None:
    def build(n: Net, x: str) -> str:
        y = n.op("Squeeze", n.op("Conv", x, n.normal(5, 3, 1, 1)), np.array([axis]))
        return n.op("Add", y, n.normal(*shape))

    graph = check(net_of(build, 1, 3, 4, 1), Canonicalize(), tolerance=0.0)
    order = [node.op for node in graph.nodes]
    assert order.index("Squeeze") < order.index("Add")


def test_gemm_factors_move_into_constants() -> None:
    graph = net_of(
        lambda n, x: n.op("Gemm", x, n.normal(5, 7), n.normal(5), alpha=0.5, beta=2.0, transB=1),
        4,
        7,
    )
    result = check(graph, Canonicalize())
    gemm = next(node for node in result.nodes if node.op == "Gemm")
    assert (gemm.attributes["alpha"], gemm.attributes["beta"]) == (1.0, 1.0)


# -- windows ----------------------------------------------------------------------------------

SPATIAL = np.array([0, 0, 1, 2, 0, 0, 0, 1])
LOWEST = -3.4028235e38


def padded(op: str, fill: float = 0.0, **attributes: Any) -> Graph:
    def build(n: Net, x: str) -> str:
        pad = n.op("Pad", x, SPATIAL, fill)
        weights = [n.normal(4, 3, 3, 3)] if op == "Conv" else []
        return n.op(op, pad, *weights, kernel_shape=[3, 3], **attributes)

    return net_of(build, 2, 3, 6, 7)


@pytest.mark.parametrize(
    ("op", "fill", "attributes"),
    [
        ("Conv", 0.0, {"pads": [1, 1, 1, 1]}),
        ("Conv", 0.0, {"auto_pad": "VALID"}),
        ("AveragePool", 0.0, {}),
        ("AveragePool", 0.0, {"count_include_pad": 1, "pads": [1, 0, 0, 1]}),
        ("MaxPool", LOWEST, {"strides": [2, 2]}),
        ("MaxPool", float("-inf"), {}),
    ],
)
def test_pads_fold(op: str, fill: float, attributes: dict[str, Any]) -> None:
    assert ops_of(check(padded(op, fill, **attributes), Canonicalize())) == {"Neg": 2, op: 1}


@pytest.mark.parametrize(
    ("op", "fill", "attributes"),
    [
        ("Conv", 1.0, {}),
        ("AveragePool", 0.0, {"pads": [1, 0, 0, 1]}),
        ("AveragePool", 0.0, {"ceil_mode": 1, "strides": [2, 2]}),
        ("AveragePool", 1.0, {}),
        ("MaxPool", 0.0, {}),
        ("MaxPool", LOWEST, {"pads": [2, 2, 2, 2]}),
    ],
)
def test_pads_that_mean_something_else_stay(
    op: str, fill: float, attributes: dict[str, Any]
) -> None:
    assert "Pad" in ops_of(check(padded(op, fill, **attributes), Canonicalize()))


def test_zero_pad_of_what_is_never_negative_folds_into_max_pool() -> None:
    graph = net_of(
        lambda n, x: n.op(
            "MaxPool", n.op("Pad", n.op("Relu", x), SPATIAL), kernel_shape=[3, 3], strides=[2, 2]
        ),
        2,
        3,
        6,
        7,
    )
    assert ops_of(check(graph, Canonicalize(), tolerance=0.0)) == {
        "MaxPool": 1,
        "Neg": 2,
        "Relu": 1,
    }


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
    op=st.sampled_from(["Conv", "MaxPool", "AveragePool"]),
    size=st.integers(4, 9),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
)
def test_automatic_pads_become_explicit(
    mode: str, op: str, size: int, kernel: int, stride: int, dilation: int
) -> None:
    if op != "Conv" or mode != "VALID":
        dilation = 1  # onnxruntime takes no other with SAME, and ONNX none with pools
    if (kernel - 1) * dilation + 1 > size:
        return
    stride = min(stride, kernel)  # onnxruntime computes negative SAME pads for larger ones
    attributes: dict[str, Any] = {"auto_pad": mode, "strides": [stride, stride]}
    attributes["kernel_shape"] = [kernel, kernel]
    if op == "Conv":
        attributes["dilations"] = [dilation, dilation]

    def build(n: Net, x: str) -> str:
        weights = [n.normal(2, 3, kernel, kernel)] if op == "Conv" else []
        return n.op(op, x, *weights, **attributes)

    result = check(net_of(build, 1, 3, size, size + 1), Canonicalize())
    node = result.nodes[1]
    assert "auto_pad" not in node.attributes


GLOBAL: list[tuple[str, dict[str, int], Callable[[Net, str], str]]] = [
    (
        "mean",
        {"GlobalAveragePool": 1},
        lambda n, x: n.op("ReduceMean", x, np.array([2, 3]), keepdims=1),
    ),
    (
        "mean negative axes",
        {"GlobalAveragePool": 1},
        lambda n, x: n.op("ReduceMean", x, np.array([-1, -2]), keepdims=1),
    ),
    (
        "mean without dims",
        {"GlobalAveragePool": 1, "Flatten": 1},
        lambda n, x: n.op("ReduceMean", x, np.array([2, 3]), keepdims=0),
    ),
    (
        "average",
        {"GlobalAveragePool": 1},
        lambda n, x: n.op("AveragePool", x, kernel_shape=[6, 7], strides=[6, 7]),
    ),
    ("max", {"GlobalMaxPool": 1}, lambda n, x: n.op("MaxPool", x, kernel_shape=[6, 7])),
    (
        "mean over rows",
        {"ReduceMean": 1},
        lambda n, x: n.op("ReduceMean", x, np.array([2]), keepdims=1),
    ),
    (
        "padded",
        {"AveragePool": 1},
        lambda n, x: n.op("AveragePool", x, kernel_shape=[6, 7], pads=[1, 1, 1, 1]),
    ),
]


@pytest.mark.parametrize(
    ("ops", "build"), [(o, b) for _, o, b in GLOBAL], ids=[n for n, _, _ in GLOBAL]
)
def test_global_pools(ops: dict[str, int], build: Callable[[Net, str], str]) -> None:
    assert ops_of(check(net_of(build, 2, 3, 6, 7), Canonicalize())) == {"Neg": 2, **ops}


def test_canonical_form_is_a_fixed_point() -> None:
    for _, build in NOTHING:
        graph = check(net_of(build, 2, 3, 4, 4), Canonicalize())
        assert ops_of(check(graph, Canonicalize())) == ops_of(graph)
