"""Graph to text (``.qir``).  ``docs/ir.md`` has the grammar; :mod:`qcc.ir.parse` reads it back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

import numpy as np

from qcc.ir.core import Array, Attribute, Graph, ModelInfo, Node, RawAttribute, Stage, Value
from qcc.ir.syntax import (
    ALIAS_ENTRIES,
    BARE_WORD,
    INLINE_ELEMENTS,
    STATEMENTS,
    array_element,
    base64_text,
    digest,
    element_word,
    float32_text,
    float_text,
    named,
    quoted,
    quoted_bytes,
    raw_data,
    word,
)
from qcc.ir.types import Dim, OpaqueType, Quant, TensorType, ValueType

_CARETS = 60
"""At most so many carets are drawn under a node."""


def print_graph(
    graph: Graph, *, resources: bool = False, notes: Mapping[Node, str] | None = None
) -> str:
    """The text of ``graph``.

    Big constants are digests; ``resources=True`` appends their data, so that the text can be
    parsed.  ``notes`` are messages to draw under nodes, as comments.
    """
    return _Printer(notes or {}).text(graph, resources)


def print_type(type: ValueType) -> str:
    """The text of one type, per-channel parameters in full."""
    return _Printer({}, aliases=False).type(type)


def print_node(node: Node) -> str:
    """The text of one node, without the data of big constants and bodies' indentation."""
    return "\n".join(_Printer({}, aliases=False).node(node))


class _Printer:
    """Collects what goes to the end of the text (aliases, resources) while it prints."""

    def __init__(self, notes: Mapping[Node, str], *, aliases: bool = True) -> None:
        self.notes = notes
        self.use_aliases = aliases
        self.aliases: dict[tuple[tuple[float, ...], tuple[int, ...]], str] = {}
        self.resources: dict[str, Array] = {}

    def text(self, graph: Graph, resources: bool) -> str:
        """The whole text."""
        lines = [*self.model(graph.info), *self.graph(graph)]
        for (scale, zero_point), alias in self.aliases.items():
            parameters = f"scale={_list(map(float32_text, scale))}"
            lines.append(f"#{alias} = {{{parameters}, zero_point={_zero_points(zero_point)}}}")
        if resources and self.resources:
            lines.append("resources {")
            for key, data in self.resources.items():
                lines.append(f"  @blake2:{key} = {base64_text(raw_data(data))}")
            lines.append("}")
        return "\n".join(lines) + "\n"

    # -- graphs ------------------------------------------------------------------------------------

    def model(self, info: ModelInfo) -> list[str]:
        """What the model carries around the graph and differs from the defaults."""
        default = ModelInfo()
        entries = []
        for field in fields(ModelInfo):
            value = getattr(info, field.name)
            if field.name != "opsets" and value != getattr(default, field.name):
                entries.append(f"{field.name}={_model_value(value)}")
        return [f"model {{{', '.join(entries)}}}"] if entries else []

    def graph(self, graph: Graph) -> list[str]:
        """A graph or body; the lines of its inside are indented by two spaces."""
        head = [f"graph @{named(graph.name)}"]
        if graph.parent is None or graph.stage is not Stage.FLOAT:
            head.append(f"stage({graph.stage.value})")
        if graph.parent is None and graph.info.opsets:
            opsets = (f"{quoted(k)}: {v}" for k, v in graph.info.opsets.items())
            head.append(f"opsets{{{', '.join(opsets)}}}")
        head.append(f"({', '.join(map(self.declaration, graph.inputs))})")
        head.extend(_extras(graph.doc, graph.metadata))
        lines = [
            f"const {self.declaration(value)} = {self.constant(value)}"
            for value in graph.constants.values()
        ]
        for node in graph.nodes:
            lines.extend(self.node(node))
        outputs = ", ".join(f"%{named(value.name)}" for value in graph.outputs)
        lines.append(f"return {outputs}".rstrip())
        return [" ".join(head) + " {", *(f"  {line}" if line else line for line in lines), "}"]

    def declaration(self, value: Value) -> str:
        """A value where it is defined: name, type, doc string, metadata."""
        parts = [f"%{named(value.name)}: {self.type(value.type)}"]
        return " ".join([*parts, *_extras(value.doc, value.metadata)])

    def constant(self, value: Value) -> str:
        """The data of an initializer; its element and shape only where the type has others."""
        data = np.asarray(value.constant)
        type = value.type
        fits = isinstance(type, TensorType) and (type.storage, type.shape) == (
            array_element(data),
            tuple(data.shape),
        )
        return self.data(data) if fits else self.tensor(data)

    # -- nodes -------------------------------------------------------------------------------------

    def node(self, node: Node) -> list[str]:
        """A node; several lines where it has bodies, and one more where a note is drawn."""
        outputs = ", ".join(map(self.declaration, node.outputs))
        operands = ", ".join("_" if v is None else f"%{named(v.name)}" for v in node.inputs)
        lines = [(f"{outputs} = " if outputs else "") + f"{_op(node)}({operands})"]
        if node.attributes:
            lines[-1] += " {"
            for index, (name, value) in enumerate(node.attributes.items()):
                lines[-1] += f"{', ' if index else ''}{word(name)}="
                _append(lines, self.attribute(value))
            lines[-1] += "}"
        tail = [quoted(node.name)] if node.name else []
        tail += [f"overload {quoted(node.overload)}"] if node.overload else []
        lines[-1] = " ".join([lines[-1], *tail, *_extras(node.doc, node.metadata)])
        note = self.notes.get(node)
        if note is not None:
            carets = "^" * min(len(lines[0]), _CARETS)
            lines.extend([f"// {carets}", *(f"// {part}" for part in note.splitlines())])
        return lines

    def attribute(self, value: Attribute) -> list[str]:
        """An attribute value, as lines."""
        if isinstance(value, Graph):
            return self.graph(value)
        if isinstance(value, (list, tuple)):
            lines = ["["]
            for index, item in enumerate(value):
                lines[-1] += ", " if index else ""
                _append(lines, self.attribute(item))
            lines[-1] += "]"
            return lines
        return [self.tensor(value) if isinstance(value, np.ndarray) else _scalar(value)]

    # -- data --------------------------------------------------------------------------------------

    def tensor(self, data: Array) -> str:
        """Data with their element and shape in front."""
        type = TensorType(tuple(data.shape), array_element(data))
        return f"{self.type(type)} {self.data(data)}"

    def data(self, data: Array) -> str:
        """Data alone: written out where they are few, else a digest."""
        if data.size > INLINE_ELEMENTS:
            key = digest(data)
            self.resources[key] = data
            return f"@blake2:{key}"
        items = _elements(data)
        if items is None:
            return f'hex "{raw_data(data).hex()}"'
        return f"dense<{_list(items)}>"

    # -- types -------------------------------------------------------------------------------------

    def type(self, type: ValueType) -> str:
        """A type."""
        if isinstance(type, OpaqueType):
            return f"opaque {base64_text(type.proto)}"
        element = type.element
        head = self.quant(element) if isinstance(element, Quant) else element_word(element)
        dims = "*" if type.shape is None else ",".join(map(_dim, type.shape))
        layout = "" if type.layout is None else f" layout({word(type.layout)})"
        return f"{head}[{dims}]{layout}"

    def quant(self, quant: Quant) -> str:
        """A quantized element: storage, parameters, axis, bounds."""
        parts = [self.parameters(quant)]
        for name in ("axis", "low", "high"):
            value = getattr(quant, name)
            if value is not None:
                parts.append(f"{name}={value}")
        return f"{element_word(quant.storage)}<{', '.join(parts)}>"

    def parameters(self, quant: Quant) -> str:
        """Scale and zero point, or the alias that stands for them."""
        if quant.axis is None:
            return f"{float32_text(quant.scale[0])}, {quant.zero_point[0]}"
        if self.use_aliases and len(quant.scale) > ALIAS_ENTRIES:
            key = (quant.scale, quant.zero_point)
            return "#" + self.aliases.setdefault(key, f"q{len(self.aliases)}")
        return f"{_list(map(float32_text, quant.scale))}, {_zero_points(quant.zero_point)}"


def _append(lines: list[str], more: Sequence[str]) -> None:
    """Append ``more`` so that its first line continues the last one."""
    lines[-1] += more[0]
    lines.extend(more[1:])


def _list(items: Iterable[str]) -> str:
    return f"[{', '.join(items)}]"


def _op(node: Node) -> str:
    """The op with its domain; quoted in two parts where it would not read back so."""
    if "." in node.op_type or not BARE_WORD.fullmatch(node.op) or node.op in STATEMENTS:
        return f"{quoted(node.domain)}::{quoted(node.op_type)}"
    return node.op


def _extras(doc: str, metadata: Mapping[str, str]) -> Iterator[str]:
    if doc:
        yield f"doc {quoted(doc)}"
    if metadata:
        yield f"meta{_mapping(metadata)}"


def _mapping(entries: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{quoted(k)}: {quoted(v)}" for k, v in entries.items()) + "}"


def _model_value(value: object) -> str:
    if isinstance(value, dict):
        return f"meta{_mapping(value)}"
    if isinstance(value, list):
        return _list(map(_model_value, value))
    return f"raw {base64_text(value)}" if isinstance(value, bytes) else _scalar(value)


def _scalar(value: Attribute) -> str:
    if value is None or isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        return float_text(float(value))
    if isinstance(value, RawAttribute):
        return f"raw {base64_text(value.proto)}"
    if isinstance(value, bytes):
        return quoted_bytes(value)
    if isinstance(value, str):
        return quoted(value)
    raise TypeError(f"an attribute holds a {type(value).__name__}, which has no text form")


def _elements(data: Array) -> list[str] | None:
    """The elements as text, row-major; None where text would not be exact (NaN, complex)."""
    element = array_element(data)
    flat = np.asarray(data).reshape(-1)
    if element == "string":
        return [_scalar(item if isinstance(item, bytes) else str(item)) for item in flat]
    if element == "bool":
        return [str(bool(item)).lower() for item in flat]
    if data.dtype.kind in "iu" or "int" in element:
        return [str(int(item)) for item in flat]
    if data.dtype.kind == "c" or any(float(item) != float(item) for item in flat):
        return None
    text = float32_text if element == "float32" else _exact
    return [text(float(item)) for item in flat]


def _exact(number: float) -> str:
    return repr(number)


def _dim(dim: Dim) -> str:
    return "?" if dim is None else word(dim) if isinstance(dim, str) else str(dim)


def _zero_points(zero_points: tuple[int, ...]) -> str:
    if len(set(zero_points)) == 1:
        return str(zero_points[0])
    return _list(map(str, zero_points))
