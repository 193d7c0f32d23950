"""Types as text to types (a part of :mod:`qcc.ir.parse`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from qcc.ir.lexer import Cursor, Source, Token
from qcc.ir.syntax import WORD_TO_ELEMENT, element_dtype
from qcc.ir.types import Dim, OpaqueType, Quant, Shape, TensorType, ValueType

Item = TypeVar("Item")

_OTHER_WORDS = {"i8": "int8", "i16": "int16", "i4": "int4", "s32": "int32", "s64": "int64"}
"""Other spellings that are read."""


class TypeParser(Cursor):
    """Types, and the aliases of parameters at the end of the text."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.aliases: dict[str, tuple[list[float], list[int]]] = {}

    def type(self) -> ValueType:
        """A type."""
        if self.take("opaque"):
            return OpaqueType(self.base64())
        token = self.next
        element = self.element()
        quantized: str | Quant = element
        if self.at("<"):
            quantized = self.quant(element, token)
        shape = self.shape()
        layout = None
        if self.take("layout"):
            self.expect("(")
            layout = self.word("the name of a layout")
            self.expect(")")
        return TensorType(shape, quantized, layout)

    def element(self) -> str:
        """The name of an element."""
        token = self.next
        if self.take("?"):
            return WORD_TO_ELEMENT["?"]
        text = self.expect_kind("word", "a type").text
        element = WORD_TO_ELEMENT.get(text, _OTHER_WORDS.get(text, text))
        try:
            element_dtype(element)
        except TypeError:
            raise self.error(f"There is no element type '{text}'.", token) from None
        return element

    def shape(self) -> Shape:
        """``[*]`` or ``[dim, ...]``."""
        if self.source.tokens[self.position + 1].text == "*":
            self.expect("[")
            self.expect("*")
            self.expect("]")
            return None
        return tuple(self.sequence("[", self.dim, "]"))

    def dim(self) -> Dim:
        """A dimension: an integer, a symbol, or ``?``."""
        if self.take("?"):
            return None
        if self.next.kind == "number":
            return self.integer()
        return self.word("a dimension")

    def quant(self, storage: str, token: Token) -> Quant:
        """``<scale, zero_point, axis=0, low=-127, high=127>``."""
        self.expect("<")
        scale, zero_point = self.parameters()
        options: dict[str, int] = {}
        while self.take(","):
            name = self.word("axis, low or high")
            if name not in ("axis", "low", "high"):
                raise self.error(
                    f"A quantized type has no '{name}'; it has axis, low, high.", token
                )
            self.expect("=")
            options[name] = self.integer()
        self.expect(">")
        zeros = zero_point * len(scale) if len(zero_point) == 1 else zero_point
        try:
            return Quant(storage, tuple(scale), tuple(zeros), **options)
        except ValueError as error:
            raise self.error(f"The quantized type is not valid: {error}.", token) from None

    def parameters(self) -> tuple[list[float], list[int]]:
        """Scale and zero point, or an alias."""
        if self.next.kind == "name":
            token = self.name("#", "an alias")
            if token.text not in self.aliases:
                raise self.error(f"The text defines no alias '#{token.text}'.", token)
            return self.aliases[token.text]
        scale = self.one_or_more(self.float32)
        self.expect(",")
        return scale, self.one_or_more(self.integer)

    def one_or_more(self, item: Callable[[], Item]) -> list[Item]:
        """One item, or a list of them in brackets."""
        return self.sequence("[", item, "]") if self.at("[") else [item()]

    def alias(self) -> None:
        """``#q0 = {scale=[...], zero_point=...}``."""
        token = self.name("#", "an alias")
        for mark in ("=", "{", "scale", "="):
            self.expect(mark)
        scale = self.one_or_more(self.float32)
        for mark in (",", "zero_point", "="):
            self.expect(mark)
        zero_point = self.one_or_more(self.integer)
        self.expect("}")
        self.aliases[token.text] = (scale, zero_point)
