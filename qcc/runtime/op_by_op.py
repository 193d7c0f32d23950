"""The exported Q/DQ form, op by op in onnxruntime, against the reference evaluator.

A NUMBERED graph is cut into *groups*: trees of float nodes (with the q.dequantize nodes that feed
them and the q.quantize nodes that store their results), joined where a float value has one reader.
Every group is written as an ONNX model by the same writer as the whole export and runs in
onnxruntime with all optimizations and the fusion of Q/DQ switched off; the same group, lowered,
runs in the reference evaluator.  Both get the reference's own inputs, so errors do not add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from qcc.ir.core import Array, Graph, Node, Stage, Value
from qcc.ir.types import TensorType
from qcc.passes.lower import LoweringPattern, lower
from qcc.passes.specialize import specialize_graph
from qcc.ref.evaluate import captured_values, check_feeds, evaluate
from qcc.ref.float_region import region_model

Feeds: TypeAlias = "Mapping[str, Array]"

STEPS = 1
"""Largest allowed difference of stored values: onnxruntime sums floats, the reference integers."""

FLOAT_TOLERANCE = 3e-4
"""Largest allowed difference of float results, relative to the largest of the tensor.

The reference adds a float bias as an integer of the products' scale, which rounds it, and
onnxruntime's recurrent kernels approximate exponentials.  A step of int8 is 4e-3.
"""

FLOAT_FLOOR = 0.05
"""The least that counts as the largest: onnxruntime's Sigmoid errs by 1e-7, whatever its result."""


@dataclass(frozen=True)
class OpGroup:
    """Nodes of a NUMBERED graph that compute ``outputs`` from ``inputs``, in schedule order."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def label(self) -> str:
        """The float ops and the name of the result."""
        ops = "+".join(node.op for node in self.nodes if node.domain != "q") or self.nodes[-1].op
        return f"{ops} -> {self.outputs[0].name}"

    @property
    def touches_integers(self) -> bool:
        """Whether it reads or gives stored values."""
        return any(node.domain == "q" for node in self.nodes)


@dataclass(frozen=True)
class Difference:
    """One result of one group: elements that differ, and by how much at most.

    ``worst`` counts steps where ``is_stored``, else it is relative to the tensor's largest value.
    """

    label: str
    is_stored: bool
    elements: int
    differing: int
    worst: float

    @property
    def is_allowed(self) -> bool:
        """Whether it keeps :data:`STEPS` or :data:`FLOAT_TOLERANCE`."""
        return self.worst <= (STEPS if self.is_stored else FLOAT_TOLERANCE)

    @property
    def sentence(self) -> str:
        """The difference in words."""
        unit = "steps" if self.is_stored else "of the largest value"
        return (
            f"'{self.label}' differs from the reference in {self.differing} of {self.elements} "
            f"elements, by up to {self.worst:g} {unit}"
        )


@dataclass(frozen=True)
class Comparison:
    """All results of a model over all feeds; ``outputs`` are the reference's, feed by feed."""

    differences: tuple[Difference, ...]
    outputs: tuple[dict[str, Array], ...] = field(repr=False)

    @property
    def stored(self) -> list[Difference]:
        """The results that are stored integers."""
        return [item for item in self.differences if item.is_stored]

    @property
    def share(self) -> float:
        """The share of stored elements that differ."""
        total = sum(item.elements for item in self.stored)
        return sum(item.differing for item in self.stored) / max(total, 1)

    @property
    def worst_steps(self) -> int:
        """The largest difference of stored values."""
        return int(max((item.worst for item in self.stored), default=0))

    @property
    def worst_float(self) -> float:
        """The largest relative difference of float results."""
        return max((item.worst for item in self.differences if not item.is_stored), default=0.0)

    @property
    def refused(self) -> list[Difference]:
        """The results that differ by more than is allowed."""
        return [item for item in self.differences if not item.is_allowed]

    @property
    def summary(self) -> str:
        """One line: how many results and elements, the share that differs, the worst."""
        elements = sum(item.elements for item in self.stored)
        return (
            f"{len(self.differences):5} results {elements:10} stored elements, "
            f"{self.share:.3e} of them differ, by at most {self.worst_steps} step(s); "
            f"float results by at most {self.worst_float:.1e}"
        )


def compare_export(
    graph: Graph, patterns: Iterable[LoweringPattern], feeds: Sequence[Feeds]
) -> Comparison:
    """Run every group of a NUMBERED ``graph`` both ways on every feed."""
    found: list[Difference] = []
    outputs: list[dict[str, Array]] = []
    patterns = tuple(patterns)
    for feed in feeds:
        shaped = _with_shapes(graph, feed)
        known: dict[Value, Any] = dict(check_feeds(shaped, feed))
        for group in op_groups(shaped):
            arrays = [known[value] for value in group.inputs]
            wanted = _reference(group, patterns, arrays)
            known.update(zip(group.outputs, wanted, strict=True))
            if group.touches_integers:
                got = _in_onnxruntime(group, arrays)
                found += _differences(group, wanted, got)
        outputs.append({value.name: _known(known, value) for value in shaped.outputs})
    return Comparison(tuple(found), tuple(outputs))


def _with_shapes(graph: Graph, feed: Feeds) -> Graph:
    """With static shapes, which lowering needs.

    A graph without integers stays as it is: nothing is lowered, and the shapes of a branch that is
    not taken may contradict those of the feed.
    """
    if not any(node.domain == "q" for node in graph.nodes):
        return graph
    return specialize_graph(graph, {name: array.shape for name, array in feed.items()})


def _known(known: dict[Value, Any], value: Value) -> Array:
    return known[value] if value.constant is None else np.asarray(value.constant)


# -- cutting ---------------------------------------------------------------------------------------


def op_groups(graph: Graph) -> Iterator[OpGroup]:
    """The groups of a NUMBERED graph, in an order in which they can run.

    Every node that is no q.dequantize of a stored value belongs to exactly one; a q.dequantize
    belongs to every group that reads it.
    """
    root: dict[Node, Node] = {}
    for node in reversed(graph.nodes):
        root[node] = root[_reader(node)] if _joins(node) else node
    members: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if node.op != "q.dequantize" or node.output.is_output:
            members.setdefault(root[node], []).append(node)
    for last in graph.nodes:
        if last in members:
            yield _group(graph, members[last])


def _reader(node: Node) -> Node:
    return node.output.users[0]


def _joins(node: Node) -> bool:
    """Whether the node's one reader belongs to the same group."""
    if len(node.outputs) != 1 or node.op in ("q.quantize", "q.dequantize"):
        return False
    value = node.output
    if value.is_output or len(value.users) != 1 or value.users[0].graph is not node.graph:
        return False
    return value.users[0].op != "q.dequantize"


def _group(graph: Graph, members: Sequence[Node]) -> OpGroup:
    dequantizers = {
        value.producer: None
        for node in members
        for value in captured_values(node)
        if value.producer is not None
        and value.producer.op == "q.dequantize"
        and value.producer.graph is graph
    }
    inside = {*members, *dequantizers}
    nodes = tuple(node for node in graph.nodes if node in inside)
    inputs = {
        value: None
        for node in nodes
        for value in captured_values(node)
        if value.producer not in inside and not value.is_constant
    }
    outputs = [
        value
        for node in members
        for value in node.outputs
        if value.is_output or any(user not in inside for user in value.users)
    ]
    return OpGroup(nodes, tuple(inputs), tuple(outputs))


# -- running ---------------------------------------------------------------------------------------


def _reference(
    group: OpGroup, patterns: Sequence[LoweringPattern], arrays: Sequence[Array]
) -> list[Array]:
    graph = _as_graph(group)
    lower(graph, patterns)
    found = evaluate(graph, dict(zip((v.name for v in graph.inputs), arrays, strict=True)))
    return [found[value.name] for value in graph.outputs]


def _as_graph(group: OpGroup) -> Graph:
    """The group alone, as a NUMBERED graph."""
    graph, mapping = Graph("group"), dict[Value, Value]()
    source = group.nodes[0].graph
    if source is not None:
        graph.info = source.info
    graph.stage = Stage.NUMBERED
    for value in group.inputs:
        mapping[value] = graph.add_input(value.name, value.type)
    for node in group.nodes:
        for value in captured_values(node):
            if value.constant is not None and value not in mapping:
                mapping[value] = graph.add_constant(value.name, value.constant, value.tensor)
        graph.insert_copy(node, mapping)
    graph.set_outputs([mapping[value] for value in group.outputs])
    return graph


def _in_onnxruntime(group: OpGroup, arrays: Sequence[Array]) -> list[Array]:
    import onnxruntime as ort

    model = region_model(group.nodes, group.inputs, group.outputs)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    results: list[Array] = session.run(None, dict(zip(names, arrays, strict=True)))
    return results


# -- comparing -------------------------------------------------------------------------------------


def _differences(
    group: OpGroup, wanted: Sequence[Array], got: Sequence[Array]
) -> Iterator[Difference]:
    for value, a, b in zip(group.outputs, wanted, got, strict=True):
        if isinstance(value.type, TensorType):
            yield _difference(group, value.tensor.quant is not None, np.asarray(a), np.asarray(b))


def _difference(group: OpGroup, is_stored: bool, a: Array, b: Array) -> Difference:
    if a.shape != b.shape or a.dtype != b.dtype:
        raise AssertionError(f"{group.label}: {a.dtype}{a.shape} is no {b.dtype}{b.shape}")
    # In int64 and float64, so that the difference itself cannot wrap or round.
    wide = np.float64 if a.dtype.kind == "f" else np.int64
    gap = np.abs(a.astype(wide) - b.astype(wide))
    worst = float(gap.max(initial=0))
    if not is_stored:
        worst /= max(float(np.abs(a.astype(wide)).max(initial=0)), FLOAT_FLOOR)
    return Difference(group.label, is_stored, a.size, int(np.count_nonzero(gap)), worst)
