"""Structural comparison of graphs: everything that the text form keeps."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from qcc.ir.core import Attribute, Graph, ModelInfo, Node, Value
from qcc.ir.print import print_type


def graphs_equal(a: Graph, b: Graph) -> str | None:
    """None where ``a`` and ``b`` are the same graph, else their first difference as a sentence.

    Names, types, data (to the bit), attributes, doc strings, metadata, stage and the model's
    information all count; the order of uses, and tuples instead of lists, do not.
    """
    for field in fields(ModelInfo):
        x, y = getattr(a.info, field.name), getattr(b.info, field.name)
        if x != y:
            return f"the model's {field.name} is {x!r} in one and {y!r} in the other"
    return _Comparison().graphs(a, b)


class _Comparison:
    """``twins`` maps each value of the first graph to that of the second at the same place."""

    def __init__(self) -> None:
        self.twins: dict[Value, Value] = {}

    def graphs(self, a: Graph, b: Graph) -> str | None:
        """The first difference of two graphs or bodies."""
        where = f"graph '{a.name}'"
        return (
            _differ(a, b, ("name", "doc", "metadata", "stage"), where)
            or self.values(a.inputs, b.inputs, f"the inputs of {where}")
            or self.values(
                tuple(a.constants.values()),
                tuple(b.constants.values()),
                f"the constants of {where}",
            )
            or self.all_nodes(a, b, where)
            or self.operands(a.outputs, b.outputs, f"the outputs of {where}")
        )

    def constants(self, a: Graph, b: Graph, where: str) -> str | None:
        """The first difference of the constants of two graphs."""
        mine, others = tuple(a.constants.values()), tuple(b.constants.values())
        return self.values(mine, others, f"the constants of {where}")

    def all_nodes(self, a: Graph, b: Graph, where: str) -> str | None:
        """The first difference of two lists of nodes."""
        for x, y in zip(a.nodes, b.nodes, strict=False):
            found = self.nodes(x, y)
            if found is not None:
                return found
        if len(a.nodes) != len(b.nodes):
            return f"{where} has {len(a.nodes)} nodes in one and {len(b.nodes)} in the other"
        return None

    def nodes(self, a: Node, b: Node) -> str | None:
        """The first difference of two nodes."""
        where = f"node '{a.label}'"
        return (
            _differ(a, b, ("op_type", "domain", "name", "overload", "doc", "metadata"), where)
            or self.operands(a.inputs, b.inputs, f"the operands of {where}")
            or self.attributes(a, b, where)
            or self.values(a.outputs, b.outputs, f"the results of {where}")
        )

    def attributes(self, a: Node, b: Node, where: str) -> str | None:
        """The first difference of the attributes of two nodes."""
        if list(a.attributes) != list(b.attributes):
            return (
                f"{where} has the attributes {list(a.attributes)} in one and "
                f"{list(b.attributes)} in the other"
            )
        for name, value in a.attributes.items():
            found = self.attribute(value, b.attributes[name], f"attribute '{name}' of {where}")
            if found is not None:
                return found
        return None

    def attribute(self, a: Attribute, b: Attribute, where: str) -> str | None:
        """The first difference of two attribute values."""
        if isinstance(a, Graph) and isinstance(b, Graph):
            return self.graphs(a, b)
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
            if len(a) != len(b):
                return f"{where} has {len(a)} items in one and {len(b)} in the other"
            found = (self.attribute(x, y, where) for x, y in zip(a, b, strict=True))
            return next((item for item in found if item is not None), None)
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            return _data_differ(a, b, where)
        a, b = (item.item() if isinstance(item, np.generic) else item for item in (a, b))
        same = type(a) is type(b) and (a == b or (a != a and b != b))
        return None if same else f"{where} is {a!r} in one and {b!r} in the other"

    def operands(
        self, a: tuple[Value | None, ...], b: tuple[Value | None, ...], where: str
    ) -> str | None:
        """The first difference of two lists of uses."""
        if len(a) != len(b):
            return f"{where} are {len(a)} in one and {len(b)} in the other"
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            if x is None or y is None:
                same = x is y
            else:
                same = self.twins.get(x) is y if x in self.twins else x.name == y.name
            if not same:
                return f"{where} differ at number {index}: {x} in one and {y} in the other"
        return None

    def values(self, a: tuple[Value, ...], b: tuple[Value, ...], where: str) -> str | None:
        """The first difference of two lists of definitions."""
        if len(a) != len(b):
            return f"{where} are {len(a)} in one and {len(b)} in the other"
        for x, y in zip(a, b, strict=True):
            self.twins[x] = y
            found = self.definition(x, y)
            if found is not None:
                return found
        return None

    def definition(self, a: Value, b: Value) -> str | None:
        """The first difference of two values where they are defined."""
        where = f"value '{a.name}'"
        if a.type != b.type:
            return f"{where} is {print_type(a.type)} in one and {print_type(b.type)} in the other"
        found = _differ(a, b, ("name", "doc", "metadata"), where)
        if found is not None or (a.constant is None and b.constant is None):
            return found
        if a.constant is None or b.constant is None:
            return f"{where} is a constant in only one"
        return _data_differ(np.asarray(a.constant), np.asarray(b.constant), where)


def _differ(a: Any, b: Any, names: tuple[str, ...], where: str) -> str | None:
    for name in names:
        x, y = getattr(a, name), getattr(b, name)
        if x != y:
            return f"the {name.replace('_', ' ')} of {where} is {x!r} in one and {y!r} in the other"
    return None


def _data_differ(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], where: str) -> str | None:
    if a.dtype != b.dtype or a.shape != b.shape:
        return (
            f"{where} is {a.dtype}{list(a.shape)} in one and {b.dtype}{list(b.shape)} in the other"
        )
    if a.dtype == object:
        same = list(a.reshape(-1)) == list(b.reshape(-1))
    else:
        same = a.tobytes() == b.tobytes()
    return None if same else f"the data of {where} differ"
