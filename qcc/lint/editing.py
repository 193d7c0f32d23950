"""Small changes to a model proto, by the nodes of its index."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from qcc.lint.index import Array, ModelIndex, Operation, Tensor
from qcc.onnxio.declared import bodies_of
from qcc.onnxio.elements import element_code
from qcc.onnxio.tensors import write_tensor


class Editor:
    """Changes a model in place; the index that it works by is stale afterwards."""

    def __init__(self, index: ModelIndex) -> None:
        self.index = index
        self._values = {tensor.name for tensor in index.tensors}
        self._nodes = {operation.proto.name for operation in index.operations}

    def fresh_value(self, stem: str) -> str:
        """A value name that is not taken."""
        return _fresh(stem, self._values)

    def fresh_node(self, stem: str) -> str:
        """A node name that is not taken."""
        return _fresh(stem, self._nodes)

    def constant(self, stem: str, data: Array, graph: GraphProto) -> str:
        """A new initializer of a graph; gives its name."""
        name = self.fresh_value(stem)
        graph.initializer.append(write_tensor(name, data, str(data.dtype)))
        return name

    def read(self, operation: Operation, place: int, name: str) -> None:
        """Let a node read another value at a place that may lie behind its last operand."""
        proto = operation.proto
        proto.input.extend([""] * (place + 1 - len(proto.input)))
        proto.input[place] = name

    def set_attribute(self, operation: Operation, name: str, value: Any) -> None:
        """Write an attribute, over what it says now."""
        self.drop_attribute(operation, name)
        operation.proto.attribute.append(helper.make_attribute(name, value))

    def drop_attribute(self, operation: Operation, name: str) -> None:
        """Take an attribute away if it is there."""
        kept = [a for a in operation.proto.attribute if a.name != name]
        if len(kept) < len(operation.proto.attribute):
            del operation.proto.attribute[:]
            operation.proto.attribute.extend(kept)

    def insert_before(self, operation: Operation, node: NodeProto) -> None:
        """Put a node in front of another one."""
        operation.graph.node.insert(_place(operation), node)

    def remove(self, operation: Operation) -> None:
        """Take a node away."""
        del operation.graph.node[_place(operation)]

    def declare(self, tensor: Tensor, element: str) -> None:
        """Correct the declared element type of a value, where it is declared."""
        for info in tensor.graph.value_info:
            if info.name == tensor.name:
                info.type.tensor_type.elem_type = element_code(element)


def _fresh(stem: str, taken: set[str]) -> str:
    name, count = stem, 1
    while name in taken:
        name, count = f"{stem}_{count}", count + 1
    taken.add(name)
    return name


def _place(operation: Operation) -> int:
    results = list(operation.proto.output)
    return next(at for at, node in enumerate(operation.graph.node) if list(node.output) == results)


def used_names(model: ModelProto) -> set[str]:
    """The names of all values that a node reads or a graph gives."""
    names: set[str] = set()

    def collect(graph: GraphProto) -> None:
        names.update(value.name for value in graph.output)
        for node in graph.node:
            names.update(node.input)
            for attribute in node.attribute:
                for body in bodies_of(attribute):
                    collect(body)

    collect(model.graph)
    return names


def drop_unused(model: ModelProto, used_before: set[str]) -> None:
    """Take away the stored values that were read before and are not any more."""
    gone = used_before - used_names(model)

    def clean(graph: GraphProto) -> None:
        stored: list[TensorProto] = [t for t in graph.initializer if t.name not in gone]
        if len(stored) < len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(stored)
        nodes = [n for n in graph.node if n.op_type != "Constant" or n.output[0] not in gone]
        if len(nodes) < len(graph.node):
            del graph.node[:]
            graph.node.extend(nodes)
        for node in graph.node:
            for attribute in node.attribute:
                for body in bodies_of(attribute):
                    clean(body)

    clean(model.graph)


def along(data: Array, axis: int, rank: int) -> Array:
    """A list of one number a channel, shaped so that it lies along an axis."""
    shape = [1] * rank
    shape[axis] = -1
    return np.asarray(data).reshape(shape)
