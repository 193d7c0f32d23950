"""Small float models for pass tests: built with numpy operands, run by onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qcc.ir.core import Graph
from qcc.ir.ops import PINNED_OPSET
from qcc.ir.rewrite import Rewriter
from qcc.onnxio import read_onnx
from qcc.passes.manager import Pass
from qcc.ref.float_region import FloatRunner

Array = NDArray[Any]
ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "bool": TensorProto.BOOL,
}


class Net:
    """Collects nodes; ``op`` takes value names, numpy arrays (initializers) or None."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def input(self, name: str, *shape: int | str | None, element: str = "float32") -> str:
        self.inputs.append(helper.make_tensor_value_info(name, ELEMENTS[element], list(shape)))
        return name

    def normal(self, *shape: int) -> Array:
        return self.random.standard_normal(shape).astype(np.float32)

    def operand(self, value: str | Array | float | None) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        data = np.asarray(value, np.float32) if isinstance(value, float) else np.asarray(value)
        self.count += 1
        self.initializers.append(numpy_helper.from_array(data, f"c{self.count}"))
        return f"c{self.count}"

    def op(
        self, op: str, *operands: str | Array | float | None, results: int = 1, **attributes: Any
    ) -> str:
        return self.ops(op, *operands, results=results, **attributes)[0]

    def ops(
        self, op: str, *operands: str | Array | float | None, results: int = 1, **attributes: Any
    ) -> list[str]:
        domain, _, op_type = op.rpartition(".")
        self.count += 1
        names = [f"{op_type.lower()}{self.count}" + "abc"[i] * (i > 0) for i in range(results)]
        inputs = [self.operand(value) for value in operands]
        self.nodes.append(
            helper.make_node(
                op_type, inputs, names, name=f"n{self.count}", domain=domain, **attributes
            )
        )
        return names

    def graph(self, *outputs: str, element: str = "float32") -> Graph:
        return read_onnx(self.model(*outputs, element=element))

    def model(self, *outputs: str, element: str = "float32") -> onnx.ModelProto:
        infos = [helper.make_tensor_value_info(name, ELEMENTS[element], None) for name in outputs]
        proto = helper.make_graph(self.nodes, "test", self.inputs, infos, self.initializers)
        opsets = [helper.make_opsetid("", PINNED_OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(proto, opset_imports=opsets, ir_version=10)


def ops_of(graph: Graph) -> dict[str, int]:
    """How many nodes of each op the graph has, bodies included."""
    return dict(Counter(node.op for node in graph.walk()))


def feeds_for(
    graph: Graph, sizes: Mapping[str, int] | None = None, seed: int = 1
) -> dict[str, Any]:
    """Random feeds; a symbolic dimension has the size given for it, or 2."""
    random = np.random.default_rng(seed)
    feeds: dict[str, Any] = {}
    for value in graph.inputs:
        dims = value.tensor.shape or ()
        shape = [d if isinstance(d, int) else (sizes or {}).get(str(d), 2) for d in dims]
        if value.tensor.storage == "float32":
            feeds[value.name] = random.standard_normal(shape).astype(np.float32) * 3
        else:
            feeds[value.name] = random.integers(0, 2, shape).astype(value.tensor.storage)
    return feeds


def run(graph: Graph, feeds: Mapping[str, Any]) -> list[Array]:
    """The graph's outputs, computed by onnxruntime."""
    found = FloatRunner(graph, graph.outputs).run(feeds)
    return [found[value.name] for value in graph.outputs]


def apply(graph: Graph, *passes: Pass) -> list[tuple[str, str]]:
    """Run passes on a graph in place; the refusals that they noted."""
    refusals: list[tuple[str, str]] = []
    for item in passes:
        rewriter = Rewriter(graph)
        item.run(graph, rewriter)
        refusals += rewriter.refusals
    return refusals


def relative_error(wanted: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest difference, relative to the largest magnitude of each output."""
    worst = 0.0
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        if a.dtype.kind == "f" and a.size:
            worst = max(worst, float(np.abs(a - b).max() / max(float(np.abs(a).max()), 1e-9)))
        else:
            np.testing.assert_array_equal(a, b)
    return worst


REORDERED = 2e-6
"""Relative difference that another order of float32 operations may cause in these small nets."""


def check(
    graph: Graph,
    *passes: Pass,
    tolerance: float = REORDERED,
    sizes: Mapping[str, int] | None = None,
) -> Graph:
    """Run passes on a copy; the copy, after its outputs were found to agree with the original's."""
    copy = graph.clone()
    apply(copy, *passes)
    feeds = feeds_for(graph, sizes)
    assert relative_error(run(graph, feeds), run(copy, feeds)) <= tolerance
    assert [v.name for v in copy.inputs] == [v.name for v in graph.inputs]
    assert [v.name for v in copy.outputs] == [v.name for v in graph.outputs]
    return copy
