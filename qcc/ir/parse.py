"""Text (``.qir``) to graph: recursive descent over the tokens.  ``docs/ir.md`` has the grammar.

Values must be defined before they are used; bodies see the values of the graphs around them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from qcc.ir.core import Array, Attribute, Graph, ModelInfo, Node, RawAttribute, Stage, Value
from qcc.ir.lexer import Source, Token
from qcc.ir.parse_types import TypeParser
from qcc.ir.syntax import array_of, digest, from_raw_data, number_of
from qcc.ir.types import TensorType, ValueType

_STAGES = {stage.value: stage for stage in Stage}
_CONSTANT_WORDS: Mapping[str, Any] = {
    "true": True,
    "false": False,
    "none": None,
    "inf": float("inf"),
    "nan": float("nan"),
}
_MODEL_FIELDS = {field.name for field in fields(ModelInfo)} - {"opsets"}


def parse_graph(text: str) -> Graph:
    """The graph that ``text`` describes.

    Raises :class:`qcc.errors.ParseError` with line and column for text that is not well formed, and
    naming the constant for a digest whose data the text does not hold.
    """
    return _Parser(Source(text)).module()


def parse_type(text: str) -> ValueType:
    """The type that ``text`` describes; raises ParseError."""
    parser = _Parser(Source(text))
    type = parser.type()
    parser.expect_end()
    return type


@dataclass
class _Scope:
    """The values that can be named in a graph, and the scope around it."""

    values: dict[str, Value]
    outer: _Scope | None = None

    def find(self, name: str) -> Value | None:
        """The innermost value called ``name``."""
        if name in self.values:
            return self.values[name]
        return None if self.outer is None else self.outer.find(name)


class _Parser(TypeParser):
    """The whole grammar."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.data_of: dict[str, tuple[bytes, Token]] = {}

    def module(self) -> Graph:
        """Everything: model, graph, aliases, resources."""
        self.read_ahead()
        info = ModelInfo()
        if self.take("model"):
            self.model(info)
        graph = Graph()
        graph.info = info
        self.graph(graph, None)
        while self.next.kind == "name":
            self.alias()
        if self.at("resources"):
            self.resources()
        self.expect_end()
        return graph

    def read_ahead(self) -> None:
        """Read aliases and resources, which stand at the end and are used before."""
        tokens = self.source.tokens
        for index, token in enumerate(tokens[:-1]):
            self.position = index
            if token.kind == "name" and token.text[0] == "#" and tokens[index + 1].text == "=":
                self.alias()
            elif token.text == "resources" and index and tokens[index + 1].text == "{":
                self.resources()
        self.position = 0

    def resources(self) -> None:
        """``resources { @blake2:... = "base64" }``."""
        self.expect("resources")
        self.expect("{")
        while not self.take("}"):
            token = self.expect_kind("digest", "a digest")
            self.expect("=")
            self.data_of[token.text] = (self.base64(), token)

    def model(self, info: ModelInfo) -> None:
        """``{ir_version=8, producer_name="pytorch", ...}``."""
        for token, name, value in self.sequence("{", self.model_entry, "}"):
            if name not in _MODEL_FIELDS or not _fits(value, getattr(info, name)):
                raise self.error(f"A model has no '{name}' of this kind.", token)
            setattr(info, name, value)

    def model_entry(self) -> tuple[Token, str, Any]:
        """One field."""
        token = self.next
        name = self.word("a field of the model")
        self.expect("=")
        return token, name, self.model_value()

    def model_value(self) -> Any:
        """A scalar, a list, bytes, or a mapping."""
        if self.take("meta"):
            return self.mapping()
        if self.at("["):
            return self.sequence("[", self.model_value, "]")
        return self.base64() if self.take("raw") else self.scalar()

    # -- graphs ------------------------------------------------------------------------------------

    def graph(self, graph: Graph, outer: _Scope | None) -> None:
        """Fill ``graph`` from ``graph @name ... { ... }``."""
        self.expect("graph")
        graph.name = self.name("@", "the name of the graph").text
        if self.take("stage"):
            self.expect("(")
            token = self.next
            stage = _STAGES.get(self.word("a stage"))
            if stage is None:
                raise self.error(
                    f"There is no stage '{token.text}'; there are {', '.join(_STAGES)}.", token
                )
            graph.stage = stage
            self.expect(")")
        if self.take("opsets"):
            graph.info.opsets.update(self.sequence("{", self.opset, "}"))
        scope = _Scope({}, outer)
        found = self.sequence("(", self.declaration, ")")
        graph.inputs = tuple(self.define(item, graph, scope) for item in found)
        graph.doc, graph.metadata = self.extras()
        self.expect("{")
        while self.take("const"):
            self.constant(graph, scope)
        while not self.at("return"):
            self.node(graph, scope)
        self.expect("return")
        graph.set_outputs(self.results(scope))
        self.expect("}")

    def opset(self) -> tuple[str, int]:
        """``"domain": version``."""
        domain = self.string()
        self.expect(":")
        return domain, self.integer()

    def results(self, scope: _Scope) -> list[Value]:
        """The values behind ``return``."""
        if self.at("}"):
            return []
        found = [self.use(scope)]
        while self.take(","):
            found.append(self.use(scope))
        return found

    def declaration(self) -> tuple[Token, Value]:
        """``%name: type doc "..." meta{...}``."""
        token = self.name("%", "a value such as %x")
        self.expect(":")
        value = Value(token.text, self.type())
        value.doc, value.metadata = self.extras()
        return token, value

    def define(self, found: tuple[Token, Value], graph: Graph, scope: _Scope) -> Value:
        """From here on the value can be used; one without a name never."""
        token, value = found
        if token.text in scope.values:
            raise self.error(f"The value '%{token.text}' is defined twice.", token)
        if token.text:
            graph.reserve_name(token.text)
            scope.values[token.text] = value
        return value

    def extras(self) -> tuple[str, dict[str, str]]:
        """Doc string and metadata, if they stand here."""
        doc = self.string() if self.take("doc") else ""
        return doc, self.mapping() if self.take("meta") else {}

    def use(self, scope: _Scope) -> Value:
        """A value by its name."""
        token = self.name("%", "a value such as %x")
        value = scope.find(token.text)
        if value is None:
            raise self.error(f"The value '%{token.text}' is used before it is defined.", token)
        return value

    def constant(self, graph: Graph, scope: _Scope) -> None:
        """``const %w: f32[2] = dense<[1.0, 2.0]>``."""
        value = self.define(self.declaration(), graph, scope)
        self.expect("=")
        value.constant = self.constant_data(value)
        graph.constants[value.name] = value

    def constant_data(self, value: Value) -> Array:
        """The data of a constant, with a type of their own or in that of the constant."""
        if not self.at("dense") and not self.at("hex") and self.next.kind != "digest":
            return self.tensor(f"constant '{value.name}'")
        token = self.next
        type = value.type
        if not isinstance(type, TensorType) or not type.is_static:
            raise self.error(f"The type of constant '{value.name}' needs a static shape.", token)
        return self.data(type.storage, type.static_shape, f"constant '{value.name}'")

    # -- nodes -------------------------------------------------------------------------------------

    def node(self, graph: Graph, scope: _Scope) -> None:
        """``%y: f32[1] = Relu(%x) {attributes} "name"``."""
        outputs = self.outputs()
        domain, op_type = self.op()
        operands = self.sequence("(", lambda: self.operand(scope), ")")
        node = Node(op_type, domain)
        if self.at("{"):
            node.attributes = dict(
                self.sequence("{", lambda: self.named_attribute(graph, scope), "}")
            )
        if self.next.kind == "string" and self.source.tokens[self.position + 1].text != "::":
            node.name = self.string()
            graph.reserve_name(node.name)
        if self.take("overload"):
            node.overload = self.string()
        node.doc, node.metadata = self.extras()
        node.outputs = tuple(self.define(item, graph, scope) for item in outputs)
        for index, value in enumerate(node.outputs):
            value.producer, value.index = node, index
        graph._set_inputs(node, operands)
        graph.insert_node(node)

    def outputs(self) -> list[tuple[Token, Value]]:
        """The results of a node, up to ``=``."""
        found: list[tuple[Token, Value]] = []
        if self.next.kind != "name":
            return found
        found.append(self.declaration())
        while self.take(","):
            found.append(self.declaration())
        self.expect("=")
        return found

    def op(self) -> tuple[str, str]:
        """Domain and op type."""
        if self.next.kind == "string":
            domain = self.string()
            self.expect("::")
            return domain, self.string()
        domain, _, op_type = self.expect_kind("word", "an op").text.rpartition(".")
        return domain, op_type

    def operand(self, scope: _Scope) -> Value | None:
        """A value, or ``_`` for none."""
        return None if self.take("_") else self.use(scope)

    def named_attribute(self, graph: Graph, scope: _Scope) -> tuple[str, Attribute]:
        """``name=value``."""
        name = self.word("the name of an attribute")
        self.expect("=")
        return name, self.attribute(graph, scope, name)

    def attribute(self, graph: Graph, scope: _Scope, name: str) -> Attribute:
        """The value of an attribute."""
        if self.at("graph"):
            body = Graph(parent=graph)
            self.graph(body, scope)
            return body
        if self.at("["):
            return self.sequence("[", lambda: self.attribute(graph, scope, name), "]")
        if self.take("raw"):
            return RawAttribute(self.base64())
        if self.next.kind == "word" and self.next.text not in _CONSTANT_WORDS:
            return self.tensor(f"attribute '{name}'")
        return self.scalar()

    def scalar(self) -> Any:
        """A number, text, bytes, true, false or none."""
        token = self.advance()
        if token.kind == "number":
            return number_of(token.text)
        if token.kind == "string":
            return self.unquoted(token, token.text)
        if token.kind == "bytes":
            return self.byte_text(token)
        if token.kind == "word" and token.text in _CONSTANT_WORDS:
            return _CONSTANT_WORDS[token.text]
        self.position -= token.kind != "end"
        raise self.wrong("a number, text, a list, a tensor or a graph")

    def byte_text(self, token: Token) -> bytes:
        """``b"..."``."""
        try:
            found = ast.literal_eval(token.text)
        except (SyntaxError, ValueError):
            raise self.error("The bytes in quotes hold a character beyond ASCII.", token) from None
        return bytes(found)

    # -- data --------------------------------------------------------------------------------------

    def tensor(self, what: str) -> Array:
        """``f32[2] dense<[1.0, 2.0]>``."""
        token = self.next
        type = self.type()
        if not isinstance(type, TensorType) or not type.is_static or type.quant is not None:
            raise self.error(f"The {what} needs a plain type of static shape.", token)
        return self.data(type.storage, type.static_shape, what)

    def data(self, element: str, shape: tuple[int, ...], what: str) -> Array:
        """``dense<[...]>``, ``hex "..."`` or a digest, as an array."""
        token = self.next
        try:
            if self.take("dense"):
                self.expect("<")
                items = self.sequence("[", self.scalar, "]")
                self.expect(">")
                return array_of(items, element, shape)
            if self.take("hex"):
                return from_raw_data(bytes.fromhex(self.string()), element, shape)
            return self.resource(element, shape, what)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.error(f"The data of {what} do not fit its type: {error}.", token) from None

    def resource(self, element: str, shape: tuple[int, ...], what: str) -> Array:
        """The data that a digest stands for."""
        token = self.expect_kind("digest", "data (dense<...>, hex or @blake2:...)")
        if token.text not in self.data_of:
            raise self.error(
                f"The data of {what} are not in this text; print the graph with its resources.",
                token,
            )
        data, place = self.data_of[token.text]
        array = from_raw_data(data, element, shape)
        if f"@blake2:{digest(array)}" != token.text:
            raise self.error(f"The data of {what} are damaged: their digest differs.", place)
        return array


def _fits(value: Any, default: Any) -> bool:
    return type(value) is type(default)
