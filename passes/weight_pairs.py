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

MANY_INPUTS = 128
"""With fewer inputs there are too few groups to find partners among."""

CACHED = 1 << 19
"""Weights that are looked at together while they lie in a cache."""

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
        a, b = stored.take(self.first, axis=-1), stored.take(self.second, axis=-1)
        return np.asarray(np.abs(a + b) > self.limit)

    def nearest(self, steps: Floats, most: int) -> Floats:
        """``steps`` [..., inputs] rounded to whole numbers within ``most`` that keep the limit."""
        rows = np.clip(np.rint(steps), -most, most)
        stored, real = rows.reshape(-1, rows.shape[-1]), steps.reshape(-1, rows.shape[-1])
        at, pair = _places(self.broken(stored))
        first, second = self.first[pair], self.second[pair]
        stored[at, first], stored[at, second] = self._moved(real[at, first], real[at, second], most)
        return rows

    def _moved(self, x: Floats, y: Floats, most: int) -> tuple[Floats, Floats]:
        """What pairs that pass the limit become: whole numbers that keep it."""
        # The least change of both, in squares, takes half of what is too much off each.
        share = np.rint((np.abs(x) - np.abs(y) + self.limit) / 2)
        share = np.clip(share, self.limit - most, most)
        return np.sign(x) * share, np.sign(y) * (self.limit - share)

    def growth(self, steps: Floats, most: int) -> Floats:
        """What to multiply the scale of each channel of ``steps`` [..., inputs] with: [...].

        At least what keeps the spread; of that times the factors of :data:`GROWTHS` the one with
        the least squared error where pairs would pass the limit.
        """
        rows = steps.reshape(-1, steps.shape[-1])
        height = max(1, CACHED // rows.shape[1])
        found = [
            self._growth(rows[begin : begin + height], most)
            for begin in range(0, len(rows), height)
        ]
        return np.concatenate(found).reshape(steps.shape[:-1])

    def _growth(self, rows: Floats, most: int) -> Floats:
        """That of a few channels [channels, inputs]."""
        found = _spread_growth(rows)
        rows = rows / found[:, None]
        broken = self.broken(np.clip(np.rint(rows), -most, most))
        channels = broken.any(axis=1)
        if channels.any():
            found[channels] *= self._factors(rows[channels], broken[channels], most)
        return found

    def _factors(self, rows: Floats, broken: NDArray[np.bool_], most: int) -> Floats:
        """The factor with the least squared error for each of ``rows``, which have broken pairs."""
        channels, places = _places(broken)
        # Other pairs keep the limit: a factor above 1 only makes them smaller.
        x, y = rows[channels, self.first[places]], rows[channels, self.second[places]]
        best, least = np.ones(len(rows), np.float32), np.full(len(rows), np.inf)
        for factor in map(np.float32, GROWTHS):
            errors = _squares(rows, factor, most).sum(axis=1).astype(np.float64)
            if (errors >= least).all():
                break  # larger steps only round worse
            a, b = x / factor, y / factor
            total = np.clip(np.rint(a), -most, most) + np.clip(np.rint(b), -most, most)
            over = np.abs(total) > self.limit
            channels, x, y, a, b = channels[over], x[over], y[over], a[over], b[over]
            p, q = self._moved(a, b, most)
            added = np.square(p * factor - x) - _squares(x, factor, most)
            added += np.square(q * factor - y) - _squares(y, factor, most)
            errors += np.bincount(channels, added, len(rows))
            better = errors < least
            best[better], least[better] = factor, errors[better]
        return best


def _spread_growth(rows: Floats) -> Floats:
    """What brings each of ``rows`` [channels, inputs] within the spread: at least 1."""
    if rows.shape[1] < MANY_INPUTS:
        return np.ones(len(rows), np.float32)
    spread = np.sqrt(np.square(rows).mean(axis=1))
    return np.asarray(np.maximum(np.float32(1), spread / np.float32(MOST_SPREAD)))


def _places(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of what is True: ``np.nonzero``, which is slow for two dimensions."""
    return np.divmod(np.flatnonzero(mask), max(mask.shape[1], 1))


def _squares(steps: Floats, factor: np.float32, most: int) -> Floats:
    """The squared error of each of ``steps`` rounded at a scale ``factor`` times as large."""
    return np.square(np.clip(np.rint(steps / factor), -most, most) * factor - steps)
