"""Operands of the element kernels in tests: bytes of arrays, page-guarded arrays, layouts."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.isa import INSTRUCTION_SETS
from qcc.backends.llvm.kernels import Packed
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.ir.core import Graph
from qcc.ir.ops import definition
from qcc.ir.types import Quant, TensorType
from tests.backends.llvm.native import aligned

ISAS = tuple(INSTRUCTION_SETS)
FLOAT_ISAS = tuple(name for name in ISAS if name != "arm-i8mm")
"""Rows whose code for floats differs."""
FILL = 0x5A


def bytes_of(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array in row-major order, in a guarded buffer."""
    return aligned(np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8))


def blank(size: int) -> NDArray[np.uint8]:
    """A guarded output buffer."""
    return aligned(np.full(size, FILL, np.uint8))


def constants(packed: Packed) -> dict[str, NDArray[np.uint8]]:
    """Packed constants in guarded buffers."""
    return {name: aligned(value) for name, value in packed.items()}


def at_page_end(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array right before a page that must not be touched."""
    content = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    page = mmap.PAGESIZE
    pages = -(-content.size // page) + 1
    memory = mmap.mmap(-1, pages * page)
    raw = np.frombuffer(memory, np.uint8)
    last = raw.ctypes.data + (pages - 1) * page
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(last), ctypes.c_size_t(page), 0) == 0
    view = raw[(pages - 1) * page - content.size : (pages - 1) * page]
    view[:] = content
    return view


def layout_of(
    shape: tuple[int, int, int, int],
    stride: int = 0,
    halo: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> ActivationLayout:
    """``shape`` is ``[N, C, H, W]``; ``stride`` is at least the channels rounded up to 4."""
    n, c, h, w = shape
    return ActivationLayout(n, h, w, c, max(stride, -(-c // 4) * 4), *halo)


def reference(
    op: str,
    inputs: list[tuple[NDArray[Any], str | Quant]],
    output: str | Quant,
    shape: tuple[int, ...],
    **attributes: Any,
) -> NDArray[Any]:
    """What the op's own ``evaluate`` gives; ``inputs`` are ``(array, element)``."""
    graph = Graph()
    values = [
        graph.add_input(f"x{i}", TensorType(array.shape, element))
        for i, (array, element) in enumerate(inputs)
    ]
    node = graph.create_node(op, values, [TensorType(shape, output)], attributes=attributes)
    found = definition(op)
    assert found is not None
    return np.asarray(found.evaluate(node, [array for array, _ in inputs])[0])
