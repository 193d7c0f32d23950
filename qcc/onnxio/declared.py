"""Shapes that a model declares against those that its nodes give.

onnxruntime runs a model whose declared shapes are wrong (it warns and merges leniently), so qcc
does as well: shape inference is the truth, and a declaration that contradicts it is replaced.  What
inference leaves open is taken from the declaration; a symbolic or unknown dimension that a model
declares is compatible with anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ValueInfoProto

from qcc.ir.types import Dim, Shape, TensorType
from qcc.onnxio.typeinfo import INVENTED, read_type, write_type

MOST_NOTES = 4
"""Contradictions that are told one by one; of further ones only the number is told."""

_UNNAMED = "an unnamed dimension of an input "
"""How dimensions of inputs without a name are called while shapes are compared."""


def undeclared(graph: GraphProto) -> frozenset[str]:
    """Remove in place what ``graph`` and its bodies declare of their nodes' results.

    Every open dimension of the main graph's inputs gets a name; returns these names.
    """
    names: dict[str, None] = {}
    for item in graph.input:
        for dim in item.type.tensor_type.shape.dim:
            if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
                continue
            dim.dim_param = dim.dim_param or f"{_UNNAMED}{len(names)}"
            names[dim.dim_param] = None
    _strip(graph)
    return frozenset(names)


def _strip(graph: GraphProto) -> None:
    given = {item.name for item in graph.input} | {item.name for item in graph.initializer}
    del graph.value_info[:]
    for item in graph.output:
        if item.name not in given:
            item.ClearField("type")
    for body in _bodies(graph):
        _strip(body)


def correct_declarations(
    declared: GraphProto, computed: GraphProto, symbols: frozenset[str]
) -> list[str]:
    """Replace in place the shapes in ``declared`` that ``computed`` contradicts.

    ``computed`` is the same graph after inference without declarations, ``symbols`` the open
    dimensions of the main graph's inputs: a result that has one cannot have a fixed size there.
    Returns sentences, those about outputs first.
    """
    outputs = [item.name for item in declared.output]
    sentences = dict(_corrections(declared, computed, symbols))
    ordered = [sentences[name] for name in outputs if name in sentences]
    ordered += [words for name, words in sentences.items() if name not in outputs]
    more = len(ordered) - MOST_NOTES
    if more <= 0:
        return ordered
    return [*ordered[:MOST_NOTES], f"the model declares {more} more values with wrong shapes"]


def _corrections(
    declared: GraphProto, computed: GraphProto, symbols: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """The names of corrected values and what is to be said of them."""
    shapes = {
        item.name: _shape(item)
        for item in (*computed.input, *computed.output, *computed.value_info)
    }
    for item in (*declared.value_info, *declared.output):
        before, truth = _shape(item), shapes.get(item.name)
        after = _corrected(before, truth, symbols)
        if after == before:
            continue
        _give_shape(item, after)
        yield (
            item.name,
            f"the model declares '{item.name}' as {_text(before)}, but its nodes give "
            f"{_text(after)}, which is used: correct or remove the declaration",
        )
    for body, twin in zip(_bodies(declared), _bodies(computed), strict=True):
        yield from _corrections(body, twin, symbols)


def _corrected(declared: Shape, truth: Shape, symbols: frozenset[str]) -> Shape:
    """``declared``, or ``truth`` where they contradict: what is wrong once is not trusted."""
    if declared is None or truth is None:
        return declared
    fits = len(declared) == len(truth) and not any(
        _contradict(a, b, symbols) for a, b in zip(declared, truth, strict=True)
    )
    return declared if fits else tuple(map(_public, truth))


def _contradict(declared: Dim, truth: Dim, symbols: frozenset[str]) -> bool:
    if not isinstance(declared, int):
        return False
    return truth != declared if isinstance(truth, int) else truth in symbols


def _public(dim: Dim) -> Dim:
    """A dimension without a name that this comparison or onnx made up."""
    invented = isinstance(dim, str) and (dim.startswith(_UNNAMED) or INVENTED.fullmatch(dim))
    return None if invented else dim


def _shape(item: ValueInfoProto) -> Shape:
    type = read_type(item.type)
    return type.shape if isinstance(type, TensorType) else None


def _give_shape(item: ValueInfoProto, shape: Shape) -> None:
    type = read_type(item.type)
    assert isinstance(type, TensorType)
    written = write_type(TensorType(shape, type.element))
    if written is None:
        item.ClearField("type")
    else:
        item.type.CopyFrom(written)


def _text(shape: Shape) -> str:
    dims: Iterable[Dim] = shape or ()
    return f"[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def bodies_of(attribute: AttributeProto) -> list[GraphProto]:
    """The graphs in an attribute."""
    return [attribute.g] if attribute.HasField("g") else list(attribute.graphs)


def _bodies(graph: GraphProto) -> Iterator[GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            yield from bodies_of(attribute)
