"""Text (``.qir``) to tokens with their places, and a cursor that reads them."""

from __future__ import annotations

import base64
import bisect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from qcc.errors import ParseError
from qcc.ir.syntax import BARE_NAME, BARE_WORD, number_of

Item = TypeVar("Item")

_STRING = r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
_NUMBER = r"(?:[+-]inf|[+-]?[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)f?(?![A-Za-z0-9_.])"

_TOKENS = (
    ("space", r"(?:\s|//[^\n]*)+"),
    ("digest", r"@blake2:[0-9a-f]{16}"),
    ("name", rf"[%@#](?:{_STRING}|{BARE_NAME.pattern})"),
    ("bytes", f"b{_STRING}"),
    ("string", _STRING),
    ("number", _NUMBER),
    ("word", BARE_WORD.pattern),
    ("mark", r"::|[][(){}<>=,:?*]"),
)
_LEXER = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _TOKENS))


@dataclass(frozen=True)
class Token:
    """A piece of text; ``kind`` is one of the names in the lexer's table, or ``end``."""

    kind: str
    text: str
    offset: int


class Source:
    """A text and its tokens; knows lines and columns."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]
        self.tokens = self._split()

    def _split(self) -> list[Token]:
        tokens: list[Token] = []
        offset = 0
        while offset < len(self.text):
            found = _LEXER.match(self.text, offset)
            if found is None:
                raise self.error(
                    f"There is no word that begins with {self._start(offset)}.", offset
                )
            if found.lastgroup != "space":
                tokens.append(Token(str(found.lastgroup), found.group(), offset))
            offset = found.end()
        tokens.append(Token("end", "", offset))
        return tokens

    def _start(self, offset: int) -> str:
        mark = self.text[offset]
        return "a quote that is never closed" if mark == '"' else f"'{mark}'"

    def error(self, message: str, offset: int) -> ParseError:
        """A ParseError at ``offset``."""
        line = bisect.bisect_right(self._lines, offset)
        return ParseError(message, line=line, column=offset - self._lines[line - 1] + 1)


def shortened(text: str) -> str:
    """The beginning of a long token, for messages."""
    return text if len(text) <= 40 else f"{text[:37]}..."


class Cursor:
    """The tokens from left to right."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.position = 0

    @property
    def next(self) -> Token:
        """The token here."""
        return self.source.tokens[self.position]

    def advance(self) -> Token:
        """The token here; the next one is next."""
        token = self.next
        self.position += token.kind != "end"
        return token

    def at(self, text: str) -> bool:
        """Whether the mark or word ``text`` stands here."""
        return self.next.text == text and self.next.kind in ("mark", "word")

    def take(self, text: str) -> bool:
        """Whether ``text`` stands here; it is skipped."""
        found = self.at(text)
        if found:
            self.advance()
        return found

    def expect(self, text: str) -> Token:
        """Skip ``text``; raises ParseError where something else stands."""
        if not self.at(text):
            raise self.wrong(f"'{text}'")
        return self.advance()

    def expect_kind(self, kind: str, what: str) -> Token:
        """Skip and give a token of a kind."""
        if self.next.kind != kind:
            raise self.wrong(what)
        return self.advance()

    def expect_end(self) -> None:
        """Raises ParseError where text is left."""
        if self.next.kind != "end":
            raise self.wrong("the end of the text")

    def wrong(self, wanted: str) -> ParseError:
        """An error at the token here, which should be ``wanted``."""
        token = self.next
        found = "the end of the text" if token.kind == "end" else f"'{shortened(token.text)}'"
        return self.source.error(
            f"{wanted[:1].upper()}{wanted[1:]} must stand here, not {found}.", token.offset
        )

    def error(self, message: str, token: Token) -> ParseError:
        """An error at ``token``."""
        return self.source.error(message, token.offset)

    # -- pieces that occur everywhere --------------------------------------------------------------

    def sequence(self, opening: str, item: Callable[[], Item], closing: str) -> list[Item]:
        """``opening item, item closing``."""
        self.expect(opening)
        items: list[Item] = []
        while not self.at(closing):
            items.append(item())
            if not self.take(","):
                break
        self.expect(closing)
        return items

    def string(self) -> str:
        """Text in quotes."""
        token = self.expect_kind("string", "text in quotes")
        return self.unquoted(token, token.text)

    def unquoted(self, token: Token, text: str) -> str:
        """The text within JSON quotes."""
        try:
            return str(json.loads(text, strict=False))
        except ValueError:
            raise self.error(f"{shortened(text)} is no JSON text.", token) from None

    def name(self, sigil: str, what: str) -> Token:
        """A ``%name``, ``@name`` or ``#name``: the token with the bare name as its text."""
        token = self.next
        if token.kind != "name" or token.text[0] != sigil:
            raise self.wrong(what)
        self.advance()
        text = token.text[1:]
        text = self.unquoted(token, text) if text.startswith('"') else text
        return Token(token.kind, text, token.offset)

    def word(self, what: str) -> str:
        """A word, bare or quoted."""
        if self.next.kind == "string":
            return self.string()
        return self.expect_kind("word", what).text

    def integer(self) -> int:
        """An integer."""
        token = self.expect_kind("number", "an integer")
        try:
            return int(token.text)
        except ValueError:
            raise self.error(f"'{token.text}' is not an integer.", token) from None

    def float32(self) -> float:
        """A number, rounded to float32."""
        token = self.expect_kind("number", "a number")
        with np.errstate(over="ignore"):
            return float(np.float32(number_of(token.text)))

    def mapping(self) -> dict[str, str]:
        """``{"key": "text", ...}``."""
        return dict(self.sequence("{", self._entry, "}"))

    def _entry(self) -> tuple[str, str]:
        key = self.string()
        self.expect(":")
        return key, self.string()

    def base64(self) -> bytes:
        """Bytes in base64 within quotes."""
        token = self.next
        try:
            return base64.b64decode(self.string(), validate=True)
        except ValueError:
            raise self.error("The text in quotes is not base64.", token) from None
