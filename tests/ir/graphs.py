"""Random graphs with everything that the text form can hold."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qcc.ir.core import Graph, ModelInfo, Node, RawAttribute, Stage, Value
from qcc.ir.types import UNDEFINED, OpaqueType, Quant, TensorType

NAMES = st.one_of(
    st.sampled_from(["x", "/layer1/0/conv", "a:0", "onnx::Conv_12", "1.2", "_", "-", "a b", "f32"]),
    st.text(min_size=1, max_size=6),
)
TEXTS = st.text(max_size=8)
METADATA = st.dictionaries(TEXTS, TEXTS, max_size=2)
WORDS = st.one_of(st.sampled_from(["N", "unk__0", "N + 1", "?", "*", "inf", "true"]), NAMES)
SCALES = st.floats(2.0**-100, 2.0**100, width=32)
ELEMENTS = [
    *("float32", "float16", "float64", "bfloat16", "int64", "int32", "int8", "uint8", "uint64"),
    *("bool", "int4", "uint4", "float8_e4m3fn", "complex64"),
]


def dtype_of(element: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, element, element))


@st.composite
def quants(draw: st.DrawFn, channels: int | None = None) -> Quant:
    storage = draw(st.sampled_from(["int8", "uint8", "int32", "int4", "uint16"]))
    zero = st.integers(0, 7)
    bounds = draw(st.sampled_from([(None, None), (1, None), (0, 5)]))
    if channels is None:
        return Quant(storage, (draw(SCALES),), (draw(zero),), None, *bounds)
    scale = draw(st.lists(SCALES, min_size=channels, max_size=channels))
    zeros = draw(st.lists(zero, min_size=channels, max_size=channels))
    if draw(st.booleans()):
        zeros = [zeros[0]] * channels
    return Quant(storage, tuple(scale), tuple(zeros), draw(st.integers(0, 2)), *bounds)


@st.composite
def types(draw: st.DrawFn) -> Any:
    if draw(st.integers(0, 9)) == 0:
        return OpaqueType(draw(st.binary(max_size=6)))
    dims = st.one_of(st.integers(0, 2**40), st.none(), WORDS)
    shape = draw(st.one_of(st.none(), st.lists(dims, max_size=4).map(tuple)))
    element: Any = draw(st.sampled_from([*ELEMENTS, "string", UNDEFINED]))
    if draw(st.booleans()):
        element = draw(quants(draw(st.sampled_from([None, 1, 3, 6]))))
    return TensorType(shape, element, draw(st.sampled_from([None, "nhwc", "a layout"])))


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    element = draw(st.sampled_from([*ELEMENTS, "string"]))
    if element == "string":
        return draw(hnp.arrays(object, shape, elements=st.one_of(TEXTS, st.binary(max_size=3))))
    dtype = dtype_of(element)
    if element in ("int4", "uint4"):
        return draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 7))).astype(dtype)
    raw = draw(hnp.arrays(np.uint8, (*shape, dtype.itemsize)))
    if element == "bool":
        return np.asarray(raw[..., 0] & 1).astype(bool)
    return np.ascontiguousarray(raw).view(dtype).reshape(shape)


def scalars() -> st.SearchStrategy[Any]:
    float32 = st.floats(width=32)
    integers = st.integers(-(2**63), 2**63 - 1)
    raw = st.binary(max_size=5).map(RawAttribute)
    return st.one_of(
        integers, float32, st.floats(), TEXTS, st.binary(max_size=5), raw, st.none(), st.booleans()
    )


def attributes() -> st.SearchStrategy[Any]:
    numbers = st.lists(st.integers(-5, 5), max_size=4)
    floats = st.lists(st.floats(width=32), max_size=3)
    return st.one_of(
        scalars(),
        arrays(),
        numbers,
        floats,
        st.lists(TEXTS, max_size=3),
        st.lists(arrays(), min_size=1, max_size=2),
    )


@st.composite
def graphs(draw: st.DrawFn, depth: int = 1) -> Graph:
    graph = Graph(draw(NAMES))
    graph.stage = draw(st.sampled_from(Stage))
    graph.info = ModelInfo(
        draw(st.dictionaries(TEXTS, st.integers(1, 30), max_size=2)),
        draw(st.sampled_from([10, 8])),
        *draw(st.tuples(TEXTS, TEXTS, TEXTS)),
        draw(st.integers(0, 3)),
        draw(TEXTS),
        draw(METADATA),
        draw(st.lists(st.binary(max_size=4), max_size=2)),
        draw(st.lists(TEXTS, max_size=2)),
        draw(st.binary(max_size=3)),
    )
    fill(draw, graph, [], depth)
    return graph


def fill(draw: st.DrawFn, graph: Graph, around: list[Value], depth: int) -> None:
    """Fill a graph; ``around`` are the values that a body may use."""
    graph.doc, graph.metadata = draw(TEXTS), draw(METADATA)
    known = list(around)

    def describe(value: Value) -> Value:
        value.doc, value.metadata = draw(TEXTS), draw(METADATA)
        known.append(value)
        return value

    for _ in range(draw(st.integers(0, 2))):
        describe(graph.add_input(graph.fresh_name(draw(NAMES)), draw(types())))
    for _ in range(draw(st.integers(0, 2))):
        data = draw(arrays())
        type = draw(st.one_of(st.none(), types()))
        describe(graph.add_constant(graph.fresh_name(draw(NAMES)), data, type))
    for _ in range(draw(st.integers(0, 3))):
        add_node(draw, graph, known, depth, describe)
    if known:
        graph.set_outputs(draw(st.lists(st.sampled_from(known), max_size=2)))


def add_node(draw: st.DrawFn, graph: Graph, known: list[Value], depth: int, describe: Any) -> None:
    op_types = ["Conv", "aten::add", "a.b", "const", "return", "Grüße", ""]
    node = Node(
        draw(st.sampled_from(op_types)),
        draw(st.sampled_from(["", "q", "com.microsoft", "a b"])),
        draw(st.one_of(st.just(""), NAMES)),
    )
    node.overload, node.doc, node.metadata = draw(TEXTS), draw(TEXTS), draw(METADATA)
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        node.attributes[name] = draw(attributes())
        if depth and draw(st.integers(0, 3)) == 0:
            body = Graph(draw(NAMES), graph)
            fill(draw, body, known, depth - 1)
            node.attributes[name] = draw(st.sampled_from([body, [body]]))
    operands = st.one_of(st.none(), st.sampled_from(known)) if known else st.none()
    graph._set_inputs(node, draw(st.lists(operands, max_size=3)))
    for index in range(draw(st.integers(0, 2))):
        name = graph.fresh_name(draw(NAMES)) if draw(st.integers(0, 5)) else ""
        value = Value(name, draw(types()), producer=node, index=index)
        node.outputs = (*node.outputs, value)
    graph.insert_node(node)
    for value in node.outputs:
        if value.name:
            describe(value)
