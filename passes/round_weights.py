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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.passes.operand_rows import Float32
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

FEW = 1 / 3
"""Rows for each input up to which the rows themselves cost less than their moments."""

MOST_ROWS = 8192
"""How many rows are asked for: where rows are plenty, more of them change nothing."""

MOST_ELEMENTS = 1 << 24
"""Elements that all rows may have together: operands of depthwise convolutions have many groups."""

MOST_PRODUCTS = 5 << 30
"""Products that the moments of a group may take; as many rows as inputs may always be asked for
(with a few times as many, the error of the output was 5 % smaller)."""

EXACT = 1e-4
"""A weight this close to its rounded value, in steps, counts as stored without error."""

PANEL = 64
"""Columns that are factored together."""

BLOCK = 8
"""Columns that hear of each other's errors one by one; more hear of them as matrix products."""


def rows_worth(groups: int, inputs: int) -> int:
    """How many rows of an operand repay their cost, held-out ones included."""
    products = max(MOST_PRODUCTS // inputs**2, inputs)
    return max(1, min(MOST_ROWS, MOST_ELEMENTS // (groups * inputs), products))


def round_by_rows(
    matrices: Float32,
    scales: Float32,
    limits: tuple[int, int],
    fit: Float32,
    held: Float32,
    pairs: Pairs | None = None,
) -> Float32 | None:
    """The rounded weights, whole numbers float32 [groups, outputs, inputs].

    ``matrices`` are the real weights, ``scales`` [groups, outputs] their steps (symmetric, zero
    point 0), ``limits`` the least and greatest stored value.  ``fit`` [groups, rows, inputs] are
    rows of the operand to fit to, ``held`` others to judge by, both without their mean: a constant
    offset of the output is the bias's business.  ``pairs`` limits the sum of neighbours, in
    channels that cannot be stored exactly.  None where rounding to nearest is already best.
    """
    steps = matrices / scales[:, :, None]
    nearest = np.clip(np.rint(steps), *limits)
    part = _Part.of(np.abs(nearest - steps).max(axis=2) > EXACT)
    wanted, rows, scales = part.take(steps), part.of_groups(fit), part.take(scales)
    enough = rows.shape[1] >= max(2, LEAST_ROWS * rows.shape[2])
    if pairs is not None:
        nearest = part.put(nearest, pairs.nearest(wanted, limits[1]))
    if wanted.size == 0 or not enough or held.shape[1] < 1:
        return None
    if not (np.isfinite(rows).all() and np.isfinite(held).all()):
        return None
    start = part.take(nearest)
    found = _round(wanted, start, limits, rows, pairs)
    judges = part.of_groups(held)
    if _error(found - wanted, scales, judges) >= _error(start - wanted, scales, judges):
        return None
    return part.put(nearest, found)


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

    def of_groups(self, array: Float32) -> Float32:
        """The chosen groups of an array [groups, ...]."""
        return array if self.groups.all() else np.asarray(array[self.groups], np.float32)

    def take(self, array: Float32) -> Float32:
        """The part of an array [groups, outputs, ...]."""
        part = self.of_groups(array)
        if self.outputs is None or self.outputs.all():
            return part
        return np.asarray(part[:, self.outputs], np.float32)

    def put(self, array: Float32, part: Float32) -> Float32:
        """``array`` with the part replaced."""
        result: Float32 = array.copy()
        if self.outputs is None:
            result[self.groups] = part
        elif len(part):
            result[0, self.outputs] = part[0]
        return result


@dataclass(frozen=True)
class _Bounds:
    """Between what a column's weights must lie, given the columns that are already rounded.

    ``most`` [inputs, outputs] are magnitudes (of a pair that passes its limit when rounded to
    nearest, each keeps the share it has then); ``partners`` [inputs] are the neighbours, -1 where
    there is none, and ``limit`` what neighbours of one sign may sum to.
    """

    limits: tuple[int, int]
    most: Float32 | None = None
    partners: NDArray[np.intp] | None = None
    limit: int = 0

    @classmethod
    def of(
        cls, pairs: Pairs, limits: tuple[int, int], nearest: Float32, order: NDArray[np.intp]
    ) -> _Bounds:
        """Those of ``pairs`` for columns taken in ``order``; ``nearest`` [outputs, inputs]."""
        nearest = np.ascontiguousarray(nearest.T)
        most = np.full_like(nearest, limits[1])
        a, b = nearest.take(pairs.first, axis=0), nearest.take(pairs.second, axis=0)
        full = np.abs(a + b) == pairs.limit
        most[pairs.first] = np.where(full, np.abs(a), limits[1])
        most[pairs.second] = np.where(full, np.abs(b), limits[1])
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        partners = pairs.partners(len(order))[order]
        partners = np.where(partners < 0, -1, place[partners])
        return cls(limits, most.take(order, axis=0), partners, pairs.limit)

    def keep(self, column: int, found: Float32, stored: Float32) -> None:
        """Move a column's ``found`` [groups, outputs] into its bounds; later ones are ``stored``.

        (``np.clip`` takes longer than everything else here.)
        """
        low, high = map(np.float32, self.limits)
        if self.most is None or self.partners is None:
            np.minimum(np.maximum(found, low, out=found), high, out=found)
            return
        most, partner = self.most[column], int(self.partners[column])
        np.minimum(np.maximum(found, -most, out=found), most, out=found)
        if partner > column:
            other, limit = stored[:, partner], np.float32(self.limit)
            np.add(found, other, out=found)
            np.minimum(np.maximum(found, -limit, out=found), limit, out=found)
            np.subtract(found, other, out=found)


def _error(difference: Float32, scales: Float32, rows: Float32) -> float:
    """The power of what a ``difference`` of the weights, in steps, adds to the outputs."""
    outputs = np.matmul(rows, difference.transpose(0, 2, 1))
    powers = np.einsum("gro,gro->go", outputs, outputs)
    return float(np.sum(powers * scales.astype(np.float64) ** 2))


def _round(
    steps: Float32, nearest: Float32, limits: tuple[int, int], rows: Float32, pairs: Pairs | None
) -> Float32:
    """One column of weights, in steps, after the other, those of the greatest moment first.

    With second moments ``U D U^T``, U unit upper triangular, the output error is the sum over
    columns of ``D[k] (e @ U)[k]^2``, e the errors of the weights: so the error that the earlier
    columns leave in column k is added to it before it is rounded (the form of Chee et al. 2023,
    QuIP, arXiv:2307.13304, theorem 6: it equals GPTQ without an inverse).
    """
    powers = np.einsum("gri,gri->gi", rows, rows)
    # Last is first: the factor is a lower triangle, and its last row belongs to the first column.
    order = np.argsort(powers, axis=1, kind="stable")
    share = DAMPING if rows.shape[1] >= PLENTY * rows.shape[2] else STRONG_DAMPING
    level = powers.mean(axis=1)
    damping = np.float32(share) * np.where(level > 0, level, np.float32(1))
    if pairs is None and rows.shape[1] > FEW * rows.shape[2]:
        return _round_ordered(steps, order, _Bounds(limits), rows, damping)
    found = np.empty_like(steps)
    for group in range(len(steps)):
        one, bounds = slice(group, group + 1), _Bounds(limits)
        if pairs is not None:
            bounds = _Bounds.of(pairs, limits, nearest[group], order[group])
        found[one] = _round_ordered(steps[one], order[one], bounds, rows[one], damping[one])
    return found


def _round_ordered(
    steps: Float32, order: NDArray[np.intp], bounds: _Bounds, rows: Float32, damping: Float32
) -> Float32:
    """The same with the ``order`` [groups, inputs] of columns, bounds and ``damping`` known."""
    # Column k of the weights is a row here, so that what belongs together lies together.
    columns = np.ascontiguousarray(_taken(steps, order).transpose(0, 2, 1))
    rounding = _Rounding(columns, columns.copy(), np.empty_like(columns), bounds)
    if rows.shape[1] > FEW * rows.shape[2]:
        rounding.by_moments(_moments(rows, order), damping)
    else:
        rounding.by_rows(_taken(rows, order)[0], damping[0])
    return _taken(np.ascontiguousarray(rounding.stored.transpose(0, 2, 1)), np.argsort(order))


def _taken(array: Float32, order: NDArray[np.intp]) -> Float32:
    """``array`` [groups, any, inputs] in ``order`` [groups, inputs]."""
    if len(array) == 1:
        return np.asarray(array[0].take(order[0], axis=1)[None], np.float32)
    return np.take_along_axis(array, order[:, None, :], axis=2)


def _moments(rows: Float32, order: NDArray[np.intp]) -> Float32:
    """The second moments [groups, inputs, inputs] of ``rows``, in ``order``."""
    if len(rows) == 1:
        part = _taken(rows, order)[0]
        return np.asarray((part.T @ part)[None])  # seen to be symmetric: half the work
    # Many groups have few inputs each: their moments are smaller than their rows.
    moments = np.matmul(rows.transpose(0, 2, 1), rows)
    return _taken(np.take_along_axis(moments, order[:, :, None], axis=1), order)


@dataclass(frozen=True)
class _Rounding:
    """Columns [groups, inputs, outputs], the last rounded first.

    ``wanted`` begins as the ``columns`` and hears of the errors of later columns; where a column
    has been rounded it holds the column's own error, real minus ``stored``.
    """

    columns: Float32
    wanted: Float32
    stored: Float32
    bounds: _Bounds

    def by_moments(self, moments: Float32, damping: Float32) -> None:
        """Round by second moments [groups, inputs, inputs]."""
        np.einsum("gii->gi", moments)[...] += damping[:, None]
        factor = _cholesky(moments)
        factor /= np.einsum("gii->gi", factor)[:, None, :]
        self._descend(factor, 0, 0, self.columns.shape[1])

    def by_rows(self, rows: Float32, damping: float) -> None:
        """The same for fewer ``rows`` [rows, inputs] than inputs, without their moments.

        Of U all that is needed is ``U[k, j] = v[k] @ x[j]`` for j > k, where x are the columns of
        ``rows`` and ``v[k]`` is ``(damping I + sum over i <= k of x[i] x[i]^T)^-1 x[k]`` (the
        matrix inversion lemma), which is what recursive least squares finds, panel by panel.
        """
        inputs = rows.shape[1]
        gains, inverse = np.empty_like(rows), np.eye(len(rows), dtype=np.float32) / damping
        panels = [(begin, min(begin + PANEL, inputs)) for begin in range(0, inputs, PANEL)]
        for begin, end in panels:
            x = rows[:, begin:end]
            moved = inverse @ x
            lower = np.linalg.cholesky(np.eye(end - begin) + x.T @ moved)
            moved = moved @ np.linalg.inv(lower).T.astype(np.float32)
            gains[:, begin:end] = moved / np.diagonal(lower).astype(np.float32)
            inverse -= moved @ moved.T
        outputs = np.zeros((len(rows), self.columns.shape[2]), np.float32)
        for begin, end in reversed(panels):
            self.wanted[0, begin:end] += gains[:, begin:end].T @ outputs
            inner = rows[:, begin:end].T @ gains[:, begin:end]
            self._descend(inner[None], begin, begin, end)
            outputs += rows[:, begin:end] @ self.wanted[0, begin:end]

    def _descend(self, factor: Float32, origin: int, begin: int, end: int) -> None:
        """Round columns ``begin`` to ``end``; ``factor`` is U^T from column ``origin`` on."""
        if end - begin <= BLOCK:
            for column in reversed(range(begin, end)):
                self._column(factor[:, column - origin, begin - origin : column - origin], column)
            return
        middle = (begin + end) // 2
        self._descend(factor, origin, middle, end)
        part = factor[:, middle - origin : end - origin, begin - origin : middle - origin]
        self.wanted[:, begin:middle] += np.matmul(
            part.transpose(0, 2, 1), self.wanted[:, middle:end]
        )
        self._descend(factor, origin, begin, middle)

    def _column(self, row: Float32, column: int) -> None:
        """Round one column; ``row`` [groups, columns] says what those just before it hear."""
        stored = self.stored[:, column]
        np.rint(self.wanted[:, column], out=stored)
        self.bounds.keep(column, stored, self.stored)
        error = np.subtract(self.columns[:, column], stored, out=self.wanted[:, column])
        self.wanted[:, column - row.shape[1] : column] += row[:, :, None] * error[:, None, :]


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
