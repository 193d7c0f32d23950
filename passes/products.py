"""Weighted groups as what they are: an operand, a constant weight, a bias.

The mean of each output channel follows from the mean row of the operand, so neither side has to
compute its result to know how far the means are apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Array, Value
from qcc.passes.correct_bias import BiasSpot, constant_behind
from qcc.passes.fusion_plan import FusionGroup
from qcc.passes.operand_rows import Float32, Float64, LinearForm, linear_form
from qcc.passes.round_weights import round_by_rows
from qcc.passes.walk import real
from qcc.passes.weight_pairs import Pairs


@dataclass(frozen=True)
class Product:
    """A group of the numbered graph that multiplies ``operand`` with ``stored``, both quantized.

    ``weight`` and ``bias`` are what the float graph has in their place.
    """

    form: LinearForm
    operand: Value
    stored: Value
    weight: Array
    bias: Array | None

    @classmethod
    def of(cls, group: FusionGroup, theirs: FusionGroup) -> Product | None:
        """That of a ``group`` and its float original; None where it is no such product."""
        weight, anchor = theirs.weight, group.anchor
        if weight is None or weight.constant is None or theirs.anchor.input(1) is not weight:
            return None
        form, operand = linear_form(anchor, weight.constant), anchor.operand(0).producer
        stored = constant_behind(anchor.operand(1))
        if form is None or operand is None or stored.tensor.quant is None:
            return None
        bias = None if theirs.bias is None else theirs.bias.constant
        return cls(form, operand.operand(0), stored, weight.constant, bias)

    @property
    def zero_point(self) -> int:
        """That of the operand."""
        quant = self.operand.tensor.quant
        return 0 if quant is None else quant.zero_point[0]

    def round(self, fit: Array, held: Array, pair_limit: int | None) -> None:
        """Round the weight anew by rows of the stored operand (``round_weights.py``)."""
        quant = self.stored.tensor.quant
        if quant is None or any(quant.zero_point):
            return
        matrices = self.form.matrices(self.weight)
        groups, outputs, _ = matrices.shape
        found = round_by_rows(
            matrices,
            np.broadcast_to(quant.scales, groups * outputs).reshape(groups, outputs),
            quant.range,
            self._centred(fit),
            self._centred(held),
            Pairs.of(self.form, pair_limit),
        )
        if found is not None:
            self.stored.constant = self.form.weight(found.astype(quant.storage))

    def mean_error(self, spot: BiasSpot, seen: Float64, exact: Float64) -> NDArray[np.float64]:
        """By how much the means of the channels are too large: float64 [channels].

        ``seen`` and ``exact`` [groups, inputs] are the mean rows of the numbered operand and of the
        float one.
        """
        matrices = self.form.matrices(self.weight)
        stored = self.form.matrices(real(self.stored, np.asarray(self.stored.constant)))
        # Small differences times means, so float32 is exact enough.
        error = _times(stored - matrices, seen) + _times(matrices, seen - exact)
        given = constant_behind(spot.node.operand(spot.index))
        bias = real(given, np.asarray(given.constant)).astype(np.float64).reshape(-1)
        wanted = 0.0 if self.bias is None else np.asarray(self.bias, np.float64).reshape(-1)
        return np.asarray(error + bias - wanted)

    def mean_row(self, operands: Iterable[Array]) -> Float64:
        """The mean of all rows of ``operands`` (real or stored): float64 [groups, inputs]."""
        total, count = np.zeros((1, 1)), 0
        for array in operands:
            sums, rows = self.form.sum_of_rows(array)
            total, count = total + sums, count + rows
        return total / max(count, 1)

    def _centred(self, rows: Array) -> Float32:
        """Stored ``rows`` as real numbers, without their mean."""
        quant = self.operand.tensor.quant
        made: Float32 = rows.astype(np.float32)
        if made.size:
            made -= made.mean(axis=1, keepdims=True)  # and with it the zero point
        if quant is not None:
            made *= quant.scales
        return made


def _times(matrices: Float32, row: Float64) -> Float64:
    products = np.matmul(matrices, row.astype(np.float32)[:, :, None])
    return np.asarray(products, np.float64).reshape(-1)
