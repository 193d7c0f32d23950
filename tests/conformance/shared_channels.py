"""Random networks of branches: nested concatenations, splits, shuffles and shared readers.

All values have one scale, so that concatenations need no requantization and can share memory.
"""

from __future__ import annotations

import numpy as np

from qcc.ir.core import Graph, Value
from tests.conformance.random_graphs import RandomNetwork, grow_conv, grow_pool, grow_unary

CHANNELS = (3, 4, 8, 8, 12, 16, 17)


class BranchyNetwork(RandomNetwork):
    """Grows branches of one image size; ``pool`` holds them."""

    channels = CHANNELS

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        side = int(self.random.integers(3, 8))
        batch = int(self.random.integers(1, 3))
        first = self.b.input("image", batch, self.pick(CHANNELS), side, side + 1)
        self.pool = [self.quantized(first)]

    def quantized(self, value: Value, scale: float | None = None) -> Value:
        return self.b.q(value, 0.1 if scale is None else scale, 3, self.storage)

    def grow(self, steps: int) -> Graph:
        """Add ``steps`` random ops; what nothing reads and a few others become outputs."""
        for _ in range(steps):
            kind = self.pick(("conv", "conv", "concat", "concat", "slice", "slice", "other"))
            self.pool.append(getattr(self, f"_{kind}")(self.pick(self.pool[-4:])))
        outputs = [v for v in self.pool if not v.users or self.random.random() < 0.1]
        return self.b.done(*outputs)

    def _conv(self, x: Value) -> Value:
        return self.quantized(grow_conv(self, x))

    def _concat(self, x: Value) -> Value:
        size = x.tensor.static_shape[2:]
        fitting = [v for v in self.pool if v.tensor.static_shape[2:] == size]
        operands = [x, *(self.pick(fitting) for _ in range(int(self.random.integers(1, 4))))]
        order = self.random.permutation(len(operands))
        scale = 0.07 if self.random.random() < 0.2 else None
        return self.quantized(self.emit("Concat", [operands[i] for i in order], axis=1), scale)

    def _slice(self, x: Value) -> Value:
        """Split into two parts and join them and some other value again, or take one."""
        channels = x.tensor.static_shape[1]
        cut = int(self.random.integers(0, channels // 4 + 1)) * 4
        if not 0 < cut < channels:
            return self._conv(x)
        parts = [self._channels(x, 0, cut), self._channels(x, cut, channels)]
        self.pool += parts
        if self.random.random() < 0.5:
            return parts[int(self.random.integers(2))]
        grown = self._conv(parts[1])
        self.pool.append(grown)
        if grown.tensor.shape[2:] != x.tensor.shape[2:]:  # type: ignore[index]
            return grown
        return self.quantized(self.emit("Concat", [*parts, grown], axis=1))

    def _channels(self, x: Value, first: int, last: int) -> Value:
        bounds = [self.b.constant(np.array([v])) for v in (first, last, 1, 1)]
        return self.quantized(self.emit("Slice", [x, *bounds]))

    def _other(self, x: Value) -> Value:
        same = [v for v in self.pool if v.tensor.shape == x.tensor.shape]
        kind = self.pick(("unary", "pool", "add", "resize", "transpose"))
        if kind == "unary":
            return self.quantized(grow_unary(self, x))
        if kind == "pool":
            return self.quantized(grow_pool(self, x))
        if kind == "add":
            return self.quantized(self.emit("Add", [x, self.pick(same)]))
        if kind == "resize":
            scales = self.b.constant(np.array([1, 1, 1, 2], np.float32))
            return self.quantized(self.emit("Resize", [x, None, scales], mode=b"nearest"))
        return self.quantized(self.emit("Transpose", [x], perm=[0, 1, 3, 2]))
