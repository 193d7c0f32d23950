"""Type and shape inference, done by ``onnx.shape_inference`` on models without big constants.

* :func:`infer_node` gives the result types of one node; the builder uses it.
* :func:`infer_shapes` completes the types of a whole graph, bodies of control flow included.

Both write a *skeleton*: an ONNX model of the nodes in question in which constants of at most
:data:`SMALL_CONSTANT` elements keep their data (shapes are computed from them) and every other
value is an input of known type.  Quantize, dequantize and observe stand there as Cast and Identity,
so that shapes pass through them; other ops of the integer dialect keep the types that their pass
gave them.

onnx follows the common shape computations itself.  Where types stay open after that, integers that
are computed from known shapes are evaluated with ``onnx.reference``, put into the skeleton as
constants, and inference runs again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from qcc.errors import ModelError
from qcc.ir.core import Array, Attribute, Graph, Node, RawAttribute, Value, constant_array
from qcc.ir.ops import PINNED_OPSET, attribute, schema
from qcc.ir.types import UNDEFINED, UNKNOWN, Dim, OpaqueType, Shape, TensorType, ValueType

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

SMALL_CONSTANT = 1024
"""Constants of at most so many elements keep their data for inference."""

ROUNDS = 8
"""Each round evaluates shape computations further; real models need two."""

_STAND_INS = {
    "q.quantize": "Cast",
    "q.dequantize": "Cast",
    "q.requantize": "Cast",
    "q.observe": "Identity",
}

_NOT_EVALUATED = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike"}
    | {"RandomUniform", "RandomUniformLike", "QuantizeLinear", "DequantizeLinear"}
)


# -- the two entries -------------------------------------------------------------------------------


def infer_node(node: Node) -> tuple[ValueType, ...]:
    """The types of the results of ``node`` from its operands' types and small constant operands.

    Ops without a schema give :data:`qcc.ir.types.UNKNOWN`.  Raises ModelError with onnx's words
    where the operands or attributes do not fit the op.
    """
    if schema(node.op_type, node.domain) is None and not node.subgraphs:
        return (UNKNOWN,) * len(node.outputs)
    skeleton = _Skeleton({})
    types = skeleton.infer([node], (), _info_of(node), strict=True)
    known = _symbols(value.type for value in (*node.inputs, *node.outputs) if value is not None)
    return tuple(_without_invented(types.get(value, UNKNOWN), known) for value in node.outputs)


def _symbols(types: Iterable[ValueType]) -> set[str]:
    shapes = [type.shape or () for type in types if isinstance(type, TensorType)]
    return {dim for shape in shapes for dim in shape if isinstance(dim, str)}


def _without_invented(type: ValueType, known: set[str]) -> ValueType:
    """Drop the names that onnx invents for unknown dimensions: between models they mean nothing."""
    if isinstance(type, OpaqueType) or type.shape is None:
        return type
    return type.with_shape(
        tuple(None if isinstance(dim, str) and dim not in known else dim for dim in type.shape)
    )


def infer_shapes(graph: Graph) -> int:
    """Complete the types of all values of ``graph`` and its bodies; returns how many changed.

    What is known stays: an integer dimension is never changed, an unknown or symbolic one becomes
    what inference finds.  Nodes that onnx cannot infer keep the types that they have.
    """
    known: dict[Value, Array] = {}
    changes = 0
    for _ in range(ROUNDS):
        changed = _infer_once(graph, known)
        changes += changed
        if all(_is_settled(value) for value in _all_values(graph)):
            break
        if not _evaluate_known(graph, known) and not changed:
            break
    return changes


def _infer_once(graph: Graph, known: Mapping[Value, Array]) -> int:
    try:
        found = _Skeleton(known).infer(graph.nodes, graph.outputs, graph, strict=False)
    except ModelError:
        # onnx gave up on the graph as a whole (a model may declare types that contradict its
        # nodes and still run); what each node gives for itself is then all there is to know.
        return _infer_each(graph)
    return sum(_update(value, type) for value, type in found.items())


def _infer_each(graph: Graph) -> int:
    changes = 0
    for node in graph.walk():
        try:
            types = infer_node(node)
        except ModelError:
            continue
        changes += sum(map(_update, node.outputs, types))
    return changes


def _update(value: Value, type: ValueType) -> bool:
    merged = merge_types(value.type, type)
    if merged == value.type:
        return False
    value.type = merged
    return True


def merge_types(known: ValueType, inferred: ValueType) -> ValueType:
    """``known`` with what is open in it filled in from ``inferred``."""
    if isinstance(known, OpaqueType) or isinstance(inferred, OpaqueType):
        return inferred if known == UNKNOWN else known
    element = inferred.element if known.element == UNDEFINED else known.element
    return TensorType(_merge_shapes(known.shape, inferred.shape), element, known.layout)


def _merge_shapes(known: Shape, inferred: Shape) -> Shape:
    if known is None or inferred is None or len(known) != len(inferred):
        return inferred if known is None else known
    return tuple(map(_merge_dims, known, inferred))


def _merge_dims(known: Dim, inferred: Dim) -> Dim:
    if isinstance(known, int):
        return known
    return inferred if isinstance(inferred, int) or known is None else known


def _all_values(graph: Graph) -> Iterator[Value]:
    yield from graph.values()
    for node in graph.nodes:
        for body in node.subgraphs:
            yield from _all_values(body)


def _is_settled(value: Value) -> bool:
    return isinstance(value.type, OpaqueType) or value.type.is_static


def _info_of(node: Node) -> Graph:
    return Graph() if node.graph is None else node.graph


# -- the skeleton ----------------------------------------------------------------------------------


class _Skeleton:
    """Writes nodes as an ONNX model under names of its own and reads the inferred types back.

    ``known`` gives values that are known although nodes compute them.
    """

    def __init__(self, known: Mapping[Value, Array]) -> None:
        self.known = known
        self.names: dict[Value, str] = {}
        self.given: dict[Value, None] = {}

    def infer(
        self, nodes: Iterable[Node], outputs: Iterable[Value], info: Graph, *, strict: bool
    ) -> dict[Value, ValueType]:
        """The types of all values that ``nodes`` and their bodies define."""
        from onnx import shape_inference

        model = self.model(list(nodes), outputs, info)
        try:
            found = shape_inference.infer_shapes(
                model, check_type=strict, strict_mode=strict, data_prop=True
            )
        except (shape_inference.InferenceError, RuntimeError, ValueError, TypeError) as error:
            label = next((node.label for node in nodes), info.name)
            raise ModelError(f"onnx cannot infer types: {_first_line(error)}.", node=label) from (
                error
            )
        by_name = dict(_declared_types(found.graph))
        return {value: by_name[name] for value, name in self.names.items() if name in by_name}

    def model(self, nodes: list[Node], outputs: Iterable[Value], info: Graph) -> ModelProto:
        """The model: what ``nodes`` use and do not define becomes an input or an initializer."""
        from onnx import FunctionProto, ModelProto

        model = ModelProto(ir_version=10)
        model.functions.extend(FunctionProto.FromString(item) for item in info.info.functions)
        domains = {node.domain for node in _walk(nodes)} | set(info.info.opsets)
        for domain in sorted(domains | {""}):
            version = info.info.opsets.get(domain, 1) if domain else PINNED_OPSET
            model.opset_import.add(domain=domain, version=version)
        self.nodes(nodes, model.graph)
        for value in tuple(self.given):
            self.provide(value, model.graph)
        for value in outputs:
            if value in self.names:
                model.graph.output.add(name=self.names[value])
        return model

    def name(self, value: Value) -> str:
        """The name of a value here; values' own names need not be unique while a pass runs."""
        return self.names.setdefault(value, f"v{len(self.names)}")

    def use(self, value: Value | None) -> str:
        """The name of an operand; one that nothing has defined so far is given from outside."""
        if value is None:
            return ""
        if value not in self.names:
            self.given[value] = None
        return self.name(value)

    def nodes(self, nodes: Iterable[Node], into: GraphProto) -> None:
        """Write nodes and what is known of the types of their results."""
        for node in nodes:
            if node.outputs and all(value in self.known for value in node.outputs):
                for value in node.outputs:
                    self.name(value)
                    self.constant(value, self.known[value], into)
                continue
            written = self.node(node)
            for value in node.outputs:
                self.name(value)
                self.declare(value, into)
            if written is not None:
                into.node.append(written)

    def node(self, node: Node) -> NodeProto | None:
        """One node; None for an op of the integer dialect that shapes do not pass through."""
        from onnx import NodeProto, helper

        if node.domain == "q":
            stand_in, type = _STAND_INS.get(node.op), node.output.type
            if stand_in is None or not isinstance(type, TensorType) or type.storage == UNDEFINED:
                return None
            proto = NodeProto(op_type=stand_in, input=[self.use(node.operand(0))])
            if stand_in == "Cast":
                code = _element_code(type.storage)
                proto.attribute.append(helper.make_attribute("to", code))
        else:
            proto = NodeProto(op_type=node.op_type, domain=node.domain, overload=node.overload)
            proto.input.extend(self.use(value) for value in node.inputs)
            for name, value in node.attributes.items():
                proto.attribute.append(self.attribute(node, name, value))
        proto.name = node.label
        proto.output.extend(self.name(value) if value.name else "" for value in node.outputs)
        return proto

    def attribute(self, node: Node, name: str, value: Attribute) -> AttributeProto:
        """One attribute; tensors of many elements lose their data, graphs become skeletons."""
        from onnx import AttributeProto, helper

        if isinstance(value, RawAttribute):
            kept: AttributeProto = AttributeProto.FromString(value.proto)
            return kept
        found = schema(node.op_type, node.domain)
        kind = None
        if found is not None and name in found.attributes:
            kind = int(found.attributes[name].type.value)
        if isinstance(value, (list, tuple)):
            items = [self.plain(item) for item in value]
            return helper.make_attribute(name, items, attr_type=kind or _list_kind(items))
        if kind == AttributeProto.FLOAT:
            value = float(value)
        return helper.make_attribute(name, self.plain(value))

    def plain(self, value: Attribute) -> Any:
        """An attribute value as ``onnx.helper.make_attribute`` takes it."""
        if isinstance(value, Graph):
            return self.body(value)
        if isinstance(value, np.ndarray):
            return _tensor("", value)
        return value

    def body(self, graph: Graph) -> GraphProto:
        """A control-flow body; its big constants are given by the outermost graph."""
        from onnx import GraphProto

        proto = GraphProto(name=graph.name)
        for value in graph.inputs:
            self.name(value)
            self.declare(value, proto, as_input=True)
        for value in graph.constants.values():
            data = constant_array(value)
            if data is not None and data.size <= SMALL_CONSTANT:
                self.name(value)
                self.constant(value, data, proto)
        self.nodes(graph.nodes, proto)
        for value in graph.outputs:
            proto.output.add(name=self.use(value))
            self.fill_type(value.type, proto.output[-1].type)
        return proto

    def provide(self, value: Value, into: GraphProto) -> None:
        """A value from outside: small constants with their data, all others as inputs."""
        data = self.known.get(value, constant_array(value))
        if data is not None and data.size <= SMALL_CONSTANT:
            self.constant(value, data, into)
        else:
            self.declare(value, into, as_input=True)

    def constant(self, value: Value, data: Array, into: GraphProto) -> None:
        """An initializer."""
        into.initializer.append(_tensor(self.names[value], data))

    def declare(self, value: Value, into: GraphProto, *, as_input: bool = False) -> None:
        """Write the type of a value, as far as it is known."""
        if not as_input and value.type == UNKNOWN:
            return
        info = (into.input if as_input else into.value_info).add(name=self.names[value])
        self.fill_type(value.type, info.type)

    def fill_type(self, type: ValueType, into: TypeProto) -> None:
        """Write a type; a quantized tensor has the element of its storage."""
        if isinstance(type, OpaqueType):
            into.ParseFromString(type.proto)
            return
        if type.storage == UNDEFINED:
            return
        into.tensor_type.elem_type = _element_code(type.storage)
        if type.shape is None:
            return
        into.tensor_type.shape.SetInParent()
        for dim in type.shape:
            entry = into.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            elif dim is not None:
                entry.dim_param = dim


def _walk(nodes: Iterable[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        for body in node.subgraphs:
            yield from body.walk()


def _list_kind(items: list[Any]) -> int | None:
    """The kind of an empty list of unknown kind; onnx finds that of others."""
    from onnx import AttributeProto

    return None if items else int(AttributeProto.INTS)


def _tensor(name: str, data: Array) -> TensorProto:
    from onnx import TensorProto, numpy_helper

    if data.size <= SMALL_CONSTANT:
        return numpy_helper.from_array(np.ascontiguousarray(data).reshape(data.shape), name)
    element = "string" if data.dtype == object else str(data.dtype)
    return TensorProto(name=name, dims=data.shape, data_type=_element_code(element))


def _element_code(element: str) -> int:
    from onnx import TensorProto, helper

    if element == "string":
        return int(TensorProto.STRING)
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(element)))


def _element_name(code: int) -> str:
    from onnx import TensorProto, helper

    if code in (TensorProto.UNDEFINED, TensorProto.STRING):
        return "string" if code else UNDEFINED
    return str(helper.tensor_dtype_to_np_dtype(code).name)


def _declared_types(graph: GraphProto) -> Iterator[tuple[str, ValueType]]:
    for info in (*graph.input, *graph.output, *graph.value_info):
        yield info.name, _read_type(info.type)
    for node in graph.node:
        for item in node.attribute:
            for body in ([item.g] if item.HasField("g") else []) + list(item.graphs):
                yield from _declared_types(body)


def _read_type(proto: TypeProto) -> ValueType:
    kind = proto.WhichOneof("value")
    if kind is None:
        return UNKNOWN
    if kind != "tensor_type":
        return OpaqueType(proto.SerializeToString(deterministic=True))
    tensor = proto.tensor_type
    shape: Shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in tensor.shape.dim
        )
    return TensorType(shape, _element_name(tensor.elem_type))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")


# -- shape computations ----------------------------------------------------------------------------


def _evaluate_known(graph: Graph, known: dict[Value, Array]) -> bool:
    """Evaluate what depends on known shapes and small constants only; True if anything is new."""
    found = False
    for node in graph.nodes:
        if node.domain or node.subgraphs or node.op_type in _NOT_EVALUATED or not node.outputs:
            continue
        if any(value in known for value in node.outputs):
            continue
        results = _shape_result(node) or _reference_result(node, known)
        if results is not None:
            found = True
            for value, data in zip(node.outputs, results, strict=True):
                known[value] = data
                _update(value, _type_of(data))
    return found


def _type_of(data: Array) -> TensorType:
    return TensorType(tuple(data.shape), "string" if data.dtype.kind in "OUS" else str(data.dtype))


def _shape_result(node: Node) -> list[Array] | None:
    """The result of Shape or Size of a tensor of static shape."""
    if node.op_type not in ("Shape", "Size"):
        return None
    type = node.operand(0).type
    if not isinstance(type, TensorType) or not type.is_static:
        return None
    dims = np.asarray(type.static_shape, np.int64)
    if node.op_type == "Size":
        return [np.asarray(np.prod(dims, dtype=np.int64))]
    return [dims[slice(attribute(node, "start") or 0, attribute(node, "end"))]]


def _reference_result(node: Node, known: Mapping[Value, Array]) -> list[Array] | None:
    feeds: dict[str, Array] = {}
    skeleton = _Skeleton({})
    for value in node.inputs:
        data = None if value is None else known.get(value, constant_array(value))
        if value is None:
            continue
        if data is None or data.size > SMALL_CONSTANT:
            return None
        feeds[skeleton.name(value)] = data
    if schema(node.op_type) is None or (not feeds and node.op_type != "Constant"):
        return None
    proto = skeleton.node(node)
    if proto is None:
        return None
    return _run_reference(proto, feeds)


def _run_reference(proto: NodeProto, feeds: Mapping[str, Array]) -> list[Array] | None:
    from onnx import defs
    from onnx.reference import ReferenceEvaluator

    found = defs.get_schema(proto.op_type, PINNED_OPSET)
    try:
        evaluator = ReferenceEvaluator(proto, opsets={"": PINNED_OPSET})
        results = [np.asarray(item) for item in evaluator.run(None, dict(feeds))]
    except Exception:
        # onnx.reference raises whatever its numpy code raises; a shape that is not known for that
        # is no error, the types just stay open.
        return None
    fits = len(results) >= found.min_output and all(r.size <= SMALL_CONSTANT for r in results)
    return results if fits else None
