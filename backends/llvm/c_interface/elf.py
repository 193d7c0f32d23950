"""Filling a section of a relocatable object, so that large constants need not be LLVM text.

A hundred megabytes of weights as text take LLVM minutes and gigabytes; ``.incbin`` in ``module
asm`` would need an assembler for every target, and llvmlite registers the host's only.  A section
of zeros costs nothing, and its bytes lie in the object as they will lie in memory.
"""

from __future__ import annotations

import struct

_SECTIONS_OFFSET, _SECTION_COUNTS = 0x28, 0x3A
_SECTION = struct.Struct("<IIQQQQIIQQ")
"""A row of the section table: name, type, flags, address, offset, size, and what follows."""


def fill_section(object_code: bytes, name: str, content: bytes) -> bytes:
    """``object_code`` (64-bit ELF) with ``content`` at the beginning of the section ``name``.

    Raises ValueError where there is no such section, or it is too small.
    """
    offset, size = _section(object_code, name)
    if len(content) > size:
        raise ValueError(f"section {name} has {size} bytes, not {len(content)}")
    return b"".join([object_code[:offset], content, object_code[offset + len(content) :]])


def _section(object_code: bytes, name: str) -> tuple[int, int]:
    """Offset and size of a section's bytes."""
    (table,) = struct.unpack_from("<Q", object_code, _SECTIONS_OFFSET)
    row_bytes, count, names_row = struct.unpack_from("<HHH", object_code, _SECTION_COUNTS)
    rows = [_SECTION.unpack_from(object_code, table + i * row_bytes) for i in range(count)]
    names = rows[names_row][4]
    wanted = name.encode() + b"\0"
    for row in rows:
        start = names + row[0]
        if object_code[start : start + len(wanted)] == wanted:
            return row[4], row[5]
    raise ValueError(f"the object code has no section {name}")
