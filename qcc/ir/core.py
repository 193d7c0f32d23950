"""The SSA graph: Value, Node, Graph.

* A :class:`Value` has one producer (a node, or none for inputs and constants) and an
  insertion-ordered set of uses.
* A :class:`Node`'s ``inputs`` is a tuple; only :class:`Graph` methods (driven by
  :class:`qcc.ir.rewrite.Rewriter`) replace it, so use lists cannot go stale.
* The order of ``graph.nodes`` is the schedule.
* Control-flow bodies are graphs in attributes; they use outer values directly.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcc.ir.types import TensorType, ValueType

Array: TypeAlias = NDArray[Any]
Attribute: TypeAlias = Any
"""int, float, str, bytes, a list of these, a numpy array (tensor), Graph, list of Graph, or
:class:`RawAttribute`."""


class Stage(enum.Enum):
    """How far a graph has come; the verifier knows which ops and types are legal in each."""

    FLOAT = "float"
    OBSERVED = "observed"
    NUMBERED = "numbered"
    LOWERED = "lowered"


@dataclass(frozen=True)
class RawAttribute:
    """An attribute that has no plain Python form (sparse tensor, type proto): kept serialized."""

    proto: bytes


@dataclass(frozen=True)
class Use:
    """One use of a value: operand ``index`` of ``user``; the user is a graph for its outputs."""

    user: Node | Graph
    index: int


class Value:
    """One SSA value.  ``constant`` holds the data of an initializer (never mutated in place)."""

    __slots__ = ("_uses", "constant", "doc", "index", "metadata", "name", "producer", "type")

    def __init__(
        self,
        name: str,
        type: ValueType,
        *,
        producer: Node | None = None,
        index: int = 0,
        constant: Array | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.producer = producer
        self.index = index
        self.constant = constant
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self._uses: dict[Use, None] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """All uses, oldest first, graph outputs included."""
        return tuple(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The distinct nodes that use this value, oldest use first."""
        return tuple(dict.fromkeys(u.user for u in self._uses if isinstance(u.user, Node)))

    @property
    def is_constant(self) -> bool:
        """Whether this is an initializer."""
        return self.constant is not None

    @property
    def is_output(self) -> bool:
        """Whether some graph (or subgraph) gives this value as an output."""
        return any(isinstance(u.user, Graph) for u in self._uses)

    @property
    def tensor(self) -> TensorType:
        """The type as a TensorType; raises TypeError for sequences and the like."""
        if not isinstance(self.type, TensorType):
            raise TypeError(f"value '{self.name}' is not a tensor")
        return self.type

    def __repr__(self) -> str:
        return f"%{self.name}"


class Node:
    """One operation.  ``op`` is the op type with its domain (``"Conv"``, ``"q.conv"``)."""

    __slots__ = (
        "attributes",
        "doc",
        "domain",
        "graph",
        "inputs",
        "metadata",
        "name",
        "op_type",
        "outputs",
        "overload",
    )

    def __init__(self, op_type: str, domain: str = "", name: str = "") -> None:
        self.op_type = op_type
        self.domain = domain
        self.name = name
        self.doc = ""
        self.overload = ""
        self.metadata: dict[str, str] = {}
        self.attributes: dict[str, Attribute] = {}
        self.inputs: tuple[Value | None, ...] = ()
        self.outputs: tuple[Value, ...] = ()
        self.graph: Graph | None = None

    @property
    def op(self) -> str:
        """Domain-qualified op name; the default ONNX domain has no prefix."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type

    @property
    def output(self) -> Value:
        """The first output (the only one of most ops)."""
        return self.outputs[0]

    @property
    def label(self) -> str:
        """A name for messages: the node's own, else its first output's."""
        return self.name or (self.outputs[0].name if self.outputs else self.op)

    def input(self, index: int) -> Value | None:
        """Operand ``index``, or None where it is absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def operand(self, index: int) -> Value:
        """Operand ``index``; raises IndexError where it is absent."""
        value = self.input(index)
        if value is None:
            raise IndexError(f"{self.op} '{self.label}' has no operand {index}")
        return value

    @property
    def subgraphs(self) -> tuple[Graph, ...]:
        """The graphs held in attributes (control-flow bodies)."""
        found: list[Graph] = []
        for attribute in self.attributes.values():
            if isinstance(attribute, Graph):
                found.append(attribute)
            elif isinstance(attribute, (list, tuple)):
                found.extend(item for item in attribute if isinstance(item, Graph))
        return tuple(found)

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        ins = ", ".join("_" if v is None else repr(v) for v in self.inputs)
        return f"{outs} = {self.op}({ins})"


@dataclass
class ModelInfo:
    """What an ONNX model carries around its graph; kept as read.

    ``functions`` are serialized ``FunctionProto``; ``opsets`` maps domain to version;
    ``overridable`` names the constants that the model also lists as inputs; ``extra`` is a
    serialized ``ModelProto`` of fields that have no place here (training, device configurations);
    ``notes`` are sentences about what was wrong in the model and put right when it was read.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    ir_version: int = 10
    producer_name: str = ""
    producer_version: str = ""
    domain: str = ""
    model_version: int = 0
    doc: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    functions: list[bytes] = field(default_factory=list)
    overridable: list[str] = field(default_factory=list)
    extra: bytes = b""
    notes: list[str] = field(default_factory=list)


class Graph:
    """A list of nodes in schedule order, with inputs, outputs and constants.

    A subgraph has ``parent`` set; names are unique over the whole tree of graphs.
    """

    def __init__(self, name: str = "main", parent: Graph | None = None) -> None:
        self.name = name
        self.doc = ""
        self.metadata: dict[str, str] = {}
        self.parent = parent
        self.inputs: tuple[Value, ...] = ()
        self.outputs: tuple[Value, ...] = ()
        self.constants: dict[str, Value] = {}
        self.stage = Stage.FLOAT
        self.info: ModelInfo = ModelInfo() if parent is None else parent.info
        self._nodes: list[Node] = []
        self._names: dict[str, int] = {} if parent is None else parent._names

    # -- reading ---------------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in schedule order (a snapshot: safe to mutate the graph while iterating)."""
        return tuple(self._nodes)

    def walk(self) -> Iterator[Node]:
        """All nodes in schedule order, those of subgraphs before the node that holds them."""
        for node in self.nodes:
            for body in node.subgraphs:
                yield from body.walk()
            yield node

    def values(self) -> Iterator[Value]:
        """Inputs, constants and node outputs of this graph (not of subgraphs)."""
        yield from self.inputs
        yield from self.constants.values()
        for node in self._nodes:
            yield from node.outputs

    def value(self, name: str) -> Value:
        """The value called ``name``; raises KeyError."""
        for value in self.values():
            if value.name == name:
                return value
        raise KeyError(name)

    def fresh_name(self, base: str) -> str:
        """A name that no value or node of the whole tree has: ``base`` itself, or ``base_1`` …"""
        if base and base not in self._names:
            self._names[base] = 0
            return base
        stem = base or "v"
        count = self._names.get(stem, 0)
        while True:
            count += 1
            candidate = f"{stem}_{count}"
            if candidate not in self._names:
                self._names[stem] = count
                self._names[candidate] = 0
                return candidate

    def reserve_name(self, name: str) -> None:
        """Mark ``name`` as taken."""
        self._names.setdefault(name, 0)

    # -- building and mutation (everything else goes through these) --------------------------------

    def add_input(self, name: str, type: ValueType) -> Value:
        """Append a graph input; the name is kept as given."""
        self.reserve_name(name)
        value = Value(name, type)
        self.inputs = (*self.inputs, value)
        return value

    def remove_input(self, value: Value) -> None:
        """Remove an unused graph input; raises ValueError while it has uses."""
        if value.uses:
            raise ValueError(f"input '{value.name}' is still used")
        self.inputs = tuple(v for v in self.inputs if v is not value)

    def add_constant(self, name: str, data: Array, type: TensorType | None = None) -> Value:
        """Add an initializer; ``type`` defaults to the array's own dtype and shape."""
        self.reserve_name(name)
        element = "string" if data.dtype == object else str(data.dtype)
        value = Value(name, type or TensorType(tuple(data.shape), element), constant=data)
        self.constants[name] = value
        return value

    def remove_constant(self, value: Value) -> None:
        """Remove an unused initializer; raises ValueError while it has uses."""
        if value.uses:
            raise ValueError(f"constant '{value.name}' is still used")
        self.constants.pop(value.name, None)

    def set_outputs(self, values: Sequence[Value]) -> None:
        """Replace the graph's outputs."""
        for index, old in enumerate(self.outputs):
            old._uses.pop(Use(self, index), None)
        self.outputs = tuple(values)
        for index, new in enumerate(self.outputs):
            new._uses[Use(self, index)] = None

    def create_node(
        self,
        op: str,
        inputs: Sequence[Value | None],
        output_types: Sequence[ValueType],
        *,
        attributes: Mapping[str, Attribute] | None = None,
        name: str = "",
        output_names: Sequence[str] | None = None,
        before: Node | None = None,
    ) -> Node:
        """Create a node with fresh outputs and insert it before ``before`` (default: at the end).

        ``op`` is domain-qualified (``"q.conv"``).  ``output_names`` are kept as given.
        """
        domain, _, op_type = op.rpartition(".")
        node = Node(op_type, domain, name)
        node.attributes = dict(attributes or {})
        names = list(output_names or [])
        for index, type in enumerate(output_types):
            if index < len(names):
                self.reserve_name(names[index])
                output_name = names[index]
            else:
                output_name = self.fresh_name(name or op_type.lower())
            node.outputs = (*node.outputs, Value(output_name, type, producer=node, index=index))
        self._set_inputs(node, inputs)
        self.insert_node(node, before)
        return node

    def insert_node(self, node: Node, before: Node | None = None) -> None:
        """Insert a detached node; raises ValueError if it already sits in a graph."""
        if node.graph is not None:
            raise ValueError(f"node '{node.label}' is already in a graph")
        position = len(self._nodes) if before is None else self._nodes.index(before)
        self._nodes.insert(position, node)
        node.graph = self

    def detach_node(self, node: Node) -> None:
        """Take a node out of the schedule with its uses intact, to be inserted elsewhere."""
        self._nodes.remove(node)
        node.graph = None

    def remove_node(self, node: Node) -> None:
        """Remove a node whose outputs have no uses left; raises ValueError otherwise."""
        for output in node.outputs:
            if output.uses:
                raise ValueError(f"output '{output.name}' of '{node.label}' is still used")
        self._set_inputs(node, ())
        for body in node.subgraphs:
            body.drop_uses()
        self._nodes.remove(node)
        node.graph = None

    def drop_uses(self) -> None:
        """Forget every use that this graph's nodes and outputs make (before discarding it)."""
        self.set_outputs(())
        for node in self._nodes:
            self._set_inputs(node, ())
            for body in node.subgraphs:
                body.drop_uses()

    def reorder(self, nodes: Iterable[Node]) -> None:
        """Set the schedule; ``nodes`` must be a permutation of the present ones."""
        order = list(nodes)
        if len(order) != len(self._nodes) or set(order) != set(self._nodes):
            raise ValueError("the new order must hold exactly the graph's nodes")
        self._nodes = order

    def _set_inputs(self, node: Node, inputs: Sequence[Value | None]) -> None:
        for index, old in enumerate(node.inputs):
            if old is not None:
                old._uses.pop(Use(node, index), None)
        node.inputs = tuple(inputs)
        for index, new in enumerate(node.inputs):
            if new is not None:
                new._uses[Use(node, index)] = None

    def replace_use(self, use: Use, value: Value) -> None:
        """Make one use refer to ``value`` instead."""
        if isinstance(use.user, Graph):
            outputs = list(use.user.outputs)
            outputs[use.index] = value
            use.user.set_outputs(outputs)
            return
        inputs = list(use.user.inputs)
        inputs[use.index] = value
        self._set_inputs(use.user, inputs)

    # -- copying -----------------------------------------------------------------------------------

    def clone(self) -> Graph:
        """A deep copy of structure; constant arrays are shared (they are never mutated)."""
        return _clone(self, None, {})

    def insert_copy(self, node: Node, mapping: dict[Value, Value]) -> Node:
        """Append a deep copy of a node of another graph.

        ``mapping`` gives the values that stand for its operands (those it lacks are captured as
        they are) and gains the copies of its results, which keep their names.
        """
        return _clone_node(node, self, mapping)

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self._nodes)} nodes, stage {self.stage.value}>"


def _clone(source: Graph, parent: Graph | None, mapping: dict[Value, Value]) -> Graph:
    graph = Graph(source.name, parent)
    graph.doc, graph.metadata, graph.stage = source.doc, dict(source.metadata), source.stage
    if parent is None:
        graph.info = _clone_info(source.info)
        graph._names = dict(source._names)
    graph.inputs = tuple(_clone_value(v, mapping) for v in source.inputs)
    for name, value in source.constants.items():
        graph.constants[name] = _clone_value(value, mapping)
    for node in source._nodes:
        _clone_node(node, graph, mapping)
    graph.set_outputs([mapping.get(v, v) for v in source.outputs])
    return graph


def _clone_info(info: ModelInfo) -> ModelInfo:
    return ModelInfo(
        dict(info.opsets),
        info.ir_version,
        info.producer_name,
        info.producer_version,
        info.domain,
        info.model_version,
        info.doc,
        dict(info.metadata),
        list(info.functions),
        list(info.overridable),
        info.extra,
        list(info.notes),
    )


def _clone_value(value: Value, mapping: dict[Value, Value]) -> Value:
    copy = Value(value.name, value.type, index=value.index, constant=value.constant)
    copy.doc, copy.metadata = value.doc, dict(value.metadata)
    mapping[value] = copy
    return copy


def _clone_node(node: Node, graph: Graph, mapping: dict[Value, Value]) -> Node:
    copy = Node(node.op_type, node.domain, node.name)
    copy.doc, copy.overload, copy.metadata = node.doc, node.overload, dict(node.metadata)
    for name, attribute in node.attributes.items():
        copy.attributes[name] = _clone_attribute(attribute, graph, mapping)
    outputs = []
    for value in node.outputs:
        output = _clone_value(value, mapping)
        output.producer = copy
        outputs.append(output)
    copy.outputs = tuple(outputs)
    graph._set_inputs(copy, [None if v is None else mapping.get(v, v) for v in node.inputs])
    graph.insert_node(copy)
    return copy


def _clone_attribute(attribute: Attribute, graph: Graph, mapping: dict[Value, Value]) -> Attribute:
    if isinstance(attribute, Graph):
        return _clone(attribute, graph, mapping)
    if isinstance(attribute, list):
        return [_clone_attribute(item, graph, mapping) for item in attribute]
    return attribute


def constant_array(value: Value | None) -> Array | None:
    """The data of ``value`` if it is an initializer, else None."""
    return None if value is None or value.constant is None else np.asarray(value.constant)
