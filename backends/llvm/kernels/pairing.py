"""Which groups of four products may be added to each other in 16 bits.

``vpmaddubsw`` gives sums of two byte products in 16 bits; ``vpmaddwd`` with ones widens them, and
takes the same multipliers.  Where two groups' sums cannot leave 16 bits together, they are added
first and widened once: three multiplications for eight products instead of four.  The order in
which groups are summed is free (integer sums, contract 2), so the compiler looks for partners among
all groups of a column tile: weights decide, and no weight is changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_SUM = 128
"""255 times so much fits int16: what weights of one sign in one 16-bit lane may sum to."""

SAMPLED_TILES = 3
"""Column tiles in which :func:`paired_share` looks for partners."""

TOGETHER = 192
"""Groups among which partners are sought: more cost compile time and find hardly more."""

FEW_FREE = 24
"""Groups of a tile without a partner that are compared all at once, not turn by turn."""

Bytes = NDArray[np.uint8]


def lane_sums(tiles: NDArray[np.integer]) -> Bytes:
    """What the weights of each sign sum to in every 16-bit lane, at most 255.

    ``tiles`` within int8 ``[tiles, lanes, groups, 4]``; the result is ``[tiles, groups, 4 *
    lanes]``: two 16-bit lanes of a 32-bit one; positive sums come before negative ones.
    """
    words = np.ascontiguousarray(tiles.astype(np.int8)).view(np.uint32)[..., 0]
    weights = np.ascontiguousarray(words.transpose(0, 2, 1)).view(np.int8)
    count, groups, width = weights.shape
    sums = np.empty((count, groups, 2, width // 2), np.uint8)
    for sign, part in enumerate((np.maximum(weights, 0), -np.minimum(weights, 0))):
        pairs = part.view(np.uint16)  # (-128 turned round is 128 as an unsigned byte)
        sums[:, :, sign] = np.minimum((pairs & 255) + (pairs >> 8), 255)
    return sums.reshape(count, groups, width)


def safe_groups(sums: Bytes) -> NDArray[np.bool_]:
    """Which groups ``[tiles, groups]`` have no 16-bit lane that can saturate."""
    return np.asarray((sums <= MOST_SUM).all(axis=-1))


def partners(sums: Bytes) -> NDArray[np.int32]:
    """A partner of each group ``[tiles, groups]``, -1 for those that stay alone.

    The result of partners is symmetric, and no lane of two partners can saturate.  Groups meet in
    the rounds of a tournament, heavy ones with light ones first, and take the first that fits.
    """
    tiles, groups, _ = sums.shape
    found = np.full((tiles, groups), -1, np.int32)
    for begin in range(0, groups, TOGETHER):
        piece = sums[:, begin : begin + TOGETHER]
        chosen = _tournament(piece)
        found[:, begin : begin + TOGETHER] = np.where(chosen < 0, -1, chosen + begin)
    return found


def _tournament(sums: Bytes) -> NDArray[np.int32]:
    tiles, groups, _ = sums.shape
    safe = safe_groups(sums)
    weight = sums.sum(axis=-1, dtype=np.int64) + np.where(safe, 0, 1 << 40)
    order = np.argsort(weight, axis=1, kind="stable")
    sums = np.take_along_axis(sums, order[:, :, None], axis=1)
    room = MOST_SUM - np.minimum(sums, MOST_SUM)
    free = np.take_along_axis(safe, order, axis=1)
    found = np.full((tiles, groups), -1, np.int32)  # by rank
    ranks = np.arange(groups)
    for turn in range(groups):
        if turn % 4 == 0 and free.sum(axis=1).max() <= FEW_FREE:
            _last_turns(sums, room, free, found)
            break
        others = (groups - 1 - ranks - turn) % groups
        once = ranks < others
        left, right = ranks[once], others[once]
        meet = np.flatnonzero(free.take(left, axis=1) & free.take(right, axis=1))
        tile, pair = np.divmod(meet, len(left))
        a, b = left[pair], right[pair]
        fits = (sums[tile, a] <= room[tile, b]).all(axis=-1)
        tile, a, b = tile[fits], a[fits], b[fits]
        free[tile, a] = free[tile, b] = False
        found[tile, a], found[tile, b] = b, a
    chosen = np.where(found < 0, -1, np.take_along_axis(order, np.maximum(found, 0), axis=1))
    result = np.empty_like(found)
    np.put_along_axis(result, order, chosen.astype(np.int32), axis=1)
    return result


def _last_turns(
    sums: Bytes, room: Bytes, free: NDArray[np.bool_], found: NDArray[np.int32]
) -> None:
    """What the turns that are left find, where few groups are still ``free``."""
    groups = free.shape[1]
    ranks = np.sort(np.where(free, np.arange(groups), groups), axis=1)[:, :FEW_FREE]
    one, other = np.triu_indices(ranks.shape[1], 1)
    tile, pair = np.nonzero(ranks[:, other] < groups)
    a, b = ranks[tile, one[pair]], ranks[tile, other[pair]]
    fits = (sums[tile, a] <= room[tile, b]).all(axis=-1)
    tile, a, b = tile[fits], a[fits], b[fits]
    by_turn = np.argsort((groups - 1 - a - b) % groups, kind="stable")
    for t, i, j in zip(*(v[by_turn].tolist() for v in (tile, a, b)), strict=True):
        if found[t, i] < 0 and found[t, j] < 0:
            found[t, i], found[t, j] = j, i


def paired_share(weight: NDArray[np.integer], lanes: int) -> float:
    """Share of the groups of ``[channels, 4 * groups]`` that have a partner in tiles of ``lanes``.

    Counted in a few tiles, evenly spread, and rounded down to sixteenths: what a schedule needs.
    """
    weight = weight[:, : 4 * TOGETHER]
    groups = weight.shape[1] // 4
    count = -(-len(weight) // lanes)
    picked = np.unique(np.linspace(0, count - 1, SAMPLED_TILES).astype(int))
    tiles = np.zeros((len(picked), lanes, groups, 4), np.int16)
    for place, number in enumerate(picked):
        rows = weight[number * lanes : (number + 1) * lanes]
        tiles[place, : len(rows)] = rows.reshape(len(rows), groups, 4)
    share = float((partners(lane_sums(tiles)) >= 0).mean())
    return float(np.floor(share * 16)) / 16
