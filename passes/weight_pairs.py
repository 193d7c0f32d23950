"""Weights whose neighbours can be multiplied and added in pairs without saturating.

x86 CPUs without VNNI multiply bytes by ``vpmaddubsw``, which adds the products of two neighbouring
input channels in 16 bits and saturates: with activations up to 255, two weights of one sign may sum
to 128 in magnitude.  Kernels whose weights keep that limit run half as long again as others, which
have to widen every byte first.  So the numbers are chosen to keep it, for such targets: a
channel's scale grows a little, and the few pairs that still pass the limit are moved to the nearest
one that keeps it.  What that adds to the output, ``round_weights`` takes off the other weights.

Kernels save another quarter of the multiplications where the sums of two groups of weights fit 16
bits together (``backends/llvm/kernels/pairing.py``).  Trained weights mostly do: their largest ones
are many times the typical one.  Channels of evenly spread weights get a larger scale, so that the
typical weight is no larger than :data:`MOST_SPREAD` steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.passes.operand_rows import LinearForm

GROWTHS = (1.0, 1.06, 1.12, 1.2, 1.3, 1.42, 1.56, 1.75, 2.0)
"""What a channel's scale may be multiplied with: at 2 no pair of weights within 127 remains."""

MOST_SPREAD = 28.0
"""Root mean square of a channel's weights in steps, at most, where it has :data:`MANY_INPUTS`."""

MANY_INPUTS = 64
"""With fewer inputs there are too few groups to find partners among."""

FEW_CHANNELS = 8
"""Convolutions over fewer channels multiply their taps side by side."""

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Pairs:
    """Which inputs of a weight matrix are neighbours, and what their weights may sum to.

    ``first`` and ``second`` are the indices of the two inputs of each pair; an input without a
    neighbour is in neither.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    limit: int

    @classmethod
    def of(cls, form: LinearForm, limit: int | None) -> Pairs | None:
        """Those of a linear op, None without any.

        They are channels 0 and 1, 2 and 3, ... of one tap.  Where there are fewer than 8 channels,
        and not 4, kernels put the taps side by side without padding, and neighbours are those of
        this order.
        """
        if limit is None:
            return None
        taps = int(np.prod(form.shape[2:])) if form.node.op == "Conv" else 1
        inputs = form.shape[0] if form.transposed else int(np.prod(form.shape[1:]))
        channels = inputs // taps
        order = np.arange(inputs).reshape(channels, taps)
        if taps > 1 and form.groups == 1 and channels < FEW_CHANNELS and channels % 4:
            line = order.T.reshape(-1)
        else:
            line = order[: channels // 2 * 2].reshape(-1, 2, taps).transpose(0, 2, 1).reshape(-1)
        pairs = line[: len(line) // 2 * 2].reshape(-1, 2)
        return cls(pairs[:, 0], pairs[:, 1], limit) if len(pairs) else None

    def partners(self, inputs: int) -> NDArray[np.intp]:
        """The neighbour of each input, -1 for those without."""
        found = np.full(inputs, -1, np.intp)
        found[self.first], found[self.second] = self.second, self.first
        return found

    def broken(self, stored: Floats) -> NDArray[np.bool_]:
        """Which pairs of whole numbers [..., inputs] pass the limit: [..., pairs]."""
        a, b = stored[..., self.first], stored[..., self.second]
        return np.asarray((a * b > 0) & (np.abs(a + b) > self.limit))

    def nearest(self, steps: Floats, most: int) -> Floats:
        """``steps`` [..., inputs] rounded to whole numbers within ``most`` that keep the limit."""
        stored = np.clip(np.rint(steps), -most, most)
        broken = self.broken(stored)
        if not broken.any():
            return stored
        x, y = steps[..., self.first][broken], steps[..., self.second][broken]
        # The least change of both, in squares, takes half of what is too much off each.
        share = np.rint((np.abs(x) - np.abs(y) + self.limit) / 2)
        share = np.clip(share, self.limit - most, most)
        for places, size in ((self.first, share), (self.second, self.limit - share)):
            part = stored[..., places]
            part[broken] = np.sign(part[broken]) * size
            stored[..., places] = part
        return stored

    def growth(self, steps: Floats, most: int) -> Floats:
        """What to multiply the scale of each channel of ``steps`` [..., inputs] with: [...].

        At least what keeps the spread; of that times the factors of :data:`GROWTHS` the one with
        the least squared error where pairs would pass the limit.
        """
        found = _spread_growth(steps)
        steps = steps / found[..., None]
        channels = self.broken(np.clip(np.rint(steps), -most, most)).any(axis=-1)
        rows = steps[channels]
        if not len(rows):
            return found
        errors = [
            np.square(self.nearest(rows / factor, most) * factor - rows).sum(axis=-1)
            for factor in map(np.float32, GROWTHS)
        ]
        found[channels] *= np.asarray(GROWTHS, np.float32)[np.argmin(errors, axis=0)]
        return found


def _spread_growth(steps: Floats) -> Floats:
    """What brings each channel of ``steps`` [..., inputs] within the spread: [...], at least 1."""
    if steps.shape[-1] < MANY_INPUTS:
        return np.ones(steps.shape[:-1], np.float32)
    spread = np.sqrt(np.square(steps, dtype=np.float64).mean(axis=-1))
    return np.maximum(1, spread / MOST_SPREAD).astype(np.float32)
