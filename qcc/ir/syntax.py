"""The words of the text form (``.qir``): what :mod:`qcc.ir.print` writes and :mod:`qcc.ir.parse`
reads, said once.  ``docs/ir.md`` has the grammar.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any

import numpy as np

from qcc.ir.core import Array
from qcc.ir.types import UNDEFINED

ELEMENT_TO_WORD = {
    "float64": "f64",
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int16": "s16",
    "int8": "s8",
    "int4": "s4",
    "int2": "s2",
    "uint64": "u64",
    "uint32": "u32",
    "uint16": "u16",
    "uint8": "u8",
    "uint4": "u4",
    "uint2": "u2",
    "bool": "bool",
    "complex64": "c64",
    "complex128": "c128",
    "string": "str",
    UNDEFINED: "?",
}
"""Element name to its word; other elements (float8 kinds) are written by their own name."""

WORD_TO_ELEMENT = {word: element for element, word in ELEMENT_TO_WORD.items()}

INLINE_ELEMENTS = 16
"""Constants of at most so many elements are written out; bigger ones as a digest."""

ALIAS_ENTRIES = 4
"""Per-channel parameters of more entries are written as an alias at the end of the text."""

BARE_NAME = re.compile(r"[A-Za-z0-9_./$-]+(?:::[A-Za-z0-9_./$-]+|:[0-9]+(?![A-Za-z0-9_./$-]))*")
"""Names that need no quotes behind ``%``, ``@`` and ``#``."""

BARE_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*")
"""Op names with their domain, attribute names, symbolic dimensions and keywords, without quotes."""

STATEMENTS = frozenset({"const", "return"})
"""Words that begin a line and so cannot be a bare op."""


def quoted(text: str) -> str:
    """``text`` in double quotes, escaped as in JSON (control and odd characters as ``\\uXXXX``)."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def named(text: str) -> str:
    """A name behind a sigil: bare where it can be, else quoted."""
    return text if BARE_NAME.fullmatch(text) else quoted(text)


def word(text: str) -> str:
    """A word: bare where it can be, else quoted."""
    return text if BARE_WORD.fullmatch(text) else quoted(text)


def quoted_bytes(data: bytes) -> str:
    """Bytes as ``b"..."``: printable ASCII as it is, the rest as ``\\xNN``."""
    return 'b"' + "".join(_byte(item) for item in data) + '"'


def _byte(item: int) -> str:
    plain = 32 <= item < 127 and chr(item) not in '"\\'
    return chr(item) if plain else f"\\x{item:02x}"


def base64_text(data: bytes) -> str:
    """Bytes in base64 within quotes."""
    return f'"{base64.b64encode(data).decode()}"'


def element_word(element: str) -> str:
    """The word of an element."""
    return ELEMENT_TO_WORD.get(element, element)


def float_text(number: float) -> str:
    """A Python float, exactly: ``0.5``; ``0.1f`` is the float32 nearest to 0.1, as a float."""
    if number != number or number in (float("inf"), float("-inf")):
        return str(number)
    short = float32_text(number)
    if float(short) == number:
        return short
    with np.errstate(over="ignore"):
        single = float(np.float32(number)) == number
    return f"{short}f" if single else repr(number)


def float32_text(number: float) -> str:
    """The shortest decimal text that reads back as the float32 nearest to ``number``."""
    with np.errstate(over="ignore"):
        single = np.float32(number)
        text = str(single)
        if np.float32(float(text)) != single:  # rounded twice on the way back
            text = repr(float(single))
        text = min(text, repr(float(single)), key=len)  # 1000001.0, not 1.000001e+06
    return text if any(mark in text for mark in ".en") else f"{text}.0"


def array_element(data: Array) -> str:
    """The element name of an array's data."""
    return "string" if data.dtype.kind in "OUS" else str(data.dtype)


def raw_data(data: Array) -> bytes:
    """The data of an array: little-endian, row-major; strings as JSON (bytes as Latin-1 lists)."""
    if array_element(data) == "string":
        items = [
            list(item) if isinstance(item, bytes) else str(item)
            for item in np.asarray(data, object).reshape(-1)
        ]
        return json.dumps(items).encode()
    array = np.ascontiguousarray(data)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def from_raw_data(data: bytes, element: str, shape: tuple[int, ...]) -> Array:
    """The inverse of :func:`raw_data`; raises ValueError where the sizes do not fit."""
    if element == "string":
        items = [bytes(item) if isinstance(item, list) else item for item in json.loads(data)]
        array = np.empty(len(items), object)
        array[:] = items
        return array.reshape(shape)
    return np.frombuffer(data, element_dtype(element)).reshape(shape)


def element_dtype(element: str) -> np.dtype[np.generic]:
    """The numpy dtype that holds an element; raises TypeError for an unknown one."""
    if element == "string":
        return np.dtype(object)
    try:
        return np.dtype(element)
    except TypeError:
        import ml_dtypes  # registers bfloat16, float8 and int4 kinds with numpy

        return np.dtype(getattr(ml_dtypes, element, element))


def digest(data: Array) -> str:
    """16 hexadecimal digits of BLAKE2b over element, shape and data."""
    header = f"{array_element(data)}{list(data.shape)}".encode()
    return hashlib.blake2b(header + raw_data(data), digest_size=8).hexdigest()


def number_of(text: str) -> int | float:
    """The number that a text stands for; ``0.1f`` is the float32 nearest to 0.1."""
    if text.lstrip("+-").isdigit():
        return int(text)
    if text.endswith("f") and "inf" not in text:
        return float(np.float32(text[:-1]))
    return float(text)


def array_of(items: list[Any], element: str, shape: tuple[int, ...]) -> Array:
    """Elements, row-major, as an array; raises ValueError, TypeError or OverflowError."""
    dtype = element_dtype(element)
    wanted: tuple[type, ...] = (str, bytes)
    if element == "bool":
        wanted = (bool,)
    elif element != "string":
        wanted = (int,) if "int" in element else (int, float)
    if any(not isinstance(i, wanted) or isinstance(i, bool) != (element == "bool") for i in items):
        raise ValueError(f"every element must be {' or '.join(kind.__name__ for kind in wanted)}")
    if element == "string":
        array = np.empty(len(items), object)
        array[:] = items
        return array.reshape(shape)
    if "int" in element:
        wide = np.asarray(items, np.uint64 if element == "uint64" else np.int64)
        narrow = wide.astype(dtype)
        if any(int(n) != w for n, w in zip(narrow, items, strict=True)):
            raise OverflowError(f"an element does not fit in {element}")
        return narrow.reshape(shape)
    return (
        np.asarray(items, np.float64 if element == "float64" else None).astype(dtype).reshape(shape)
    )
