"""A model file as nodes and values that know each other; nothing in it is changed or repaired.

Bodies of control flow are indexed with the graph around them: a name means the nearest definition.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from qcc.errors import ModelError
from qcc.ir.types import TensorType
from qcc.onnxio.build import DEFAULT_DOMAIN
from qcc.onnxio.declared import bodies_of
from qcc.onnxio.elements import element_dtype, element_name
from qcc.onnxio.inferred import TypedGraph, infer_types
from qcc.onnxio.tensors import read_tensor

Array = NDArray[Any]
Shape = tuple[Any, ...]
"""Sizes as int, as str where they are symbolic, None where they are unknown."""

NEWEST_OPSET = 10**6
"""Stands for a model that imports no opset of the default domain, so holds no op of it."""


class Tensor:
    """A value of the model: who makes it, who reads it, and its data where they are stored.

    ``users`` are pairs of a reader and the place among its inputs.
    """

    def __init__(self, name: str, graph: GraphProto) -> None:
        self.name = name
        self.graph = graph
        self.producer: Operation | None = None
        self.users: list[tuple[Operation, int]] = []
        self.initializer: TensorProto | None = None
        self.is_input = False
        self.is_output = False

    @property
    def readers(self) -> list[Operation]:
        """The nodes that read the value, in order, each once."""
        return list(dict.fromkeys(user for user, _ in self.users))


class _Names:
    """The values of a graph by name, and behind them those of the graphs around it."""

    def __init__(self, graph: GraphProto, outer: dict[str, Tensor]) -> None:
        self.own: dict[str, Tensor] = {}
        self._graph = graph
        self._outer = outer

    def define(self, name: str) -> Tensor:
        """The graph's own value of a name."""
        if name not in self.own:
            self.own[name] = Tensor(name, self._graph)
        return self.own[name]

    def find(self, name: str) -> Tensor:
        """The nearest value of a name; one of nobody's making where a file is damaged."""
        if name in self.own or name not in self._outer:
            return self.define(name)
        return self._outer[name]


class Operation:
    """A node of the model, in the graph that holds it.

    ``op`` is the op type, with the domain in front where it is not ONNX's own.
    """

    def __init__(self, proto: NodeProto, graph: GraphProto) -> None:
        self.proto = proto
        self.graph = graph
        domain = "" if proto.domain in ("", DEFAULT_DOMAIN) else f"{proto.domain}."
        self.op = domain + proto.op_type
        self.inputs: tuple[Tensor | None, ...] = ()
        self.outputs: tuple[Tensor | None, ...] = ()

    def connect(self, names: _Names) -> None:
        """Find the operands."""
        self.inputs = tuple(names.find(name) if name else None for name in self.proto.input)
        for place, operand in enumerate(self.inputs):
            if operand is not None:
                operand.users.append((self, place))

    def give(self, names: _Names) -> None:
        """Define the results; raises ModelError where one was given or read before.

        So no value is computed from itself, and looking for where it comes from ends.
        """
        self.outputs = tuple(names.define(name) if name else None for name in self.proto.output)
        for result in self.outputs:
            if result is None:
                continue
            if result.producer is not None or result.initializer is not None or result.is_input:
                raise ModelError(
                    f"'{result.name}' is given twice, the second time by the node '{self.label}'; "
                    "export the model again, every value needs a name of its own."
                )
            if result.users:
                reader = result.users[0][0].label
                raise ModelError(
                    f"the node '{reader}' reads '{result.name}' before '{self.label}' gives it; "
                    "sort the nodes so that values are given before they are read."
                )
            result.producer = self

    @property
    def label(self) -> str:
        """The name of the node, or its op and output where it has none."""
        first = next((name for name in self.proto.output if name), "")
        return self.proto.name or f"{self.proto.op_type} (output '{first}')"

    def input(self, place: int) -> Tensor | None:
        """The operand at a place; None where it is absent."""
        return self.inputs[place] if place < len(self.inputs) else None

    @property
    def output(self) -> Tensor | None:
        """The first result."""
        return self.outputs[0] if self.outputs else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute (strings as str), or ``default``."""
        for attribute in self.proto.attribute:
            if attribute.name == name and not attribute.ref_attr_name:
                value = helper.get_attribute_value(attribute)
                return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return default


class ModelIndex:
    """All nodes of a model, bodies of control flow included, in order of the file.

    ``folder`` is where external data lie.  Raises ModelError where a tensor's data are asked for
    and cannot be read.
    """

    def __init__(self, model: ModelProto, folder: Path | None = None) -> None:
        self.model = model
        self.folder = folder
        self.operations: list[Operation] = []
        self._graphs: list[tuple[GraphProto, dict[str, Tensor]]] = []
        self._constants: dict[Tensor, Array | None] = {}
        self._stored: dict[Tensor, bool] = {}
        self._types: dict[int, dict[str, Any]] | None = None
        self._walk(model.graph, {})

    @property
    def opset(self) -> int:
        """The version of ONNX's own ops."""
        found = [o.version for o in self.model.opset_import if o.domain in ("", DEFAULT_DOMAIN)]
        return max(found, default=NEWEST_OPSET)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Every value, those of the main graph first."""
        for _, own in self._graphs:
            yield from own.values()

    def of(self, *ops: str) -> Iterator[Operation]:
        """The nodes of some ops."""
        return (operation for operation in self.operations if operation.op in ops)

    # -- making the index --------------------------------------------------------------------------

    def _walk(self, graph: GraphProto, outer: dict[str, Tensor]) -> None:
        names = _Names(graph, outer)
        self._graphs.append((graph, names.own))
        for value in graph.input:
            names.define(value.name).is_input = True
        for tensor in graph.initializer:
            names.define(tensor.name).initializer = tensor
        for proto in graph.node:
            operation = Operation(proto, graph)
            self.operations.append(operation)
            operation.connect(names)
            for body in _bodies(proto):
                self._walk(body, {**outer, **names.own})
            operation.give(names)
        for value in graph.output:
            names.find(value.name).is_output = True

    # -- what is known of a value ------------------------------------------------------------------

    def constant(self, tensor: Tensor | None) -> Array | None:
        """The data of an initializer or a Constant node, also through Identity and Cast.

        None where the value is computed or given at run time.
        """
        if tensor is None:
            return None
        if tensor not in self._constants:
            self._constants[tensor] = self._read(tensor)
        return self._constants[tensor]

    def _read(self, tensor: Tensor) -> Array | None:
        if tensor.initializer is not None:
            return read_tensor(tensor.initializer, self.folder)
        operation = tensor.producer
        if operation is None:
            return None
        if operation.op == "Constant":
            return self._constant_node(operation)
        if operation.op not in ("Identity", "Cast"):
            return None
        data = self.constant(operation.input(0))
        if data is None or operation.op == "Identity":
            return data
        element = element_name(operation.attribute("to", 0))
        return None if element in (None, "string") else data.astype(element_dtype(str(element)))

    def _constant_node(self, operation: Operation) -> Array | None:
        tensor = operation.attribute("value")
        if isinstance(tensor, TensorProto):
            return read_tensor(tensor, self.folder)
        for name, element in (("value_float", "float32"), ("value_int", "int64")):
            for attribute in (name, f"{name}s"):
                value = operation.attribute(attribute)
                if value is not None:
                    return np.asarray(value, element)
        return None

    def is_constant(self, tensor: Tensor | None) -> bool:
        """Whether a value is stored in the file or computed from stored values only."""
        if tensor is None:
            return False
        if tensor not in self._stored:
            self._stored[tensor] = False  # a cycle in a damaged file ends here
            operation = tensor.producer
            self._stored[tensor] = tensor.initializer is not None or (
                operation is not None
                and not any(_bodies(operation.proto))
                and (operation.op == "Constant" or bool(operation.proto.input))
                and all(self.is_constant(value) for value in operation.inputs if value is not None)
            )
        return self._stored[tensor]

    def element(self, tensor: Tensor | None) -> str | None:
        """The element type of a value, such as ``"int8"``; None where it is unknown."""
        if tensor is None:
            return None
        if tensor.initializer is not None:
            return element_name(tensor.initializer.data_type)
        declared = self._type(tensor)
        return declared.storage if declared is not None and declared.storage else None

    def shape(self, tensor: Tensor | None) -> Shape | None:
        """The sizes of a value; None where even its rank is unknown."""
        if tensor is None:
            return None
        if tensor.initializer is not None:
            return tuple(tensor.initializer.dims)
        constant = self.constant(tensor)
        if constant is not None:
            return tuple(constant.shape)
        declared = self._type(tensor)
        return None if declared is None else declared.shape

    def _type(self, tensor: Tensor) -> TensorType | None:
        if self._types is None:
            self._types = _types_of(self.model)
        found = self._types.get(id(tensor.graph), {}).get(tensor.name)
        known = isinstance(found, TensorType) and found.element != "undefined"
        return found if isinstance(found, TensorType) and known else None


def _bodies(proto: NodeProto) -> Iterator[GraphProto]:
    for attribute in proto.attribute:
        yield from bodies_of(attribute)


def _types_of(model: ModelProto) -> dict[int, dict[str, Any]]:
    """Types by name, for each graph of the model (by its identity)."""
    types: dict[int, dict[str, Any]] = {}

    def collect(graph: GraphProto, typed: TypedGraph) -> None:
        types[id(graph)] = typed.types()
        for place, proto in enumerate(graph.node):
            for at, attribute in enumerate(proto.attribute):
                bodies = bodies_of(attribute)
                if bodies:
                    for body, inner in zip(bodies, typed.bodies(place, at), strict=True):
                        collect(body, inner)

    try:
        collect(model.graph, infer_types(model))
    except (ModelError, ValueError, TypeError, RuntimeError):
        return types  # rules work with what is left: initializers and Q/DQ say their own types
    return types
