"""The products of a depthwise tile tap by tap, where bytes are multiplied to 16 bits.

Nothing is interleaved: a row of 16 channels times the tap's weights gives 16-bit products, a second
tap is added to those, which is all that they can hold, and then the sums are added to int32.
"""

from __future__ import annotations

from collections.abc import Sequence

from qcc.backends.llvm.builder import I8, I16, I32, LoopBuilder, Value, vector

CHANNELS = 16
"""Channels of a block: a vector of bytes."""

_HALVES = (range(8), range(8, 16))
_QUARTERS = (range(4), range(4, 8))


class TapSums:
    """int32 sums of one pixel, four vectors for 16 channels, and products that wait for others."""

    def __init__(self, k: LoopBuilder, start: Sequence[Value]) -> None:
        self._k, self._sums = k, list(start)
        self._waiting: list[Value] = []

    def add(self, activations: Value, weights: Value) -> None:
        """Add ``activations * weights``, 16 signed bytes each, the latter from -127 on."""
        products = [self._products(activations, weights, half) for half in _HALVES]
        if not self._waiting:
            self._waiting = products
            return
        self._waiting = [
            self._k.ir.add(*both) for both in zip(self._waiting, products, strict=True)
        ]
        self._flush()

    def finish(self) -> list[Value]:
        """The sums of all products."""
        if self._waiting:
            self._flush()
        return self._sums

    def _products(self, activations: Value, weights: Value, half: range) -> Value:
        k, wide = self._k, vector(I16, 8)
        factors = (k.ir.sext(k.shuffle(v, None, half), wide) for v in (activations, weights))
        return k.ir.mul(*factors)

    def _flush(self) -> None:
        k, words = self._k, vector(I32, 4)
        parts = [
            k.ir.sext(k.shuffle(value, None, quarter), words)
            for value in self._waiting
            for quarter in _QUARTERS
        ]
        self._sums = [k.ir.add(*both) for both in zip(self._sums, parts, strict=True)]
        self._waiting = []


def load_weights(k: LoopBuilder, weights: Value, tap: int) -> Value:
    """The weights of 16 channels for one tap."""
    return k.load(vector(I8, CHANNELS), weights, tap * CHANNELS, align=CHANNELS)
