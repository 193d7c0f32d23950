from __future__ import annotations

import numpy as np
import pytest

from qcc.errors import ConfigError, DataError
from qcc.ir.core import Graph
from qcc.passes.specialize import Specialize, parse_dimensions, specialize_graph
from tests.passes.float_models import Net, apply, feeds_for, ops_of, relative_error, run


def dynamic() -> Graph:
    """x [N, T, 6] + y [N, 1, 6], flattened to [N, T * 6] by a shape computation."""
    net = Net()
    x, y = net.input("x", "N", "T", 6), net.input("y", "N", 1, 6)
    total = net.op("Add", x, y)
    shape = net.op("Shape", total)
    batch = net.op("Slice", shape, np.array([0]), np.array([1]))
    length = net.op("Mul", net.op("Slice", shape, np.array([1]), np.array([2])), np.array([6]))
    return net.graph(net.op("Reshape", total, net.op("Concat", batch, length, axis=0)))


def test_every_shape_becomes_static_and_the_original_stays() -> None:
    graph = dynamic()
    copy = specialize_graph(graph, {"x": (3, 5, 6), "y": (3, 1, 6)})
    assert all(value.tensor.is_static for value in copy.values())
    assert copy.outputs[0].tensor.shape == (3, 30)
    assert ops_of(copy) == {"Add": 1, "Reshape": 1}
    assert graph.inputs[0].tensor.shape == ("N", "T", 6)
    assert "Shape" in ops_of(graph)
    feeds = feeds_for(copy)
    assert relative_error(run(graph, feeds), run(copy, feeds)) == 0.0


def test_symbols_bind_in_inputs_that_are_not_named() -> None:
    copy = specialize_graph(dynamic(), {"x": (3, 5, 6)})
    assert copy.inputs[1].tensor.shape == (3, 1, 6)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"z": (1,)}, "no input 'z'"),
        ({"x": (3, 5)}, "3 dimensions, not the 2"),
        ({"x": (3, 5, 7)}, "[N, T, 6] in the model"),
        ({"x": (3, 5, 6), "y": (4, 1, 6)}, "cannot be both 3 and 4"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], words: str) -> None:
    with pytest.raises(DataError) as error:
        specialize_graph(dynamic(), shapes)
    assert words in str(error.value)


def test_the_pass_binds_by_name() -> None:
    graph = dynamic()
    apply(graph, Specialize(dimensions=("N=2", "T=4")))
    assert graph.inputs[0].tensor.shape == (2, 4, 6)
    assert graph.outputs[0].tensor.shape == (2, 24)


@pytest.mark.parametrize("text", ["N", "N=x", "N=0", "N=-1"])
def test_bindings_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_dimensions([text])


def test_an_unknown_dimension_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="N, T"):
        apply(dynamic(), Specialize(dimensions=("H=3",)))
