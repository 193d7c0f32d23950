"""GraphProto to Graph, at whatever opset the proto has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    NodeProto,
    StringStringEntryProto,
    ValueInfoProto,
)

from qcc.errors import ModelError
from qcc.ir.core import Attribute, Graph, ModelInfo, Node, Value
from qcc.ir.types import UNKNOWN, TensorType, ValueType
from qcc.onnxio.attributes import GRAPH_KINDS, raw, read_attribute
from qcc.onnxio.elements import element_name
from qcc.onnxio.inferred import TypedGraph
from qcc.onnxio.tensors import read_tensor

DEFAULT_DOMAIN = "ai.onnx"
"""The long name of the default domain; in memory it is always ``""``."""


@dataclass
class Scope:
    """Names to values, inner scopes seeing outer ones."""

    outer: Scope | None = None
    values: dict[str, Value] = field(default_factory=dict)

    def find(self, name: str) -> Value | None:
        """The innermost value called ``name``."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None


def build_graph(
    proto: GraphProto, typed: TypedGraph, info: ModelInfo, folder: Path | None
) -> Graph:
    """The main graph of a model; ``typed`` has the types of its values.

    Initializers that the model also lists as inputs become constants (their names are remembered in
    ``info.overridable``).  Raises ModelError.
    """
    graph = Graph(proto.name)
    graph.info = info
    taken = {tensor.name for tensor in proto.initializer}
    info.overridable = [item.name for item in proto.input if item.name in taken]
    _Builder(folder).fill(graph, proto, typed, Scope())
    return graph


def build_function(proto: FunctionProto) -> Graph:
    """The body of a function as a graph with untyped inputs."""
    graph = Graph(proto.name)
    graph.info.opsets = {item.domain: item.version for item in proto.opset_import}
    body = GraphProto(name=proto.name)
    body.input.extend(ValueInfoProto(name=name) for name in proto.input)
    body.output.extend(ValueInfoProto(name=name) for name in proto.output)
    body.value_info.extend(proto.value_info)
    body.node.extend(proto.node)
    _Builder(None).fill(graph, body, TypedGraph(body, body), Scope())
    return graph


def metadata(entries: Iterable[StringStringEntryProto]) -> dict[str, str]:
    """Metadata entries as a dictionary."""
    return {entry.key: entry.value for entry in entries}


class _Builder:
    """Builds graphs recursively; ``folder`` is where external data lie."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def fill(self, graph: Graph, proto: GraphProto, typed: TypedGraph, scope: Scope) -> None:
        """Fill an empty graph from a proto."""
        graph.doc = proto.doc_string
        graph.metadata = metadata(proto.metadata_props)
        types = typed.types()
        self._inputs(graph, proto, types, scope)
        self._constants(graph, proto, scope)
        nodes = [self._declare(graph, node, types, scope) for node in proto.node]
        for index, node in enumerate(nodes):
            self._connect(graph, node, proto.node[index], scope)
            for place, attribute in enumerate(proto.node[index].attribute):
                bodies = typed.bodies(index, place)
                node.attributes[attribute.name] = self._attribute(graph, attribute, bodies, scope)
        for node_proto in proto.node:
            if node_proto.name:
                graph.reserve_name(node_proto.name)
        graph.set_outputs([self._output(item.name, proto.name, scope) for item in proto.output])
        self._describe(proto, scope)
        _sort(graph)

    def _inputs(
        self, graph: Graph, proto: GraphProto, types: Mapping[str, ValueType], scope: Scope
    ) -> None:
        constants = {tensor.name for tensor in proto.initializer}
        for item in proto.input:
            if item.name in constants:
                continue
            name = self._claim(graph, item.name, scope)
            scope.values[item.name] = graph.add_input(name, types.get(item.name, UNKNOWN))

    def _constants(self, graph: Graph, proto: GraphProto, scope: Scope) -> None:
        for tensor in proto.initializer:
            data = read_tensor(tensor, self.folder)
            element = element_name(tensor.data_type) or ""
            name = self._claim(graph, tensor.name, scope)
            value = graph.add_constant(name, data, TensorType(tuple(data.shape), element))
            value.doc = tensor.doc_string
            value.metadata = metadata(tensor.metadata_props)
            scope.values[tensor.name] = value
        for sparse in proto.sparse_initializer:
            attribute = AttributeProto(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
            attribute.sparse_tensor.CopyFrom(sparse)
            name = self._claim(graph, sparse.values.name, scope)
            element = element_name(sparse.values.data_type) or ""
            node = graph.create_node(
                "Constant",
                (),
                [TensorType(tuple(sparse.dims), element)],
                attributes={"sparse_value": raw(attribute)},
                output_names=[name],
            )
            scope.values[sparse.values.name] = node.output

    def _declare(
        self, graph: Graph, proto: NodeProto, types: Mapping[str, ValueType], scope: Scope
    ) -> Node:
        domain = "" if proto.domain == DEFAULT_DOMAIN else proto.domain
        node = Node(proto.op_type, domain, proto.name)
        node.doc, node.overload = proto.doc_string, proto.overload
        node.metadata = metadata(proto.metadata_props)
        outputs: list[Value] = []
        for index, name in enumerate(proto.output):
            # An absent optional output is a value without a name and without uses.
            claimed = self._claim(graph, name, scope) if name else ""
            value = Value(claimed, types.get(name, UNKNOWN), producer=node, index=index)
            outputs.append(value)
            if name:
                scope.values[name] = value
        node.outputs = tuple(outputs)
        graph.insert_node(node)
        return node

    def _connect(self, graph: Graph, node: Node, proto: NodeProto, scope: Scope) -> None:
        inputs: list[Value | None] = []
        for name in proto.input:
            value = scope.find(name) if name else None
            if name and value is None:
                raise ModelError(
                    f"The node reads '{name}', which no input, initializer or node gives.",
                    node=node.label,
                )
            inputs.append(value)
        graph._set_inputs(node, inputs)

    def _attribute(
        self, graph: Graph, proto: AttributeProto, typed: Sequence[TypedGraph], scope: Scope
    ) -> Attribute:
        if proto.type not in GRAPH_KINDS or proto.ref_attr_name:
            return read_attribute(proto, self.folder)
        if proto.type == AttributeProto.GRAPH:
            return self._body(graph, proto.g, typed[0], scope)
        pairs = zip(proto.graphs, typed, strict=True)
        return [self._body(graph, body, twin, scope) for body, twin in pairs]

    def _body(self, parent: Graph, proto: GraphProto, typed: TypedGraph, scope: Scope) -> Graph:
        body = Graph(proto.name, parent)
        self.fill(body, proto, typed, Scope(scope))
        return body

    def _claim(self, graph: Graph, name: str, scope: Scope) -> str:
        """The name that a new value gets: its own, or a fresh one where the tree has it already.

        Sibling bodies may use a name twice in ONNX; in memory names are unique over the whole tree.
        """
        if name in scope.values:
            raise ModelError(f"Graph '{graph.name}' defines the value '{name}' twice.")
        claimed = graph.fresh_name(name) if name in self.names else name
        graph.reserve_name(claimed)
        self.names.add(claimed)
        return claimed

    def _output(self, name: str, graph: str, scope: Scope) -> Value:
        value = scope.find(name)
        if value is None:
            raise ModelError(
                f"Graph '{graph}' lists the output '{name}', which no input, initializer or node "
                "gives."
            )
        return value

    def _describe(self, proto: GraphProto, scope: Scope) -> None:
        """Doc strings and metadata of values."""
        for item in (*proto.input, *proto.value_info, *proto.output):
            value = scope.values.get(item.name)
            if value is not None and (item.doc_string or item.metadata_props):
                value.doc = item.doc_string or value.doc
                value.metadata |= metadata(item.metadata_props)


def _sort(graph: Graph) -> None:
    """Put the nodes in an order in which every value is made before it is used, if they are not."""
    nodes = graph.nodes
    position = {node: index for index, node in enumerate(nodes)}
    needs = {node: [p for p in _producers(node, graph) if p in position] for node in nodes}
    if all(position[need] < position[node] for node in nodes for need in needs[node]):
        return
    done: dict[Node, None] = {}
    for node in nodes:
        _visit(node, needs, done)
    graph.reorder(done)


def _visit(start: Node, needs: Mapping[Node, list[Node]], done: dict[Node, None]) -> None:
    stack = [(start, iter(needs[start]))]
    open_nodes = {start}
    while stack:
        node, rest = stack[-1]
        need = next((n for n in rest if n not in done), None)
        if need is None:
            done[node] = None
            open_nodes.discard(node)
            stack.pop()
        elif need in open_nodes:
            raise ModelError("The node takes part in a cycle.", node=need.label)
        else:
            open_nodes.add(need)
            stack.append((need, iter(needs[need])))


def _producers(node: Node, graph: Graph) -> Iterable[Node]:
    """The nodes that make what ``node``, or a body inside it, uses."""
    for value in node.inputs:
        if value is not None and value.producer is not None:
            yield value.producer
    for body in node.subgraphs:
        for inner in body.nodes:
            yield from _producers(inner, body)
        for value in body.outputs:
            if value.producer is not None:
                yield value.producer
