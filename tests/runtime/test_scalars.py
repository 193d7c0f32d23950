"""Tensors without dimensions stay without dimensions."""

from __future__ import annotations

import numpy as np

from qcc.ir.core import Graph, Stage
from qcc.ir.types import TensorType, float32
from qcc.runtime.build import codegen


def scalar_net(*free: str) -> Graph:
    """A vector times a function of a scalar, and that function's value: all in a region."""
    graph = Graph()
    graph.stage = Stage.NUMBERED
    scalar = graph.add_input("scalar", float32())
    shape = (*free,) or (3,)
    vector = graph.add_input("vector", TensorType(shape, "float32"))
    erf = graph.create_node("Erf", [scalar], [float32()], output_names=["erf"]).output
    soft = graph.create_node("Softplus", [erf], [float32()], output_names=["soft"]).output
    product = graph.create_node(
        "Mul", [vector, soft], [vector.tensor], output_names=["product"]
    ).output
    graph.set_outputs([soft, product])
    return graph


def check(graph: Graph) -> None:
    found = codegen(graph).run(
        {"scalar": np.array(0.5, np.float32), "vector": np.array([1, 2, 4], np.float32)}
    )
    assert found["soft"].shape == ()
    assert found["product"].shape == (3,)
    assert np.array_equal(found["product"], found["soft"] * np.array([1, 2, 4], np.float32))


def test_fixed_shapes() -> None:
    check(scalar_net())


def test_free_dimensions() -> None:
    check(scalar_net("N"))
