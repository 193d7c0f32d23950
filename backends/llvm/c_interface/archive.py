"""An ``.a`` of one object: the format of ``ar`` with the table of symbols that linkers want.

::

    "!<arch>\\n"
    member "/"           number of symbols, where the member of each begins (big endian, 4 bytes
                         each), their names with a 0 byte after each
    member "//"          names of members that are longer than 15 characters
    member               the object

A member is a head of 60 characters and its bytes, at an even place.  No tool is needed, and the
same object gives the same archive.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

_MAGIC = b"!<arch>\n"
_HEAD_BYTES = 60


def archive_of(object_code: bytes, name: str, symbols: Sequence[str]) -> bytes:
    """The archive of an object called ``name`` (such as ``model.o``) that defines ``symbols``."""
    table = b"".join(symbol.encode() + b"\0" for symbol in symbols)
    long_name = f"{name}/\n".encode()
    index_bytes = 4 + 4 * len(symbols) + len(table)
    before = [_even(index_bytes), _even(len(long_name))]
    at = len(_MAGIC) + sum(_HEAD_BYTES + size for size in before)
    index = struct.pack(f">{1 + len(symbols)}I", len(symbols), *[at] * len(symbols)) + table
    members = [("/", index), ("//", long_name), ("/0", object_code)]
    return _MAGIC + b"".join(_member(*member) for member in members)


def _member(name: str, content: bytes) -> bytes:
    """Head and bytes: name, time, owner, group, mode, size; all but the size say nothing."""
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return head + content + b"\n" * (len(content) % 2)


def _even(size: int) -> int:
    return size + size % 2
