"""The static memory plan: where in the arena every intermediate tensor lives.

Buffers whose lifetimes overlap get disjoint ranges.  The algorithm is greedy by size (Pisarchyk and
Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020): the largest buffer first,
each into the smallest gap that fits among the buffers alive at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A buffer of ``size`` bytes, alive from step ``first`` to step ``last`` inclusive."""

    name: str
    size: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are alive during some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """Byte offset of every buffer by name, and the bytes of the whole arena."""

    offsets: dict[str, int]
    size: int


def plan_memory(buffers: Iterable[Lifetime], base: int = 0) -> MemoryPlan:
    """Place ``buffers`` (sizes in bytes) at aligned offsets from ``base`` on."""
    placed: list[tuple[Lifetime, int, int]] = []
    order = sorted(buffers, key=lambda b: (-b.size, b.first, b.name))
    for buffer in order:
        size = align(buffer.size)
        taken = sorted((begin, end) for other, begin, end in placed if other.overlaps(buffer))
        offset = _best_gap(taken, size, base)
        placed.append((buffer, offset, offset + size))
    top = max((end for _, _, end in placed), default=base)
    return MemoryPlan({buffer.name: begin for buffer, begin, _ in placed}, align(top))


def align(size: int) -> int:
    """``size`` rounded up to the alignment of buffers."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _best_gap(taken: list[tuple[int, int]], size: int, base: int) -> int:
    """The start of the smallest free range of ``size`` bytes between the ``taken`` ones."""
    best: tuple[int, int] | None = None
    free = base
    for begin, end in taken:
        room = begin - free
        if room >= size and (best is None or room < best[0]):
            best = (room, free)
        free = max(free, end)
    return free if best is None else best[1]
