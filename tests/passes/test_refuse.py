"""Every way of writing an op that the re-fusions know, run against onnxruntime before and after."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from qcc.ir.core import Graph
from qcc.passes.canonicalize import Canonicalize
from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.refuse_gelu import RefuseGelu
from qcc.passes.refuse_hardsigmoid import RefuseHardSigmoid
from qcc.passes.refuse_hardswish import RefuseHardSwish
from qcc.passes.refuse_layernorm import RefuseLayerNorm
from qcc.passes.refuse_leakyrelu import RefuseLeakyRelu
from qcc.passes.refuse_softmax import RefuseSoftmax
from tests.passes.float_models import Net, check, ops_of

Build = Callable[[Net, str], str]
SHAPE = (2, 5, 8)


def graph_of(build: Build, *shape: int | str) -> Graph:
    net = Net()
    return net.graph(net.op("Neg", build(net, net.op("Neg", net.input("x", *(shape or SHAPE))))))


# -- GELU -------------------------------------------------------------------------------------


def erf_gate(n: Net, x: str) -> str:
    return n.op("Add", n.op("Erf", n.op("Div", x, 1.4142135)), 1.0)


def tanh_argument(n: Net, x: str) -> str:
    cube = n.op("Mul", n.op("Pow", x, 3.0), 0.044715)
    return n.op("Mul", n.op("Add", x, cube), 0.7978846)


def factored_argument(n: Net, x: str) -> str:
    """x * (0.79788 + 0.035677 x^2)."""
    square = n.op("Mul", n.op("Mul", x, x), 0.7978845608 * 0.044715)
    return n.op("Mul", x, n.op("Add", square, 0.7978845608))


GELUS: dict[str, tuple[str, Build]] = {
    "torch": ("none", lambda n, x: n.op("Mul", n.op("Mul", x, erf_gate(n, x)), 0.5)),
    "half x": ("none", lambda n, x: n.op("Mul", n.op("Mul", x, 0.5), erf_gate(n, x))),
    "half gate": ("none", lambda n, x: n.op("Mul", x, n.op("Mul", 0.5, erf_gate(n, x)))),
    "divided": ("none", lambda n, x: n.op("Div", n.op("Mul", erf_gate(n, x), x), 2.0)),
    "affine": (
        "none",
        lambda n, x: n.op(
            "Mul",
            x,
            n.op("Add", 0.5, n.op("Mul", n.op("Erf", n.op("Mul", x, 0.70710677)), 0.5)),
        ),
    ),
    "tanh": (
        "tanh",
        lambda n, x: n.op(
            "Mul", n.op("Mul", 0.5, x), n.op("Add", 1.0, n.op("Tanh", tanh_argument(n, x)))
        ),
    ),
    "tanh factored": (
        "tanh",
        lambda n, x: n.op(
            "Mul", x, n.op("Mul", 0.5, n.op("Add", n.op("Tanh", factored_argument(n, x)), 1.0))
        ),
    ),
}


@pytest.mark.parametrize("name", GELUS)
def test_gelu(name: str) -> None:
    approximate, build = GELUS[name]
    result = check(graph_of(build), RefuseGelu(), EliminateDead())
    assert ops_of(result) == {"Gelu": 1, "Neg": 2}
    assert result.nodes[1].attributes["approximate"] == approximate


NO_GELUS: dict[str, Build] = {
    "other root": lambda n, x: n.op(
        "Mul", n.op("Mul", x, n.op("Add", n.op("Erf", n.op("Div", x, 1.5)), 1.0)), 0.5
    ),
    "other value": lambda n, x: n.op("Mul", n.op("Mul", n.op("Exp", x), erf_gate(n, x)), 0.5),
    "no half": lambda n, x: n.op("Mul", x, erf_gate(n, x)),
    "sigmoid": lambda n, x: n.op("Mul", x, n.op("Sigmoid", n.op("Mul", x, 1.702))),
}


@pytest.mark.parametrize("name", NO_GELUS)
def test_not_gelu(name: str) -> None:
    assert "Gelu" not in ops_of(check(graph_of(NO_GELUS[name]), RefuseGelu(), tolerance=0.0))


# -- hard swish, hard sigmoid, leaky relu -----------------------------------------------------


def relu6(n: Net, x: str) -> str:
    return n.op("Clip", n.op("Add", x, 3.0), 0.0, 6.0)


SWISHES: dict[str, Build] = {
    "mul then div": lambda n, x: n.op("Div", n.op("Mul", x, relu6(n, x)), 6.0),
    "div then mul": lambda n, x: n.op("Mul", x, n.op("Div", relu6(n, x), 6.0)),
    "sixth": lambda n, x: n.op("Mul", n.op("Mul", relu6(n, x), 1.0 / 6.0), x),
    "sixth of x": lambda n, x: n.op("Mul", n.op("Mul", x, 1.0 / 6.0), relu6(n, x)),
    "unit clip": lambda n, x: n.op(
        "Mul", x, n.op("Clip", n.op("Add", n.op("Div", x, 6.0), 0.5), 0.0, 1.0)
    ),
    "hard sigmoid": lambda n, x: n.op("Mul", n.op("HardSigmoid", x, alpha=1.0 / 6.0, beta=0.5), x),
    "min max": lambda n, x: n.op(
        "Div", n.op("Mul", n.op("Min", n.op("Max", n.op("Add", x, 3.0), 0.0), 6.0), x), 6.0
    ),
}


@pytest.mark.parametrize("name", SWISHES)
def test_hard_swish(name: str) -> None:
    result = check(graph_of(SWISHES[name]), Canonicalize(), RefuseHardSwish(), EliminateDead())
    assert ops_of(result) == {"HardSwish": 1, "Neg": 2}


def test_hard_swish_of_another_value_stays() -> None:
    graph = graph_of(lambda n, x: n.op("Div", n.op("Mul", n.op("Exp", x), relu6(n, x)), 6.0))
    assert "HardSwish" not in ops_of(check(graph, RefuseHardSwish(), tolerance=0.0))


SIGMOIDS: dict[str, Build] = {
    "div": lambda n, x: n.op("Div", relu6(n, x), 6.0),
    "mul": lambda n, x: n.op("Mul", 1.0 / 6.0, relu6(n, x)),
    "keras": lambda n, x: n.op("Clip", n.op("Add", n.op("Mul", x, 0.2), 0.5), 0.0, 1.0),
}


@pytest.mark.parametrize("name", SIGMOIDS)
def test_hard_sigmoid(name: str) -> None:
    result = check(graph_of(SIGMOIDS[name]), RefuseHardSigmoid(), EliminateDead())
    assert ops_of(result) == {"HardSigmoid": 1, "Neg": 2}


def test_any_other_clamped_line_stays() -> None:
    graph = graph_of(lambda n, x: n.op("Clip", n.op("Add", n.op("Mul", x, 0.7), 0.5), 0.0, 1.0))
    assert "Clip" in ops_of(check(graph, RefuseHardSigmoid(), tolerance=0.0))


@pytest.mark.parametrize("swap", [False, True])
def test_leaky_relu(swap: bool) -> None:
    def build(n: Net, x: str) -> str:
        pair = [x, n.op("Mul", 0.1, x)]
        return n.op("Max", *(pair[::-1] if swap else pair))

    assert ops_of(check(graph_of(build), RefuseLeakyRelu(), EliminateDead())) == {
        "LeakyRelu": 1,
        "Neg": 2,
    }


@pytest.mark.parametrize("slope", [1.5, -0.1])
def test_a_steep_or_falling_side_is_no_leaky_relu(slope: float) -> None:
    graph = graph_of(lambda n, x: n.op("Max", x, n.op("Mul", x, slope)))
    assert "Max" in ops_of(check(graph, RefuseLeakyRelu(), tolerance=0.0))


# -- layer norm -------------------------------------------------------------------------------


def layer_norm(
    n: Net,
    x: str,
    *,
    axes: tuple[int, ...] = (-1,),
    square: str = "Mul",
    variance: str = "centred",
    root: str = "Div",
    gamma: tuple[int, ...] | None = (8,),
    beta: tuple[int, ...] | None = (8,),
    mean: str = "ReduceMean",
) -> str:
    """One way of many to write a layer normalization of x."""

    def average(value: str) -> str:
        if mean == "ReduceMean":
            return n.op("ReduceMean", value, np.array(axes), keepdims=1)
        count = float(np.prod([SHAPE[axis] for axis in axes]))
        total = n.op("ReduceSum", value, np.array(axes), keepdims=int(mean == "scaled sum"))
        scaled = n.op("Mul", total, 1.0 / count) if root == "Div" else n.op("Div", total, count)
        return scaled if mean == "scaled sum" else n.op("Unsqueeze", scaled, np.array(axes))

    def squared(value: str) -> str:
        return n.op("Mul", value, value) if square == "Mul" else n.op("Pow", value, 2.0)

    mu = average(x)
    difference = n.op("Sub", x, mu)
    if variance == "centred":
        spread = average(squared(difference))
    else:
        spread = n.op("Max", 0.0, n.op("Sub", average(squared(x)), squared(mu)))
    stabilized = n.op("Add", spread, 1e-5)
    y = scaled_by_root(n, difference, stabilized, root, None if gamma is None else n.normal(*gamma))
    return y if beta is None else n.op("Add", y, n.normal(*beta))


def scaled_by_root(
    n: Net, difference: str, radicand: str, root: str, gamma: np.ndarray | None
) -> str:
    if root == "Pow":
        inverse = n.op("Pow", radicand, -0.5)
    elif root == "Reciprocal":
        inverse = n.op("Reciprocal", n.op("Sqrt", radicand))
    elif root == "One":
        inverse = n.op("Div", 1.0, n.op("Sqrt", radicand))
    else:
        y = n.op("Div", difference, n.op("Sqrt", radicand))
        return y if gamma is None else n.op("Mul", y, gamma)
    if gamma is not None:
        inverse = n.op("Mul", inverse, gamma)
    return n.op("Mul", difference, inverse)


LAYER_NORM = (Canonicalize(), FoldConstants(), RefuseLayerNorm(), EliminateDead())
NORMALIZED = 2e-5
"""Relative: mean(x^2) - mean(x)^2 loses digits that the other form keeps."""


@pytest.mark.parametrize(
    ("root", "square", "variance", "mean"),
    list(
        itertools.product(
            ["Div", "Reciprocal", "One", "Pow"],
            ["Mul", "Pow"],
            ["centred", "of squares"],
            ["ReduceMean", "scaled sum", "squeezed sum"],
        )
    ),
)
def test_layer_norm_however_written(root: str, square: str, variance: str, mean: str) -> None:
    def build(n: Net, x: str) -> str:
        return layer_norm(n, x, root=root, square=square, variance=variance, mean=mean)

    result = check(graph_of(build), *LAYER_NORM, tolerance=NORMALIZED)
    assert ops_of(result) == {"LayerNormalization": 1, "Neg": 2}


@pytest.mark.parametrize(
    ("gamma", "beta"), [(None, None), ((8,), None), (None, (8,)), ((1, 1, 8), (1, 8)), ((), ())]
)
def test_layer_norm_with_or_without_parameters(
    gamma: tuple[int, ...] | None, beta: tuple[int, ...] | None
) -> None:
    graph = graph_of(lambda n, x: layer_norm(n, x, gamma=gamma, beta=beta))
    result = check(graph, *LAYER_NORM, tolerance=NORMALIZED)
    assert ops_of(result) == {"LayerNormalization": 1, "Neg": 2}


@pytest.mark.parametrize(
    ("axes", "parameter", "transposes"),
    [
        ((1, 2), (5, 8), 0),
        ((1, 2), (8,), 0),
        ((1,), (5, 1), 2),
        ((0,), (2, 1, 1), 2),
        ((0, 2), (8,), 2),
    ],
)
def test_layer_norm_of_other_axes(
    axes: tuple[int, ...], parameter: tuple[int, ...], transposes: int
) -> None:
    def build(n: Net, x: str) -> str:
        return layer_norm(n, x, axes=axes, gamma=parameter, beta=parameter)

    result = check(graph_of(build), *LAYER_NORM, tolerance=NORMALIZED)
    wanted = {"LayerNormalization": 1, "Neg": 2, **({"Transpose": 2} if transposes else {})}
    assert ops_of(result) == wanted


def test_layer_norm_with_dynamic_batch_and_length() -> None:
    graph = graph_of(lambda n, x: layer_norm(n, x), "N", "T", 8)
    result = check(graph, *LAYER_NORM, tolerance=NORMALIZED, sizes={"T": 3})
    assert ops_of(result) == {"LayerNormalization": 1, "Neg": 2}


NO_LAYER_NORMS: dict[str, Build] = {
    "rms": lambda n, x: n.op(
        "Mul",
        x,
        n.op(
            "Reciprocal",
            n.op(
                "Sqrt",
                n.op(
                    "Add",
                    n.op("ReduceMean", n.op("Mul", x, x), np.array([-1]), keepdims=1),
                    1e-5,
                ),
            ),
        ),
    ),
    "other axes": lambda n, x: n.op(
        "Div",
        n.op("Sub", x, n.op("ReduceMean", x, np.array([1]), keepdims=1)),
        n.op("Sqrt", n.op("ReduceMean", n.op("Mul", x, x), np.array([-1]), keepdims=1)),
    ),
}


@pytest.mark.parametrize("name", NO_LAYER_NORMS)
def test_not_layer_norm(name: str) -> None:
    result = check(graph_of(NO_LAYER_NORMS[name]), RefuseLayerNorm(), tolerance=0.0)
    assert "LayerNormalization" not in ops_of(result)


def test_a_gamma_along_another_axis_stays_outside() -> None:
    graph = graph_of(lambda n, x: layer_norm(n, x, gamma=(5, 1), beta=None))
    result = check(graph, *LAYER_NORM, tolerance=NORMALIZED)
    assert ops_of(result) == {"LayerNormalization": 1, "Mul": 1, "Neg": 2}


# -- softmax ----------------------------------------------------------------------------------


def softmax(n: Net, x: str, axis: int, *, reciprocal: bool, lower: bool, squeezed: bool) -> str:
    def back(value: str) -> str:
        return n.op("Unsqueeze", value, np.array([axis])) if squeezed else value

    largest = n.op("ReduceMax", x, np.array([axis]), keepdims=int(not squeezed))
    if lower:
        largest = n.op("Max", float("-inf"), largest)
    e = n.op("Exp", n.op("Sub", x, back(largest)))
    total = back(n.op("ReduceSum", e, np.array([axis]), keepdims=int(not squeezed)))
    return n.op("Mul", e, n.op("Reciprocal", total)) if reciprocal else n.op("Div", e, total)


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("reciprocal", [False, True])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("squeezed", [False, True])
def test_softmax(axis: int, reciprocal: bool, lower: bool, squeezed: bool) -> None:
    def build(n: Net, x: str) -> str:
        return softmax(n, x, axis, reciprocal=reciprocal, lower=lower, squeezed=squeezed)

    result = check(graph_of(build), Canonicalize(), RefuseSoftmax(), EliminateDead())
    assert ops_of(result) == {"Neg": 2, "Softmax": 1}
    assert result.nodes[1].attributes["axis"] == axis % 3


def test_softmax_without_the_maximum_stays() -> None:
    def build(n: Net, x: str) -> str:
        e = n.op("Exp", x)
        return n.op("Div", e, n.op("ReduceSum", e, np.array([-1]), keepdims=1))

    assert "Softmax" not in ops_of(check(graph_of(build), RefuseSoftmax(), tolerance=0.0))
