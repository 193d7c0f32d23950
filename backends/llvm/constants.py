"""The weights blob: packed constants one after the other, equal ones once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcc.backends.llvm.buffers import Buffer, Pointer
from qcc.backends.llvm.kernels import READ_SLACK
from qcc.backends.llvm.memory import align


class ConstantPool:
    """Collects constants; every one begins 64-byte aligned and is followed by readable slack."""

    def __init__(self) -> None:
        self._buffers: dict[bytes, Buffer] = {}
        self._pieces: list[tuple[int, bytes]] = []
        self.size = 0

    def add(self, data: NDArray[np.uint8], name: str = "constant") -> Pointer:
        """Where the bytes of ``data`` (any contiguous array) lie in the blob."""
        content = np.ascontiguousarray(data).tobytes()
        found = self._buffers.get(content)
        if found is None:
            found = Buffer(name, len(content), "weights", offset=self.size)
            self._buffers[content] = found
            self._pieces.append((self.size, content))
            self.size += align(len(content) + READ_SLACK)
        return Pointer(found)

    def blob(self) -> NDArray[np.uint8]:
        """All constants, uint8, at the offsets that :meth:`add` gave."""
        result = np.zeros(self.size, np.uint8)
        for offset, content in self._pieces:
            result[offset : offset + len(content)] = np.frombuffer(content, np.uint8)
        return result
