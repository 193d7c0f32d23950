"""Weights become int8 constants, biases int32 ones whose scale follows (contract 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qcc import numerics
from qcc.ir.core import Array
from qcc.ir.types import Quant
from qcc.passes.operand_rows import LinearForm
from qcc.passes.weight_pairs import Pairs
from qcc.quant.lattice import TOLERANCE, step_of
from qcc.quant.observers import ObserverSpec
from qcc.quant.qparams import QuantParams

BIAS_LIMIT = 2**30
"""Largest magnitude of a stored bias (contract 3)."""

FIRST = 512
"""Weights of a channel that are looked at first: most show at once that they lie on no grid."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class QuantizedWeight:
    """A stored weight with its parameters, and the sentences about what had to be adjusted."""

    stored: Array
    quant: Quant
    notes: tuple[str, ...] = ()

    @property
    def real(self) -> FloatArray:
        """The weight as the integers mean it, float32."""
        q = self.quant
        return numerics.dequantize(self.stored, q.scales, q.zero_points, axis=q.axis)


def quantize_weight(
    label: str,
    weight: FloatArray,
    axis: int,
    spec: ObserverSpec,
    input_scale: float,
    bias: FloatArray | None,
    form: LinearForm | None = None,
    pair_limit: int | None = None,
    keeps_grids: bool = True,
) -> QuantizedWeight:
    """Quantize a weight by the qconfig's observer: one scale a channel of ``axis`` if it has those.

    Channels whose weights already lie on a grid that fits keep its step and are stored without
    error; an all-zero channel takes the median scale of the others.  A channel whose bias would
    pass 2^30 in units of ``input_scale * scale`` has its scale raised until it fits; a note says
    so.  With a ``pair_limit``, neighbouring inputs of ``form`` keep it (``weight_pairs.py``) in all
    channels that are not on a grid of their own, and without ``keeps_grids`` in those, too.
    """
    observer = (spec if spec.ch_axis is None else spec.with_args(ch_axis=axis))(label)
    observer.update(weight)
    params = _fill_empty_channels(observer.qparams(), weight)
    params = _keep_grid(params, weight)
    pairs = Pairs.of(form, pair_limit) if form is not None and _is_plain(params, axis) else None
    if form is not None and pairs is not None:
        grids = _grids(params, weight, form, None if keeps_grids else pairs)
        params = _grow_scales(params, weight, form, pairs, grids)
    params, notes = _fit_bias(params, input_scale, bias, label)
    stored = numerics.quantize(
        weight,
        params.scales,
        params.zero_points,
        params.storage,
        axis=params.axis,
        low=params.quant_min,
        high=params.quant_max,
    )
    if form is not None and pairs is not None:
        grids = _grids(params, weight, form, None if keeps_grids else pairs)
        stored = _keep_pairs(stored, params, weight, form, pairs, grids)
    return QuantizedWeight(stored, params.to_quant(), notes)


def _is_plain(params: QuantParams, axis: int) -> bool:
    """Whether weights are symmetric, with a scale for each output channel."""
    return params.axis == axis and not any(params.zero_point)


def _real_steps(params: QuantParams, weight: FloatArray, form: LinearForm) -> FloatArray:
    """The weight in units of its scales, not rounded: float32 [groups, outputs, inputs]."""
    matrices = form.matrices(weight)
    return matrices / params.scales.reshape(matrices.shape[:2])[:, :, None]


def _on_grid(steps: FloatArray) -> NDArray[np.bool_]:
    """Which channels are stored without error: [groups, outputs]."""
    return np.asarray(np.abs(steps - np.rint(steps)).max(axis=2) <= TOLERANCE)


def _grids(
    params: QuantParams, weight: FloatArray, form: LinearForm, pairs: Pairs | None
) -> NDArray[np.bool_]:
    """Which channels [groups, outputs] lie on a grid whose step stays.

    With ``pairs``, those whose weights pass the limit there are not among them.
    """
    steps = _real_steps(params, weight, form)
    found = _on_grid(steps)
    return found if pairs is None else found & ~pairs.broken(np.rint(steps)).any(axis=2)


def _grow_scales(
    params: QuantParams,
    weight: FloatArray,
    form: LinearForm,
    pairs: Pairs,
    grids: NDArray[np.bool_],
) -> QuantParams:
    """Scales at which few pairs pass the limit; those of ``grids`` stay."""
    steps = _real_steps(params, weight, form)
    growth = np.where(grids, np.float32(1), pairs.growth(steps, params.quant_max))
    scales = params.scales * growth.reshape(-1)
    return replace(params, scale=tuple(float(s) for s in scales))


def _keep_pairs(
    stored: Array,
    params: QuantParams,
    weight: FloatArray,
    form: LinearForm,
    pairs: Pairs,
    grids: NDArray[np.bool_],
) -> Array:
    """``stored`` with the pairs that pass the limit moved; channels on ``grids`` stay."""
    steps = _real_steps(params, weight, form)
    kept = form.matrices(stored)
    moved = np.where(grids[:, :, None], kept, pairs.nearest(steps, params.quant_max))
    return form.weight(moved).astype(stored.dtype)


def _fill_empty_channels(params: QuantParams, weight: FloatArray) -> QuantParams:
    if params.axis is None:
        return params
    others = tuple(i for i in range(weight.ndim) if i != params.axis)
    empty = np.abs(weight).max(axis=others) == 0
    if not empty.any() or empty.all():
        return params
    scales = params.scales.copy()
    scales[empty] = np.median(scales[~empty])
    return replace(params, scale=tuple(float(s) for s in scales))


def _keep_grid(params: QuantParams, weight: FloatArray) -> QuantParams:
    """Give each symmetric channel the step of the grid that its weights already lie on.

    A model that was trained with one step a tensor has channels that use few of the 255 values: the
    observer's scale spreads them over all, and so moves every weight.
    """
    if params.axis is None or any(params.zero_point):
        return params
    rows = np.moveaxis(weight, params.axis, 0).reshape(weight.shape[params.axis], -1)
    scales = params.scales.copy()
    few = np.flatnonzero(_few_values(rows[:, :FIRST], 2 * params.quant_max + 1))
    steps = rows[few] / scales[few, None]
    inexact = np.abs(steps - np.rint(steps)).max(axis=1) > TOLERANCE
    for channel in few[inexact]:
        row = rows[channel]
        step = step_of(row, params.quant_max)
        if step is not None:
            scales[channel] = step
    return replace(params, scale=tuple(float(s) for s in scales))


def _few_values(rows: FloatArray, most: int) -> NDArray[np.bool_]:
    """Which rows hold at most ``most`` different numbers."""
    if rows.shape[1] <= most:
        return np.ones(len(rows), np.bool_)
    ordered = np.sort(rows, axis=1)
    return np.asarray((ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) < most)


def _fit_bias(
    params: QuantParams, input_scale: float, bias: FloatArray | None, label: str
) -> tuple[QuantParams, tuple[str, ...]]:
    if bias is None:
        return params, ()
    least = np.abs(np.asarray(bias, np.float64)) / (float(input_scale) * (BIAS_LIMIT - 1))
    least = least if params.axis is not None else least.max(keepdims=True)
    raised = np.asarray(params.scales, np.float64) < least
    if not raised.any():
        return params, ()
    scales = np.maximum(params.scales, np.nextafter(np.float32(least), np.float32(np.inf)))
    note = (
        f"the weight scale of {int(raised.sum())} channels of '{label}' was raised so that the "
        "bias fits int32"
    )
    return replace(params, scale=tuple(float(s) for s in scales)), (note,)


def quantize_bias(bias: FloatArray, input_scale: float, weight: Quant) -> tuple[Array, Quant]:
    """The int32 bias [channels] and its type: scale ``s_x * s_w[c]``, zero point 0."""
    scale = numerics.bias_scale(np.float32(input_scale), weight.scales)
    ratio = np.rint(np.asarray(bias, np.float64) / np.asarray(scale, np.float64))
    stored = np.clip(ratio, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32)
    return stored, Quant.make("int32", scale, 0, None if scale.size == 1 else 0)
