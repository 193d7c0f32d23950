"""round-weights: round each weight so that the layer's output error, not its own, is least.

Rounding every weight to the nearest step ignores that operands are correlated.  Here the columns of
the weight matrix are rounded one after the other, and what rounding one adds to the output is taken
off the columns not yet rounded, by the second moments of the operands that the quantized model
really sees.  Source: GPTQ (Frantar et al. 2023, arXiv:2210.17323), that is Optimal Brain
Quantization (Frantar and Alistarh 2022, arXiv:2208.11580) with a fixed order of columns.

Few samples determine the moments badly, so several dampings are tried on three quarters of the
samples, and the one with the least error on the fourth quarter is taken: rounding to nearest stays
where nothing beats it there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qcc.passes.operand_rows import Float32, Float64

DAMPINGS = (0.03, 1.0)
"""What is added to the diagonal of the second moments, as shares of its mean, to choose among."""

EXACT = 1e-4
"""A weight this close to its rounded value, in steps, counts as stored without error."""

CHUNK = 1024
"""Rows whose products are summed in float32."""

BLOCK = 64
"""Columns that are rounded before the rest of the matrix hears of it; changes no result."""


@dataclass
class Moments:
    """Central second moments of rows, accumulated: float64 [groups, inputs, inputs].

    ``offset`` [groups, 1, inputs] is taken off every row first: products of float32 numbers that
    are far from 0 would drown small variances.
    """

    products: Float64
    sums: Float64
    rows: int = 0
    offset: Float32 | None = None
    waiting: list[Float32] = field(default_factory=list)

    @classmethod
    def empty(cls, groups: int, inputs: int) -> Moments:
        """Nothing seen yet."""
        return cls(np.zeros((groups, inputs, inputs)), np.zeros((groups, inputs)))

    def add(self, rows: Float32) -> None:
        """Take in rows float32 [groups, rows, inputs]."""
        if rows.size:
            self.waiting.append(rows)
        if sum(array.shape[1] for array in self.waiting) >= CHUNK:
            self.flush()

    def flush(self) -> Moments:
        """Count what still waits: products of many rows at once cost less."""
        if self.waiting:
            rows = np.concatenate(self.waiting, axis=1)
            if self.offset is None:
                self.offset = rows.mean(axis=1, keepdims=True)
            rows = rows - self.offset
            self.waiting.clear()
            self.products += np.matmul(rows.transpose(0, 2, 1), rows)
            self.sums += rows.sum(axis=1, dtype=np.float64)
            self.rows += rows.shape[1]
        return self

    @property
    def central(self) -> Float64:
        """The covariance: a constant offset of the output is the bias's business."""
        count = max(self.rows, 1)
        mean = self.sums / count
        return self.products / count - mean[:, :, None] * mean[:, None, :]


def pooled(one: Moments, other: Moments) -> Float64:
    """The covariance of the rows of both, each about its own mean."""
    rows = max(one.rows + other.rows, 1)
    return (one.central * one.rows + other.central * other.rows) / rows


def round_by_moments(
    matrices: Float64,
    scales: Float64,
    limits: tuple[int, int],
    fit: Moments,
    held: Moments,
) -> Float64 | None:
    """The rounded weights, whole numbers float64 [groups, outputs, inputs].

    ``matrices`` are the real weights, ``scales`` [groups, outputs] their steps (symmetric, zero
    point 0), ``limits`` the least and greatest stored value.  ``held`` are the moments of samples
    that ``fit`` has not seen.  None where rounding to nearest is already best.
    """
    nearest = np.clip(np.rint(matrices / scales[:, :, None]), *limits)
    inexact = np.abs(nearest * scales[:, :, None] - matrices).max(axis=2) > EXACT * scales
    part = _Part.of(inexact)
    wanted, steps = part.take(matrices), part.take(scales)
    if wanted.size == 0 or fit.rows < 2 or held.rows < 1:
        return None
    fitted, held_out = part.moments(fit.central), part.moments(held.central)
    least = _error(part.take(nearest) * steps[:, :, None] - wanted, held_out)
    chosen = None
    for damping in DAMPINGS:
        found = _round(wanted, steps, limits, _damped(fitted, damping))
        error = _error(found * steps[:, :, None] - wanted, held_out)
        if error < least:
            least, chosen = error, damping
    if chosen is None:
        return None
    moments = part.moments(pooled(fit, held))
    return part.put(nearest, _round(wanted, steps, limits, _damped(moments, chosen)))


@dataclass(frozen=True)
class _Part:
    """The groups and outputs that rounding can change: often few of those on a grid."""

    groups: NDArray[np.bool_]
    outputs: NDArray[np.bool_] | None

    @classmethod
    def of(cls, inexact: NDArray[np.bool_]) -> _Part:
        """The part of [groups, outputs] that holds every True one."""
        groups = np.asarray(inexact.any(axis=1))
        return cls(groups, inexact[0] if len(inexact) == 1 else None)

    def take(self, array: Float64) -> Float64:
        """The part of an array [groups, outputs, ...]."""
        part = np.asarray(array[self.groups])
        return part if self.outputs is None else np.asarray(part[:, self.outputs])

    def moments(self, array: Float64) -> Float64:
        """The part of an array [groups, ...]."""
        return np.asarray(array[self.groups])

    def put(self, array: Float64, part: Float64) -> Float64:
        """``array`` with the part replaced."""
        result = array.copy()
        if self.outputs is None:
            result[self.groups] = part
        elif len(part):
            result[0, self.outputs] = part[0]
        return np.asarray(result)


def _error(difference: Float64, moments: Float64) -> float:
    """The mean squared error of the outputs that a ``difference`` of the weights makes."""
    return float(np.sum(np.matmul(difference, moments) * difference))


def _damped(moments: Float64, damping: float) -> Float64:
    size = moments.shape[-1]
    level = np.trace(moments, axis1=1, axis2=2) / size
    level = np.where(level > 0.0, level, 1.0)
    return np.asarray(moments + (damping * level)[:, None, None] * np.eye(size))


def _round(
    matrices: Float64, scales: Float64, limits: tuple[int, int], moments: Float64
) -> Float64:
    """One column after the other, those of the greatest moment first.

    With ``moments = U D U^T``, U unit upper triangular, the output error is the sum over columns of
    ``D[k] (e @ U)[k]^2``, e the errors of the weights: so the error that the earlier columns leave
    in column k is added to it before it is rounded (the form of Chee et al. 2023, QuIP,
    arXiv:2307.13304, theorem 6: it equals GPTQ without an inverse).
    """
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    matrices = np.take_along_axis(matrices, order[:, None, :], axis=2)
    moments = np.take_along_axis(moments, order[:, :, None], axis=1)
    upper = _unit_upper(np.take_along_axis(moments, order[:, None, :], axis=2))
    stored = np.empty_like(matrices)
    errors = np.zeros_like(matrices)
    inputs = matrices.shape[2]
    for begin in range(0, inputs, BLOCK):
        end = min(begin + BLOCK, inputs)
        wanted = matrices[:, :, begin:end].copy()
        wanted += np.matmul(errors[:, :, :begin], upper[:, :begin, begin:end])
        for column in range(begin, end):
            place = column - begin
            values = np.clip(np.rint(wanted[:, :, place] / scales), *limits)
            stored[:, :, column] = values
            error = matrices[:, :, column] - values * scales
            errors[:, :, column] = error
            behind = upper[:, None, column, column + 1 : end]
            wanted[:, :, place + 1 :] += error[:, :, None] * behind
    back = np.argsort(order, axis=1)
    return np.asarray(np.take_along_axis(stored, back[:, None, :], axis=2))


def _unit_upper(moments: Float64) -> NDArray[np.float64]:
    """The unit upper triangular U of ``U D U^T``, by a Cholesky factor from the last row up."""
    turned = np.ascontiguousarray(moments[:, ::-1, ::-1])
    factor = np.linalg.cholesky(turned)[:, ::-1, ::-1]
    return np.asarray(factor / np.diagonal(factor, axis1=1, axis2=2)[:, None, :])
