"""Names of nodes (rules W8 and R13)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex, Operation
from qcc.lint.repairs import NameNodes


def node_names(index: ModelIndex) -> Iterator[Problem]:
    """Every node has a name, and no other node has it; constants are no layers and need none."""
    nodes = [operation for operation in index.operations if operation.op != "Constant"]
    unnamed = [operation for operation in nodes if not operation.proto.name]
    if unnamed:
        others = len(unnamed) - 1
        rest = f" (and {others} other node{'s' if others > 1 else ''})" if others else ""
        yield Problem(
            unnamed[0],
            f"it has no name{rest}, and layers, errors and profiles are called by the names of "
            "nodes: name every node",
            NameNodes(tuple(unnamed)),
        )
    yield from _shared(
        nodes, "layers, errors and profiles are called by the names of nodes: give each one its own"
    )


def shared_names(index: ModelIndex) -> Iterator[Problem]:
    """No two nodes of a graph have one name: onnxruntime refuses to load them."""
    graphs: dict[int, list[Operation]] = defaultdict(list)
    for operation in index.operations:
        if operation.op != "Constant":
            graphs[id(operation.graph)].append(operation)
    for nodes in graphs.values():
        yield from _shared(nodes, "onnxruntime does not load such a model: give each one its own")


def _shared(nodes: list[Operation], why: str) -> Iterator[Problem]:
    named: dict[str, list[Operation]] = defaultdict(list)
    for operation in nodes:
        if operation.proto.name:
            named[operation.proto.name].append(operation)
    for name, operations in named.items():
        if len(operations) > 1:
            yield Problem(
                operations[1],
                f"{len(operations)} nodes are called '{name}', and {why}",
                NameNodes(tuple(operations[1:])),
            )
