"""Concatenation: each operand is copied, or requantized by a table, into its slice of the target.

There is no kernel of its own: an operand's kernel writes its slice and nothing else, so the kernels
of one concatenation need no barrier between them.
"""

from __future__ import annotations

from collections.abc import Sequence

from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.copy import CopyKernel
from qcc.backends.llvm.kernels.lut import LutKernel
from qcc.backends.llvm.kernels.nest import activation_sizes, activation_view
from qcc.errors import ConfigError


def concat_kernels(
    sources: Sequence[ActivationLayout],
    target: ActivationLayout,
    axis: int,
    requantized: Sequence[bool] | None = None,
) -> list[CopyKernel | LutKernel]:
    """One kernel for each source; ``axis`` counts in ``[batch, height, width, channels]``.

    A source in ``requantized`` goes through a table (pack it with
    ``numerics.unary_table``-like entries).  Raises :class:`ConfigError` when the shapes do not add
    up to the target's.
    """
    wanted = activation_sizes(target)
    through_table = [False] * len(sources) if requantized is None else list(requantized)
    kernels: list[CopyKernel | LutKernel] = []
    first = [0, 0, 0, 0]
    for source, table in zip(sources, through_table, strict=True):
        sizes = activation_sizes(source)
        if any(sizes[i] != wanted[i] for i in range(4) if i != axis):
            raise ConfigError(f"A part of shape {sizes} does not fit into {wanted} on axis {axis}.")
        place = activation_view(target).shifted(first)
        kind = LutKernel if table else CopyKernel
        kernels.append(kind(sizes, activation_view(source), place))
        first[axis] += sizes[axis]
    if first[axis] != wanted[axis]:
        raise ConfigError(
            f"The parts are {first[axis]} long on axis {axis} and the whole is {wanted[axis]}."
        )
    return kernels
