from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.fold_batchnorm import FoldBatchNorm
from tests.passes.float_models import Net, apply, check, ops_of


def batch_norm(net: Net, x: str, channels: int) -> str:
    return net.op(
        "BatchNormalization",
        x,
        net.normal(channels),
        net.normal(channels),
        net.normal(channels),
        np.abs(net.normal(channels)) + np.float32(0.1),
        epsilon=1e-3,
    )


@settings(max_examples=30, deadline=None)
@given(
    transposed=st.booleans(),
    groups=st.sampled_from([1, 2, 3]),
    bias=st.booleans(),
    kernel=st.integers(1, 3),
    dims=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_convolutions_of_any_grouping(
    transposed: bool, groups: int, bias: bool, kernel: int, dims: int, seed: int
) -> None:
    net = Net(seed)
    inputs, outputs = 2 * groups, 3 * groups
    x = net.input("x", 2, inputs, *(5,) * dims)
    shape = (inputs, 3) if transposed else (outputs, 2)
    weight = net.normal(*shape, *(kernel,) * dims)
    operands = [net.normal(outputs)] if bias else []
    op = "ConvTranspose" if transposed else "Conv"
    y = net.op(op, x, weight, *operands, group=groups)
    result = check(net.graph(batch_norm(net, y, outputs)), FoldBatchNorm())
    assert ops_of(result) == {op: 1}


@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_gemm(trans: int, bias: bool) -> None:
    net = Net()
    x = net.input("x", 4, 6)
    weight = net.normal(5, 6) if trans else net.normal(6, 5)
    y = net.op("Gemm", x, weight, *([net.normal(5)] if bias else []), transB=trans)
    assert ops_of(check(net.graph(batch_norm(net, y, 5)), FoldBatchNorm())) == {"Gemm": 1}


def test_matmul_with_bias_scale_and_shift() -> None:
    net = Net()
    x = net.input("x", 2, 4, 6)
    y = net.op("Add", net.op("MatMul", x, net.normal(6, 5)), net.normal(5))
    y = net.op("Add", net.op("Mul", y, net.normal(5)), net.normal(1, 5))
    result = check(net.graph(y), FoldBatchNorm())
    assert ops_of(result) == {"MatMul": 1, "Add": 1}


def test_matmul_scale_without_shift_adds_no_bias() -> None:
    net = Net()
    x = net.input("x", 4, 6)
    graph = net.graph(net.op("Div", net.op("MatMul", x, net.normal(6, 5)), 8.0))
    assert ops_of(check(graph, FoldBatchNorm())) == {"MatMul": 1}


def test_a_lone_bias_behind_matmul_stays() -> None:
    net = Net()
    x = net.input("x", 2, 4, 6)
    graph = net.graph(net.op("Add", net.op("MatMul", x, net.normal(6, 5)), net.normal(5)))
    copy = graph.clone()
    apply(copy, FoldBatchNorm())
    assert [node.name for node in copy.nodes] == [node.name for node in graph.nodes]


@settings(max_examples=30, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["Mul", "Div", "Add", "Sub", "SubFrom", "BatchNormalization"]),
            st.sampled_from([(), (1,), (4, 1, 1), (1, 4, 1, 1)]),
        ),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 99),
)
def test_any_chain_behind_a_convolution(
    steps: list[tuple[str, tuple[int, ...]]], seed: int
) -> None:
    net = Net(seed)
    y = net.op("Conv", net.input("x", 2, 3, 5, 5), net.normal(4, 3, 3, 3), pads=[1, 1, 1, 1])
    for op, shape in steps:
        constant = net.normal(*shape) + np.float32(2.0) * np.sign(net.normal(*shape))
        if op == "BatchNormalization":
            y = batch_norm(net, y, 4)
        elif op == "SubFrom":
            y = net.op("Sub", constant, y)
        else:
            y = net.op(op, y, constant)
    result = check(net.graph(y), FoldBatchNorm(), tolerance=1e-5)
    assert ops_of(result) == {"Conv": 1}


@pytest.mark.parametrize("shape", [(5,), (1, 1, 1, 5), (2, 1, 1, 1), (1, 4, 5, 5)])
def test_constants_that_do_not_follow_the_channels_stay(shape: tuple[int, ...]) -> None:
    net = Net()
    y = net.op("Conv", net.input("x", 2, 3, 5, 5), net.normal(4, 3, 1, 1))
    result = check(net.graph(net.op("Mul", y, net.normal(*shape))), FoldBatchNorm(), tolerance=0.0)
    assert ops_of(result) == {"Conv": 1, "Mul": 1}


def test_one_over_a_convolution_stays() -> None:
    net = Net()
    y = net.op("Conv", net.input("x", 2, 3, 5, 5), net.normal(4, 3, 1, 1))
    graph = net.graph(net.op("Div", net.normal(4, 1, 1), y))
    assert ops_of(check(graph, FoldBatchNorm(), tolerance=0.0)) == {"Conv": 1, "Div": 1}


def test_a_second_user_is_refused_with_a_sentence() -> None:
    net = Net()
    y = net.op("Conv", net.input("x", 2, 3, 5, 5), net.normal(4, 3, 1, 1))
    graph = net.graph(batch_norm(net, y, 4), net.op("Relu", y))
    copy = graph.clone()
    refusals = apply(copy, FoldBatchNorm())
    assert len(refusals) == 1
    assert "is also used by node" in refusals[0][1]
    assert ops_of(check(graph, FoldBatchNorm())) == {"Add": 1, "Conv": 1, "Mul": 1, "Relu": 1}


def test_a_convolution_that_is_an_output_is_refused() -> None:
    net = Net()
    y = net.op("Conv", net.input("x", 2, 3, 5, 5), net.normal(4, 3, 1, 1))
    graph = net.graph(batch_norm(net, y, 4), y)
    (refusal,) = apply(graph.clone(), FoldBatchNorm())
    assert "a graph output" in refusal[1]


@settings(max_examples=20, deadline=None)
@given(groups=st.sampled_from([1, 2]), op=st.sampled_from(["Conv", "Gemm"]), seed=st.integers(0, 9))
def test_in_front_of_an_unpadded_op(groups: int, op: str, seed: int) -> None:
    net = Net(seed)
    if op == "Conv":
        x = net.op("Relu", net.input("x", 2, 4, 5, 5))
        weight = net.normal(6, 4 // groups, 3, 3)
        y = net.op("Conv", batch_norm(net, x, 4), weight, group=groups)
    else:
        x = net.op("Relu", net.input("x", 2, 4))
        y = net.op("Gemm", batch_norm(net, x, 4), net.normal(5, 4), net.normal(5), transB=1)
    assert ops_of(check(net.graph(y), FoldBatchNorm(), tolerance=1e-5)) == {"Relu": 1, op: 1}


def test_in_front_of_a_padded_convolution_it_is_written_out() -> None:
    net = Net()
    x = net.op("Relu", net.input("x", 2, 4, 5, 5))
    graph = net.graph(
        net.op("Conv", batch_norm(net, x, 4), net.normal(6, 4, 3, 3), pads=[1, 1, 1, 1])
    )
    refusals = apply(graph.clone(), FoldBatchNorm())
    assert "pads with zeros" in refusals[0][1]
    assert ops_of(check(graph, FoldBatchNorm())) == {"Add": 1, "Conv": 1, "Mul": 1, "Relu": 1}


def test_a_standalone_norm_becomes_mul_and_add() -> None:
    for shape in ((3, 4), (3, 4, 5), (3, 4, 5, 6)):
        net = Net()
        graph = net.graph(batch_norm(net, net.input("x", *shape), 4))
        assert ops_of(check(graph, FoldBatchNorm(), EliminateDead())) == {"Add": 1, "Mul": 1}


def test_training_mode_is_left_alone() -> None:
    net = Net()
    x = net.input("x", 2, 4, 5, 5)
    ones = np.ones(4, np.float32)
    y = net.ops("BatchNormalization", x, ones, ones, ones, ones, results=3, training_mode=1)
    graph = net.graph(y[0])
    apply(graph, FoldBatchNorm())
    assert ops_of(graph) == {"BatchNormalization": 1}


def test_names() -> None:
    net = Net()
    y = net.op("Conv", net.input("x", 2, 3, 5, 5), net.normal(4, 3, 1, 1))
    z = batch_norm(net, y, 4)
    graph = net.graph(net.op("Relu", z))
    own, last = graph.clone(), graph.clone()
    apply(own, FoldBatchNorm())
    apply(last, FoldBatchNorm(keep_names=True))
    assert own.nodes[0].output.name == y
    assert last.nodes[0].output.name == z
    assert own.nodes[0].name == last.nodes[0].name == graph.nodes[0].name


def test_rounded_once() -> None:
    """A chain whose steps would round away digits one by one keeps them."""
    net = Net()
    x = net.input("x", 1, 1, 1, 1)
    y = net.op("Conv", x, np.ones((1, 1, 1, 1), np.float32))
    y = net.op("Sub", net.op("Add", y, 16777216.0), 16777215.0)
    graph = net.graph(y)
    apply(graph, FoldBatchNorm())
    (conv,) = graph.nodes
    bias = conv.operand(2).constant
    assert bias is not None
    assert bias.tolist() == [1.0]
