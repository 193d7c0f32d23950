"""Pieces of C text: names in capitals, strings, comments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PLAIN = (
    frozenset(b" !#$%&'()*+,-./0123456789:;<=>@[]^_`{|}~")
    | frozenset(range(ord("A"), ord("Z") + 1))
    | frozenset(range(ord("a"), ord("z") + 1))
)
"""Bytes that mean themselves in a C string (``?`` may begin a trigraph)."""


def c_string(text: str) -> str:
    """``text`` as a C string literal of its UTF-8 bytes."""
    return '"' + "".join(chr(b) if b in _PLAIN else f"\\{b:03o}" for b in text.encode()) + '"'


def in_comment(text: str) -> str:
    """``text`` without what would end a comment or a line."""
    plain = "".join(c if c.isascii() and c.isprintable() else "?" for c in text)
    return plain.replace("*/", "* /").replace("/*", "/ *").rstrip("\\")


def comment(lines: Iterable[str]) -> str:
    """A comment of some lines."""
    first, *rest = [in_comment(line) for line in lines]
    body = "".join(f" *{' ' if line else ''}{line}\n" for line in rest)
    return f"/* {first}\n{body} */\n"


def fill(text: str, values: Mapping[str, str]) -> str:
    """``text`` with the words that are keys of ``values`` replaced, all at once."""
    return re.sub("|".join(values), lambda found: values[found.group()], text)
