"""Make symbolic dimensions integers: native code is compiled for known shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from qcc.errors import ConfigError, DataError
from qcc.ir.core import Graph, Value
from qcc.ir.infer import infer_shapes
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Dim, TensorType
from qcc.passes.fold_constants import FoldConstants
from qcc.passes.manager import Pass


@dataclass(frozen=True)
class Specialize(Pass):
    """Bind dimensions by name: ``specialize{dimensions=[N=1,H=224]}``."""

    name: ClassVar[str] = "specialize"
    exact: ClassVar[bool] = True

    dimensions: tuple[str, ...] = ()

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` in place; raises ConfigError for a dimension that it does not have."""
        bindings = parse_dimensions(self.dimensions)
        known = input_symbols(graph)
        for name in bindings:
            if name not in known:
                raise ConfigError(
                    f"There is no dimension '{name}' among the inputs'; "
                    f"they are {', '.join(known) or 'all integers'}."
                )
        bind_dimensions(graph, bindings, rewriter)


def input_symbols(graph: Graph) -> list[str]:
    """The names of the symbolic dimensions of the graph's inputs, in order."""
    found: dict[str, None] = {}
    for value in graph.inputs:
        if isinstance(value.type, TensorType):
            found.update({dim: None for dim in value.type.shape or () if isinstance(dim, str)})
    return list(found)


def parse_dimensions(items: Iterable[str]) -> dict[str, int]:
    """``["N=1", "H=224"]`` as a dict; raises ConfigError."""
    bindings: dict[str, int] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not value.strip().isdigit() or int(value) < 1:
            raise ConfigError(f"'{item}' binds no dimension; write name=value, such as N=1.")
        bindings[name.strip()] = int(value)
    return bindings


def specialize_graph(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """A copy of ``graph`` with the given input shapes (input name to integers).

    Symbols take the values that the shapes give them, everywhere in the graph; inputs that are not
    named keep what is left open.  All types are inferred again and what became constant is folded.
    Raises :class:`DataError` for an unknown input, a wrong rank, or sizes that the model denies.
    """
    copy = graph.clone()
    inputs = {value.name: value for value in copy.inputs}
    bindings: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in inputs:
            raise DataError(f"There is no input '{name}'; the inputs are {', '.join(inputs)}.")
        _bind_input(inputs[name], shape, bindings)
    bind_dimensions(copy, bindings, Rewriter(copy))
    return copy


def _bind_input(value: Value, shape: tuple[int, ...], bindings: dict[str, int]) -> None:
    """Set the shape of one input and learn what its symbols stand for."""
    dims = value.tensor.shape
    if dims is not None and len(dims) != len(shape):
        raise DataError(
            f"Input '{value.name}' has {len(dims)} dimensions, not the {len(shape)} of {shape}."
        )
    for dim, size in zip(dims or shape, shape, strict=True):
        if isinstance(dim, int) and dim != size:
            raise DataError(f"Input '{value.name}' is {_text(dims)} in the model, not {shape}.")
        if isinstance(dim, str) and bindings.setdefault(dim, size) != size:
            raise DataError(
                f"Dimension '{dim}' cannot be both {bindings[dim]} and {size} "
                f"(input '{value.name}'); give shapes that agree."
            )
    value.type = value.tensor.with_shape(tuple(shape))


def _text(dims: tuple[Dim, ...] | None) -> str:
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims or ()) + "]"


def bind_dimensions(graph: Graph, bindings: Mapping[str, int], rewriter: Rewriter) -> None:
    """Replace symbols by integers in every type, infer the rest, fold what became constant."""
    for value in every_value(graph):
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            bound = tuple(
                bindings.get(dim, dim) if isinstance(dim, str) else dim for dim in value.type.shape
            )
            rewriter.set_type(value, value.type.with_shape(bound))
    infer_shapes(graph)
    FoldConstants().run(graph, rewriter)


def every_value(graph: Graph) -> Iterator[Value]:
    """The values of ``graph`` and of all its subgraphs."""
    yield from graph.values()
    for node in graph.nodes:
        for body in node.subgraphs:
            yield from every_value(body)
