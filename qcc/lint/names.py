"""Names of nodes (rule W8)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex, Operation
from qcc.lint.repairs import NameNodes


def node_names(index: ModelIndex) -> Iterator[Problem]:
    """Every node has a name, and no other node has it."""
    named: dict[str, list[Operation]] = defaultdict(list)
    for operation in index.operations:
        named[operation.proto.name].append(operation)
    unnamed = named.pop("", [])
    if unnamed:
        others = len(unnamed) - 1
        rest = f" (and {others} other node{'s' if others > 1 else ''})" if others else ""
        yield Problem(
            unnamed[0],
            f"it has no name{rest}, and layers, errors and profiles are called by the names of "
            "nodes: name every node",
            NameNodes(tuple(unnamed)),
        )
    for name, operations in named.items():
        if len(operations) > 1:
            yield Problem(
                operations[1],
                f"{len(operations)} nodes are called '{name}', and layers, errors and profiles are "
                "called by the names of nodes: give each one of its own",
                NameNodes(tuple(operations[1:])),
            )
