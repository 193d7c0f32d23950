"""Graph to GraphProto: the part of writing that knows nothing of files.

An :class:`Emitter` turns nodes into protos, one to one but for quantize and dequantize, which
become QuantizeLinear and DequantizeLinear with their parameters as initializers of the main graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

from qcc.errors import ConfigError
from qcc.ir.core import Graph, Node, Value
from qcc.ir.ops import PINNED_OPSET
from qcc.ir.types import Quant, TensorType
from qcc.onnxio.attributes import write_attribute
from qcc.onnxio.tensors import write_tensor
from qcc.onnxio.typeinfo import write_type

Array = NDArray[Any]


class TensorSink(Protocol):
    """Where the data of initializers go; returns the proto that stands for them."""

    def __call__(self, name: str, data: Array, element: str) -> TensorProto:
        """Take ``data``, stored as ``element``, under ``name``."""
        ...


def node_proto(node: Node) -> NodeProto:
    """A node that holds no bodies as a proto."""
    return Emitter(set()).plain_node(node)


def names_in(graph: Graph) -> set[str]:
    """Every name of a value or node in the graph and in the bodies inside it."""
    return names_of(graph.nodes, [*graph.inputs, *graph.constants.values()])


def names_of(nodes: Iterable[Node], values: Iterable[Value]) -> set[str]:
    """The names of values, and every name of a value or node in ``nodes`` and in their bodies."""
    names = {value.name for value in values}
    for node in nodes:
        names.add(node.name)
        names.update(value.name for value in node.inputs if value is not None)
        names.update(value.name for value in node.outputs)
        for body in node.subgraphs:
            names |= names_in(body)
    return names


def fill(proto: Any, **fields: Any) -> None:
    """Set the fields that are not empty: protobuf tells an empty field from an absent one."""
    for name, value in fields.items():
        if value:
            setattr(proto, name, value)


def fill_metadata(entries: Any, metadata: Mapping[str, str]) -> None:
    """Write a dictionary into a repeated StringStringEntryProto."""
    for key, text in metadata.items():
        entries.add(key=key, value=text)


class Emitter:
    """Turns the parts of one model into protos.

    ``names`` are the names that the model uses already; ``opset`` decides how quantization is
    written; ``sink`` takes the data of initializers; ``shared`` collects the initializers (scales,
    zero points, bounds) that the main graph needs besides its own.
    """

    def __init__(
        self, names: set[str], *, opset: int = PINNED_OPSET, sink: TensorSink = write_tensor
    ) -> None:
        self.names = names
        self.opset = opset
        self.sink = sink
        self.shared: list[TensorProto] = []
        self._shared_names: dict[tuple[Any, ...], str] = {}

    # -- names and shared constants ----------------------------------------------------------------

    def fresh(self, base: str) -> str:
        """A name that the model does not use yet."""
        name, count = base, 0
        while name in self.names:
            count += 1
            name = f"{base}_{count}"
        self.names.add(name)
        return name

    def share(self, base: str, data: Array, element: str, owner: str = "") -> str:
        """The name of an initializer of the main graph with these data; equal ones are one.

        Those of different owners are kept apart.
        """
        key = (owner, element, data.shape, data.tobytes())
        if key not in self._shared_names:
            name = self.fresh(base)
            self._shared_names[key] = name
            self.shared.append(write_tensor(name, data, element))
        return self._shared_names[key]

    # -- graphs ------------------------------------------------------------------------------------

    def graph(self, graph: Graph, overridable: Sequence[str] = ()) -> GraphProto:
        """A graph with all it holds; for the main graph, append ``shared`` afterwards."""
        proto = self.region(
            graph.name, graph.nodes, graph.inputs, graph.outputs, graph.constants.values()
        )
        fill(proto, doc_string=graph.doc)
        fill_metadata(proto.metadata_props, graph.metadata)
        for name in overridable:
            if name in graph.constants:
                proto.input.append(value_info(graph.constants[name]))
        return proto

    def region(
        self,
        name: str,
        nodes: Iterable[Node],
        inputs: Sequence[Value],
        outputs: Sequence[Value],
        constants: Iterable[Value],
    ) -> GraphProto:
        """A graph of the given nodes with the given inputs, outputs and initializers."""
        proto = GraphProto(name=name)
        proto.input.extend(value_info(value) for value in inputs)
        proto.initializer.extend(self._constant(value) for value in constants)
        listed = set(outputs) | set(inputs)
        for node in nodes:
            proto.node.extend(self.node(node))
            proto.value_info.extend(self._inner_types(node, listed))
        seen: set[Value] = set()
        for value in outputs:
            proto.output.append(self._output(proto, value, value in seen))
            seen.add(value)
        return proto

    def _inner_types(self, node: Node, listed: set[Value]) -> Iterator[ValueInfoProto]:
        for value in node.outputs:
            if value.name and value not in listed and write_type(value.type) is not None:
                yield value_info(value)

    def _output(self, proto: GraphProto, value: Value, again: bool) -> ValueInfoProto:
        """The entry of an output; a value that is listed again gets an Identity of its own name."""
        info = value_info(value)
        if again:
            info.name = self.fresh(value.name)
            proto.node.add(op_type="Identity", input=[value.name], output=[info.name])
        return info

    def _constant(self, value: Value) -> TensorProto:
        if value.constant is None:
            raise ValueError(f"'{value.name}' is listed as a constant and holds no data")
        tensor = self.sink(value.name, np.asarray(value.constant), value.tensor.storage)
        fill(tensor, doc_string=value.doc)
        fill_metadata(tensor.metadata_props, value.metadata)
        return tensor

    # -- nodes -------------------------------------------------------------------------------------

    def node(self, node: Node) -> list[NodeProto]:
        """The protos of a node; raises ConfigError for what ONNX cannot say."""
        if node.domain != "q":
            return [self.plain_node(node)]
        from qcc.onnxio.quantized import WRITERS

        writer = WRITERS.get(node.op)
        if writer is None:
            raise ConfigError(
                f"{node.op} is an integer op that ONNX has no word for; write the graph before it "
                "is lowered.",
                node=node.label,
            )
        protos = writer(self, node)
        if protos:
            fill_metadata(protos[-1].metadata_props, node.metadata)
            fill(protos[-1], doc_string=node.doc)
        return protos

    def plain_node(self, node: Node) -> NodeProto:
        """An ONNX node as it is."""
        proto = NodeProto(op_type=node.op_type)
        fill(proto, name=node.name, domain=node.domain, overload=node.overload, doc_string=node.doc)
        proto.input.extend("" if value is None else value.name for value in node.inputs)
        proto.output.extend(value.name for value in node.outputs)
        for name, value in node.attributes.items():
            proto.attribute.append(self._attribute(node, name, value))
        fill_metadata(proto.metadata_props, node.metadata)
        return proto

    def _attribute(self, node: Node, name: str, value: Any) -> AttributeProto:
        if isinstance(value, Graph):
            return AttributeProto(name=name, type=AttributeProto.GRAPH, g=self.graph(value))
        if isinstance(value, list) and value and isinstance(value[0], Graph):
            bodies = [self.graph(body) for body in value]
            return AttributeProto(name=name, type=AttributeProto.GRAPHS, graphs=bodies)
        return write_attribute(name, value, node.op_type, node.domain)


def value_info(value: Value) -> ValueInfoProto:
    """The name, type, doc string and metadata of a value."""
    proto = ValueInfoProto(name=value.name)
    fill(proto, doc_string=value.doc)
    type = write_type(value.type)
    if type is not None:
        proto.type.CopyFrom(type)
    fill_metadata(proto.metadata_props, value.metadata)
    return proto


def quant_of(value: Value) -> Quant:
    """The quantization of a value; raises ValueError for a float one (a bug of the caller)."""
    quant = value.type.quant if isinstance(value.type, TensorType) else None
    if quant is None:
        raise ValueError(f"'{value.name}' is not quantized")
    return quant
