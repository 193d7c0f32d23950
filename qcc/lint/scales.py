"""Scales that are no scales: zero, negative, not finite."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcc.lint.findings import Problem
from qcc.lint.index import Array
from qcc.lint.quantizers import Group, Quantizer
from qcc.lint.repairs import SetZeroScales


def bad_scale(group: Group, member: Quantizer) -> Iterator[Problem]:
    """A problem where a constant scale of ``member`` is not positive and finite."""
    assert member.scale is not None
    scale = np.asarray(member.scale, np.float64)
    bad = ~(np.isfinite(scale) & (scale > 0))
    if not bad.any():
        return
    worst = float(scale[bad].reshape(-1)[0])
    count = f"{int(bad.sum())} of its {scale.size} scales are" if scale.size > 1 else "its scale is"
    like = f" (such as {worst:g})" if scale.size > 1 else f" {worst:g}"
    repair = None
    if np.array_equal(scale[bad], np.zeros(int(bad.sum()))) and _only_zeros(group, member, bad):
        repair = SetZeroScales(member.operation)
    advice = (
        "the data there are all zero, so a scale of 1 means the same"
        if repair is not None
        else "calibrate again with data that reach it, or leave the value in float"
    )
    yield Problem(
        member.operation,
        f"{count}{like}, and every scale must be positive and finite; {advice}",
        repair,
    )


def _only_zeros(group: Group, member: Quantizer, bad: Array) -> bool:
    """Whether all stored data that bad scales belong to mean 0."""
    data = member.index.constant(group.stored)
    zeros = member.zeros
    if data is None or zeros is None or member.block_size or member.data is not group.stored:
        return False
    numbers = np.asarray(data, np.float64)
    if bad.size == 1:
        return not (numbers - float(zeros.reshape(-1)[0])).any()
    if not -numbers.ndim <= member.axis < numbers.ndim or numbers.shape[member.axis] != bad.size:
        return False
    zeros = np.broadcast_to(zeros.reshape(-1), bad.shape)
    channels = np.moveaxis(numbers, member.axis, 0).reshape(bad.size, -1)
    return not (channels[bad] - zeros[bad][:, None]).any()
