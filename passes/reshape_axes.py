"""How a reshape relates axes: which groups of axes it splits and joins."""

from __future__ import annotations

from collections.abc import Sequence


def axis_groups(
    source: Sequence[int], target: Sequence[int]
) -> list[tuple[list[int], list[int]]] | None:
    """Smallest runs of axes of equal size on both sides: ``(source axes, target axes)`` in order.

    Axes of one element belong to no group.  None where the sizes of the whole differ.
    """
    left = [(i, d) for i, d in enumerate(source) if d != 1]
    right = [(i, d) for i, d in enumerate(target) if d != 1]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        a, b = [left[i][0]], [right[j][0]]
        size_a, size_b = left[i][1], right[j][1]
        i, j = i + 1, j + 1
        while size_a != size_b:
            if size_a < size_b:
                if i == len(left):
                    return None
                a.append(left[i][0])
                size_a, i = size_a * left[i][1], i + 1
            else:
                if j == len(right):
                    return None
                b.append(right[j][0])
                size_b, j = size_b * right[j][1], j + 1
        groups.append((a, b))
    return groups if i == len(left) and j == len(right) else None


def commute_reshape(
    shape: Sequence[int], perm: Sequence[int], target: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """``reshape(transpose(x, perm), target)`` as ``transpose(reshape(x, new), new_perm)``.

    ``shape`` is that of x.  Gives ``(new, new_perm)``, or None where a group that the reshape joins
    does not lie together, in order, in x.
    """
    turned = [shape[p] for p in perm]
    groups = axis_groups(turned, target)
    if groups is None:
        return None
    present = [axis for axis, size in enumerate(shape) if size != 1]
    placed: list[tuple[int, list[int]]] = []
    for source_axes, target_axes in groups:
        places = [present.index(perm[axis]) for axis in source_axes]
        if places != list(range(places[0], places[0] + len(places))):
            return None
        placed.append((places[0], target_axes))
    order = [axis for _, axes in sorted(placed, key=lambda item: item[0]) for axis in axes]
    # Axes of one element lie where their left neighbour in the target lies.
    for axis, size in enumerate(target):
        if size == 1:
            order.insert(order.index(axis - 1) + 1 if axis else 0, axis)
    new = tuple(target[axis] for axis in order)
    return new, tuple(order.index(axis) for axis in range(len(target)))


def regrouping(
    shape: Sequence[int], perm: Sequence[int], target: Sequence[int]
) -> tuple[int, ...] | None:
    """The permutation of x's axes after which :func:`commute_reshape` succeeds, or None.

    It only reorders axes inside the groups that the reshape joins (a channel shuffle): each group
    must lie together in x, in whatever order.
    """
    groups = axis_groups([shape[p] for p in perm], target)
    if groups is None:
        return None
    present = [axis for axis, size in enumerate(shape) if size != 1]
    order = list(range(len(shape)))
    for source_axes, _ in groups:
        axes = [perm[axis] for axis in source_axes]
        places = sorted(present.index(axis) for axis in axes)
        if places != list(range(places[0], places[0] + len(places))):
            return None
        for place, axis in zip(places, axes, strict=True):
            order[present[place]] = axis
    return tuple(order)


def slice_of_split(
    source: Sequence[int],
    split: Sequence[int],
    starts: Sequence[int],
    stops: Sequence[int],
    steps: Sequence[int],
) -> tuple[list[int], list[int], list[int]] | None:
    """Bounds on ``source`` of a slice of its reshape ``split`` that takes one index of one axis.

    The axis must be the first or the last (of more than one element) of those that one axis of
    ``source`` was split into; every other axis is taken whole.  None where that is not so.
    """
    cut = [
        axis
        for axis, bound in enumerate(zip(starts, stops, steps, strict=True))
        if range(*bound) != range(split[axis])
    ]
    groups = axis_groups(source, split)
    if len(cut) != 1 or stops[cut[0]] - starts[cut[0]] != 1 or steps[cut[0]] != 1 or not groups:
        return None
    for source_axes, split_axes in groups:
        if cut[0] not in split_axes or len(source_axes) != 1 or len(split_axes) < 2:
            continue
        begin, end, step = [0] * len(source), list(source), [1] * len(source)
        axis, size = source_axes[0], split[cut[0]]
        if cut[0] == split_axes[-1]:
            begin[axis], step[axis] = starts[cut[0]], size
        elif cut[0] == split_axes[0]:
            inner = source[axis] // size
            begin[axis] = starts[cut[0]] * inner
            end[axis] = begin[axis] + inner
        else:
            return None
        return begin, end, step
    return None
