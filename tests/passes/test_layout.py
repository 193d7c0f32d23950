"""The layout pass changes no byte, and leaves no transposition that it can cancel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.ir.core import Graph, Value
from qcc.passes.layout import convert_layout
from qcc.passes.lower import lower
from qcc.passes.reshape_axes import axis_groups, commute_reshape, slice_of_split
from qcc.ref.evaluate import evaluate
from tests.passes.native_patterns import PATTERNS
from tests.passes.numbered import Numbered


def laid_out(builder: Numbered, graph: Graph) -> Graph:
    """Lower, lay out, compare all bytes; gives the graph in channels-last form."""
    feeds = builder.feeds()
    lower(graph, PATTERNS)
    result = graph.clone()
    convert_layout(result)
    before, after = evaluate(graph, feeds), evaluate(result, feeds)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert np.array_equal(value, after[name])
    return result


def count(graph: Graph, op: str) -> int:
    return sum(node.op == op for node in graph.nodes)


def conv(b: Numbered, x: Value, channels: int = 8) -> Value:
    n, c, h, w = x.tensor.static_shape
    return b.q(b.op("Conv", [x, b.weight((channels, c, 1, 1))], (n, channels, h, w)), 0.3)


def test_transpositions_cancel_through_elementwise_ops() -> None:
    b = Numbered()
    x = conv(b, b.q(b.input("x", 2, 4, 5, 6)))
    left = b.q(b.op("Sigmoid", [x], (2, 8, 5, 6)), 1 / 256, 0)
    y = b.q(b.op("Mul", [x, left], (2, 8, 5, 6)), 0.2)
    y = b.q(b.op("Concat", [y, x], (2, 16, 5, 6), axis=1), 0.3)
    y = b.q(b.op("Pad", [y, b.constant(np.array([0, 0, 1, 2, 0, 0, 0, 1]))], (2, 16, 6, 9)), 0.3)
    y = conv(b, y)
    graph = laid_out(b, b.done(b.q(b.op("GlobalAveragePool", [y], (2, 8, 1, 1)))))
    assert count(graph, "q.transpose") == 1


def test_readers_of_an_input_share_its_transposition() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 4, 5, 6))
    means = [b.op("GlobalAveragePool", [conv(b, x)], (2, 8, 1, 1)) for _ in range(3)]
    graph = laid_out(b, b.done(*(b.q(mean) for mean in means)))
    assert count(graph, "q.transpose") == 1


def test_squeeze_and_excite_needs_no_transposition_inside() -> None:
    b = Numbered()
    x = conv(b, b.q(b.input("x", 1, 4, 5, 6)))
    mean = b.q(b.op("GlobalAveragePool", [x], (1, 8, 1, 1)))
    gate = b.q(b.op("Sigmoid", [conv(b, mean)], (1, 8, 1, 1)), 1 / 256, 0)
    y = conv(b, b.q(b.op("Mul", [x, gate], (1, 8, 5, 6)), 0.2))
    graph = laid_out(b, b.done(b.q(b.op("GlobalAveragePool", [y], (1, 8, 1, 1)))))
    assert count(graph, "q.transpose") == 1


def test_flatten_before_a_matrix_product_permutes_its_rows() -> None:
    b = Numbered()
    x = conv(b, b.q(b.input("x", 2, 4, 3, 5)))
    flat = b.op("Flatten", [x], (2, 120))
    graph = laid_out(
        b, b.done(b.op("Gemm", [flat, b.weight((7, 120)), b.bias(7)], (2, 7), transB=1))
    )
    assert count(graph, "q.transpose") == 1


def test_channel_shuffle_stays_channels_last() -> None:
    b = Numbered()
    x = conv(b, b.q(b.input("x", 1, 4, 5, 6)))
    split = b.op("Reshape", [x, b.constant(np.array([1, 2, 4, 5, 6]))], (1, 2, 4, 5, 6))
    turned = b.op("Transpose", [split], (1, 4, 2, 5, 6), perm=[0, 2, 1, 3, 4])
    joined = b.op("Reshape", [turned, b.constant(np.array([1, 8, 5, 6]))], (1, 8, 5, 6))
    graph = laid_out(b, b.done(conv(b, b.q(joined, 0.3))))
    assert [node.op for node in graph.nodes].count("q.transpose") == 3  # in, shuffle, out


def test_one_dimensional_convolutions_become_images() -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 4, 9))
    y = b.q(b.op("Conv", [x, b.weight((6, 4, 3))], (2, 6, 5), pads=[1, 1], strides=[2]), 0.3)
    y = b.q(b.op("Sigmoid", [y], (2, 6, 5)), 1 / 256, 0)
    y = b.q(b.op("Conv", [y, b.weight((6, 6, 3))], (2, 6, 5), pads=[1, 1]), 0.3)
    y = b.op("MaxPool", [y], (2, 6, 2), kernel_shape=[2], strides=[2])
    graph = laid_out(b, b.done(b.q(y, 0.3)))
    convs = [node for node in graph.nodes if node.op == "q.conv"]
    assert [node.attributes["pads"] for node in convs] == [[0, 1, 0, 1]] * 2
    assert count(graph, "q.transpose") == 2


def test_depth_to_space_in_both_modes() -> None:
    for mode in (b"DCR", b"CRD"):
        b = Numbered()
        x = conv(b, b.q(b.input("x", 2, 4, 3, 5)))
        y = b.op("DepthToSpace", [x], (2, 2, 6, 10), blocksize=2, mode=mode)
        laid_out(b, b.done(conv(b, b.q(y, 0.3))))


def test_softmax_over_channels_sums_along_the_last_axis() -> None:
    b = Numbered()
    x = conv(b, b.q(b.input("x", 2, 4, 3, 5)))
    graph = laid_out(b, b.done(b.op("Softmax", [x], (2, 8, 3, 5), axis=1)))
    softmax = next(node for node in graph.nodes if node.op == "q.softmax")
    assert softmax.attributes["axis"] == 3


def test_reductions_of_any_axes() -> None:
    for axes, keep, shape in (([2, 3], 0, (2, 8)), ([1], 1, (2, 1, 3, 5)), ([1, 3], 0, (2, 3))):
        b = Numbered()
        x = conv(b, b.q(b.input("x", 2, 4, 3, 5)))
        y = b.op("ReduceMean", [x, b.constant(np.array(axes))], shape, keepdims=keep)
        laid_out(b, b.done(b.q(y)))


@pytest.mark.parametrize("perm", [(0, 3, 1, 2), (0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 2, 3)])
def test_a_plain_transposition_survives(perm: tuple[int, ...]) -> None:
    b = Numbered()
    x = b.q(b.input("x", 2, 3, 4, 5))
    shape = [(2, 3, 4, 5)[p] for p in perm]
    laid_out(b, b.done(b.q(b.op("Transpose", [x], shape, perm=list(perm)))))


def test_axis_groups() -> None:
    assert axis_groups((2, 3, 4), (6, 4)) == [([0, 1], [0]), ([2], [1])]
    assert axis_groups((1, 8, 1), (2, 4)) == [([1], [0, 1])]
    assert axis_groups((2, 3), (3, 2)) == [([0, 1], [0, 1])]
    assert axis_groups((2, 3), (7,)) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_commuted_reshape_gives_the_same_elements(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    perm = data.draw(st.permutations(range(len(shape))))
    x = np.arange(int(np.prod(shape))).reshape(shape)
    turned = x.transpose(perm)
    splits = [
        data.draw(st.sampled_from([(d,), (1, d), (2, d // 2) if d % 2 == 0 else (d,)]))
        for d in turned.shape
    ]
    target = [d for split in splits for d in split]
    if len(target) > 1 and data.draw(st.booleans()):
        target = [target[0] * target[1], *target[2:]]
    found = commute_reshape(shape, perm, target)
    if found is not None:
        new, order = found
        assert np.array_equal(x.reshape(new).transpose(order), turned.reshape(target))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_slice_of_a_split_axis_needs_no_split(data: st.DataObject) -> None:
    source = (3, 12, 2)
    split = data.draw(st.sampled_from([(3, 6, 2, 2), (3, 1, 3, 4, 2), (3, 2, 3, 2, 1, 2)]))
    axis = data.draw(st.integers(0, len(split) - 1))
    starts, stops, steps = [0] * len(split), list(split), [1] * len(split)
    starts[axis] = data.draw(st.integers(0, split[axis] - 1))
    stops[axis] = starts[axis] + 1
    x = np.arange(72).reshape(source)
    wanted = x.reshape(split)[tuple(map(slice, starts, stops, steps))]
    found = slice_of_split(source, split, starts, stops, steps)
    if found is not None:
        sliced = x[tuple(map(slice, *found))]
        assert np.array_equal(sliced.reshape(wanted.shape), wanted)
