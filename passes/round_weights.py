"""round-weights: round each weight so that the layer's output error, not its own, is least.

Rounding every weight to the nearest step ignores that operands are correlated.  Here the columns of
the weight matrix are rounded one after the other, and what rounding one adds to the output is taken
off the columns not yet rounded, by the second moments of the operands that the quantized model
really sees.  Source: GPTQ (Frantar et al. 2023, arXiv:2210.17323), that is Optimal Brain
Quantization (Frantar and Alistarh 2022, arXiv:2208.11580) with a fixed order of columns.

Few rows determine the moments badly, so the fewer there are, the stronger the damping; and every
eighth sample is held out: where rounding to nearest has less error there, it stays.

Arithmetic is float32: damping keeps the moments well conditioned, and what rounding gives is
checked, so a loss of digits costs at most optimality.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.passes.operand_rows import Float32, Float64
from qcc.passes.weight_pairs import Pairs

DAMPING = 0.03
"""What is added to the diagonal of the second moments, as a share of its mean."""

STRONG_DAMPING = 0.3
"""The same where fewer than :data:`PLENTY` rows were seen for each input."""

LEAST_ROWS = 1 / 16
"""Rows for each input below which moments say too little for their cost."""

PLENTY = 4
"""Both dampings were compared on held-out rows of trained networks: 0.01 to 0.1 differ by 2 % of
the error where rows are plenty; where they are not, 0.3 and 1 are alike and better than these."""

EXACT = 1e-4
"""A weight this close to its rounded value, in steps, counts as stored without error."""

PANEL = 128
"""Columns of a Cholesky factor that are found together."""

CHUNK = 1024
"""Rows whose products are summed in float32."""

BLOCK = 64
"""Columns that are rounded before the rest of the matrix hears of it; changes no result."""


@dataclass
class Moments:
    """Central second moments of rows, accumulated: float32 [groups, inputs, inputs].

    ``offset`` [groups, 1, inputs] is taken off every row first: products of float32 numbers that
    are far from 0 would drown small variances.
    """

    products: Float32
    sums: Float64
    rows: int = 0
    offset: Float32 | None = None
    waiting: list[Float32] = field(default_factory=list)

    @classmethod
    def empty(cls, groups: int, inputs: int) -> Moments:
        """Nothing seen yet."""
        return cls(np.zeros((groups, inputs, inputs), np.float32), np.zeros((groups, inputs)))

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
            rows -= self.offset
            self.waiting.clear()
            if len(rows) == 1:
                self.products[0] += rows[0].T @ rows[0]  # seen to be symmetric: half the work
            else:
                self.products += np.matmul(rows.transpose(0, 2, 1), rows)
            self.sums += rows.sum(axis=1)  # about 0, and few: float32 is exact enough
            self.rows += rows.shape[1]
        return self

    def covariance(self, groups: NDArray[np.bool_]) -> Float32:
        """That of the chosen groups: a constant offset of the output is the bias's business."""
        count = max(self.rows, 1)
        mean = (self.sums[groups] / count).astype(np.float32)
        found = self.products[groups]
        for matrix, offset in zip(found, mean, strict=True):
            matrix /= np.float32(count)
            matrix -= np.outer(offset, offset)
        return np.asarray(found)


def round_by_moments(
    matrices: Float64,
    scales: Float64,
    limits: tuple[int, int],
    fit: Moments,
    held: Float32,
    pairs: Pairs | None = None,
) -> Float64 | None:
    """The rounded weights, whole numbers float64 [groups, outputs, inputs].

    ``matrices`` are the real weights, ``scales`` [groups, outputs] their steps (symmetric, zero
    point 0), ``limits`` the least and greatest stored value.  ``held`` [groups, rows, inputs] are
    rows that ``fit`` has not seen; ``pairs`` limits the sum of neighbours, in channels that cannot
    be stored exactly.  None where rounding to nearest is already best.
    """
    steps = matrices / scales[:, :, None]
    nearest = np.clip(np.rint(steps), *limits)
    part = _Part.of(np.abs(nearest - steps).max(axis=2) > EXACT)
    if pairs is not None:
        kept = pairs.nearest(part.take(steps), limits[1])
        nearest = part.put(nearest, np.asarray(kept, np.float64))
    wanted = part.take(steps).astype(np.float32)
    enough = fit.rows >= max(2, LEAST_ROWS * wanted.shape[2])
    if wanted.size == 0 or not enough or held.shape[1] < 1:
        return None
    damping = DAMPING if fit.rows >= PLENTY * wanted.shape[2] else STRONG_DAMPING
    moments, rows = fit.covariance(part.groups), held[part.groups]
    if not (np.isfinite(moments).all() and np.isfinite(rows).all()):
        return None
    start, steps = part.take(nearest).astype(np.float32), part.take(scales)
    bounds = _Bounds(limits) if pairs is None else _Bounds.of(pairs, limits, start)
    found = _round(wanted, bounds, _damped(moments, damping))
    if _error(found - wanted, steps, rows) >= _error(start - wanted, steps, rows):
        return None
    return part.put(nearest, found.astype(np.float64))


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

    def put(self, array: Float64, part: Float64) -> Float64:
        """``array`` with the part replaced."""
        result = array.copy()
        if self.outputs is None:
            result[self.groups] = part
        elif len(part):
            result[0, self.outputs] = part[0]
        return np.asarray(result)


@dataclass(frozen=True)
class _Bounds:
    """Between what a column's weights must lie, given the columns that are already rounded.

    ``most`` [groups, inputs, outputs] are magnitudes (of a pair that passes its limit when rounded
    to nearest, each keeps the share it has then); ``partners`` [groups, inputs] are the neighbours,
    -1 where there is none, and ``limit`` what neighbours of one sign may sum to.
    """

    limits: tuple[int, int]
    most: Float32 | None = None
    partners: NDArray[np.intp] | None = None
    limit: int = 0

    @classmethod
    def of(cls, pairs: Pairs, limits: tuple[int, int], nearest: Float32) -> _Bounds:
        """Those of ``pairs``; ``nearest`` [groups, outputs, inputs] keep them."""
        groups, outputs, inputs = nearest.shape
        most = np.full((groups, inputs, outputs), limits[1], np.float32)
        for one, other in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
            a, b = nearest[:, :, one], nearest[:, :, other]
            full = (a * b > 0) & (np.abs(a + b) == pairs.limit)
            most[:, one] = np.where(full, np.abs(a), limits[1]).transpose(0, 2, 1)
        partners = np.broadcast_to(pairs.partners(inputs), (groups, inputs))
        return cls(limits, most, partners, pairs.limit)

    def ordered(self, order: NDArray[np.intp]) -> _Bounds:
        """The same for columns taken in ``order`` [groups, inputs]."""
        if self.most is None or self.partners is None:
            return self
        place = np.argsort(order, axis=1)
        partners = np.take_along_axis(self.partners, order, axis=1)
        moved = np.take_along_axis(place, np.maximum(partners, 0), axis=1)
        return replace(
            self,
            most=np.take_along_axis(self.most, order[:, :, None], axis=1),
            partners=np.where(partners < 0, -1, moved),
        )

    def at(self, column: int, stored: Float32) -> tuple[Any, Any]:
        """The least and greatest whole numbers of a column; the later ones are ``stored``."""
        if self.most is None or self.partners is None:
            return self.limits
        most, partners = self.most[:, column], self.partners[:, column]
        known = partners > column
        if not known.any():
            return -most, most
        other = stored[np.arange(len(stored)), np.where(known, partners, column)]
        other = np.where(known[:, None], other, np.float32(0))
        low = np.maximum(-most, -self.limit - np.minimum(other, 0))
        return low, np.minimum(most, self.limit - np.maximum(other, 0))


def _error(difference: NDArray[Any], scales: Float64, rows: Float32) -> float:
    """The power of what a ``difference`` of the weights, in steps, adds to the outputs.

    A constant offset does not count, as it is the bias's business.
    """
    outputs = np.matmul(rows - rows.mean(axis=1, keepdims=True), difference.transpose(0, 2, 1))
    powers = np.einsum("gro,gro->go", outputs, outputs, dtype=np.float64)
    return float(np.sum(powers * scales**2))


def _damped(moments: Float32, damping: float) -> Float32:
    """``moments`` with the damping added to their diagonal, in place."""
    diagonal = np.einsum("gii->gi", moments)
    level = diagonal.mean(axis=1)
    diagonal += damping * np.where(level > 0.0, level, 1.0)[:, None]
    return moments


def _round(steps: Float32, bounds: _Bounds, moments: Float32) -> Float32:
    """One column of weights, in steps, after the other, those of the greatest moment first.

    With ``moments = U D U^T``, U unit upper triangular, the output error is the sum over columns of
    ``D[k] (e @ U)[k]^2``, e the errors of the weights: so the error that the earlier columns leave
    in column k is added to it before it is rounded (the form of Chee et al. 2023, QuIP,
    arXiv:2307.13304, theorem 6: it equals GPTQ without an inverse).
    """
    # Last is first: the factor is a lower triangle, and its last row belongs to the first column.
    order = np.argsort(np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    # Column k of the weights is a row here, so that what belongs together lies together.
    columns = np.take_along_axis(steps.transpose(0, 2, 1), order[:, :, None], axis=1)
    factor = _cholesky(_ordered(moments, order))
    factor /= np.einsum("gii->gi", factor)[:, None, :]
    stored = _round_backwards(columns, bounds.ordered(order), factor)
    result = np.empty_like(columns)
    np.put_along_axis(result, order[:, :, None], stored, axis=1)
    return np.ascontiguousarray(result.transpose(0, 2, 1))


def _ordered(moments: Float32, order: NDArray[np.intp]) -> Float32:
    """``moments`` with their rows and columns in ``order`` [groups, inputs]."""
    if len(moments) == 1:  # the index arrays of the general form would be twice the matrix
        return np.asarray(moments[0].take(order[0], axis=0).take(order[0], axis=1)[None])
    rows = np.take_along_axis(moments, order[:, :, None], axis=1)
    return np.take_along_axis(rows, order[:, None, :], axis=2)


def _round_backwards(columns: Float32, bounds: _Bounds, factor: Float32) -> Float32:
    """``columns`` [groups, inputs, outputs], the last first; ``factor`` is U^T, lower, unit."""
    stored, errors = np.empty_like(columns), np.empty_like(columns)
    inputs = columns.shape[1]
    for begin in reversed(range(0, inputs, BLOCK)):
        end = min(begin + BLOCK, inputs)
        left = np.matmul(factor[:, end:, begin:end].transpose(0, 2, 1), errors[:, end:])
        wanted = columns[:, begin:end] + left
        for column in reversed(range(begin, end)):
            found = np.rint(wanted[:, column - begin])
            np.clip(found, *bounds.at(column, stored), out=found)
            stored[:, column] = found
            errors[:, column] = columns[:, column] - found
            row = factor[:, column, begin:column, None]
            wanted[:, : column - begin] += row * errors[:, column, None, :]
    return stored


def _cholesky(matrices: Float32) -> Float32:
    """Lower triangular factors [groups, size, size], from the left, a panel at a time.

    All but the diagonal blocks is matrix products, which run several times as fast as LAPACK's.
    """
    size = matrices.shape[1]
    if size <= PANEL:
        return np.asarray(np.linalg.cholesky(matrices))
    factors = np.zeros_like(matrices)
    for matrix, factor in zip(matrices, factors, strict=True):
        for begin in range(0, size, PANEL):
            end = min(begin + PANEL, size)
            panel = matrix[begin:, begin:end] - factor[begin:, :begin] @ factor[begin:end, :begin].T
            block = np.linalg.cholesky(panel[: end - begin].astype(np.float64))
            factor[begin:end, begin:end] = block
            inverse = np.linalg.inv(block).T.astype(np.float32)
            factor[end:, begin:end] = panel[end - begin :] @ inverse
    return factors
