"""The numerics contract of qcc, written once: every integer formula that kernels must reproduce.

All functions take and give numpy arrays; floats are IEEE binary32 and every operation written here
is a separate float32 operation in exactly this order (no reassociation, and no fused multiply-add
but in the float32 products of :mod:`qcc.fused`).
``docs/numerics.md`` states the same rules for users.  A kernel is correct if and only if it gives
the bytes that these functions give.

Rounding is round-half-to-even (``numpy.rint``).  A value that leaves the int32 range after rounding
saturates first to the bounds of float32-representable int32 and then to the storage bounds, so the
result is the same as clamping in float before the conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcc.fused import sums_of_products

F32 = np.float32
FloatArray = NDArray[np.float32]
IntArray = NDArray[Any]

STORAGE_RANGE: dict[str, tuple[int, int]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int32": (-(2**31), 2**31 - 1),
    "int4": (-8, 7),
    "uint4": (0, 15),
}
"""Inclusive bounds of every storage type that a quantized tensor can have."""


EXACT_BOUND = 2**22
"""Whole numbers up to this size, and sums of two, are exact in float32."""


def per_axis(parameter: Any, rank: int, axis: int | None) -> Any:
    """Reshape a per-channel parameter (1-D) so that it broadcasts along ``axis`` of a tensor.

    A scalar, or ``axis=None``, comes back as a 0-D array.
    """
    values = np.asarray(parameter)
    if axis is None:
        return values.reshape(())
    shape = [1] * rank
    shape[axis % rank] = -1
    return values.reshape(shape)


def round_saturate(value: Any, zero_point: Any, low: int, high: int) -> IntArray:
    """Round float32 ``value`` half to even, add ``zero_point`` and clamp to ``[low, high]``; int32.

    NaN becomes ``low`` before the zero point, as the hardware's ordered compare gives: the float is
    first clamped to +-2^30, which no in-range result can distinguish.
    """
    value, zero = np.asarray(value, F32), np.asarray(zero_point)
    if low <= high and max(-low, high, np.abs(zero).max(initial=0)) <= EXACT_BOUND:
        # The same in fewer steps: clamped before rounding, by bounds that float32 holds exactly.
        least, most = (low - zero).astype(F32), (high - zero).astype(F32)
        rounded = np.rint(np.fmin(np.fmax(value, least), most)).astype(np.int32)
        return np.asarray(rounded + zero.astype(np.int32), np.int32)
    bounded = np.minimum(np.maximum(value, F32(-(2.0**30))), F32(2.0**30))
    rounded = np.rint(np.where(np.isnan(bounded), F32(-(2.0**30)), bounded)).astype(np.int64)
    return np.asarray(np.clip(rounded + zero_point, low, high), np.int32)


def quantize(
    x: Any,
    scale: Any,
    zero_point: Any,
    storage: str,
    *,
    axis: int | None = None,
    low: int | None = None,
    high: int | None = None,
) -> IntArray:
    """Contract 1: ``saturate(round_half_even(x / scale) + zero_point)``, float32, true division.

    ``x`` float32 of any shape; ``scale``/``zero_point`` scalars, or 1-D along ``axis``.
    ``low`` and ``high`` narrow the storage range (inclusive; such as [-127, 127]).
    """
    x = np.asarray(x, F32)
    bottom, top = STORAGE_RANGE[storage]
    s = per_axis(np.asarray(scale, F32), x.ndim, axis)
    z = per_axis(np.asarray(zero_point, np.int64), x.ndim, axis)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = (x / s).astype(F32)
    q = round_saturate(ratio, z, bottom if low is None else low, top if high is None else high)
    return q.astype(storage_dtype(storage))


def dequantize(q: Any, scale: Any, zero_point: Any, *, axis: int | None = None) -> FloatArray:
    """Contract 1: ``float32(q - zero_point) * scale``."""
    q = np.asarray(q)
    s = per_axis(np.asarray(scale, F32), q.ndim, axis)
    wide = np.int32 if q.dtype.itemsize <= 2 else np.int64  # both hold every difference
    z = per_axis(np.asarray(zero_point, wide), q.ndim, axis)
    result: FloatArray = (q.astype(wide) - z).astype(F32) * s
    return result


def requantize_multiplier(s_x: Any, s_w: Any, s_y: Any) -> FloatArray:
    """Contract 4: ``m[c] = float32(s_x * s_w[c] / s_y)``, computed in float64 and rounded once."""
    s = np.asarray(s_x, np.float64) * np.asarray(s_w, np.float64) / np.asarray(s_y, np.float64)
    return np.asarray(s, F32)


def requantize(
    acc: Any,
    multiplier: Any,
    zero_point: int,
    low: int,
    high: int,
    residual: Any | None = None,
    residual_multiplier: float = 0.0,
    residual_zero_point: int = 0,
) -> IntArray:
    """Contract 4: ``clamp(round_half_even(float32(acc) * m + float32(r - z_r) * m_r) + z)``; int32.

    ``acc`` int32 (bias included), ``multiplier`` float32 broadcastable to it.  Without ``residual``
    the second term is absent.  The product, the second product and their sum round separately.
    ``[low, high]`` are the clamp bounds in quantized units and carry Relu and Clip.
    """
    value = np.asarray(acc, np.int32).astype(F32) * np.asarray(multiplier, F32)
    if residual is not None:
        centred = (np.asarray(residual).astype(np.int32) - residual_zero_point).astype(F32)
        value = value + centred * F32(residual_multiplier)
    return round_saturate(value, zero_point, low, high)


def dequantize_accumulator(acc: Any, multiplier: Any) -> FloatArray:
    """Float output of a conv or matmul: ``float32(acc) * m`` with ``m = float32(s_x * s_w)``."""
    result: FloatArray = np.asarray(acc, np.int32).astype(F32) * np.asarray(multiplier, F32)
    return result


def storage_dtype(storage: str) -> np.dtype[Any]:
    """The numpy dtype that holds ``storage`` (4-bit values live one a byte)."""
    return np.dtype({"int4": "int8", "uint4": "uint8"}.get(storage, storage))


def bias_scale(s_x: Any, s_w: Any) -> FloatArray:
    """Contract 3: the scale of an int32 bias, ``float32(s_x * s_w[c])``."""
    return (np.asarray(s_x, np.float64) * np.asarray(s_w, np.float64)).astype(F32)


def accumulator_bound(
    weight: IntArray, bias: IntArray | None, x_low: int, x_high: int, channel_axis: int
) -> int:
    """Largest ``|acc|`` that any input in ``[x_low, x_high]`` (zero point removed) can produce.

    Exact: per output channel, positive and negative weights are summed against the extreme inputs.
    Contract 2 holds when this is below 2^31.
    """
    w = np.moveaxis(np.asarray(weight, np.int64), channel_axis, 0).reshape(
        weight.shape[channel_axis], -1
    )
    positive, negative = np.maximum(w, 0).sum(1), np.minimum(w, 0).sum(1)
    b = np.zeros(len(w), np.int64) if bias is None else np.asarray(bias, np.int64).ravel()
    highest = positive * x_high + negative * x_low + b
    lowest = positive * x_low + negative * x_high + b
    extreme = np.maximum(np.abs(highest), np.abs(lowest))
    return int(extreme.max(initial=0))


def unary_table(
    function: Any,
    in_scale: float,
    in_zero_point: int,
    in_storage: str,
    out_scale: float,
    out_zero_point: int,
    out_storage: str,
) -> IntArray:
    """Contract 6: the 256-entry table of a unary function of an 8-bit tensor.

    ``function`` maps a float32 array to a float32 array of the same shape (it is the reference
    implementation of the float op).  Entry ``i`` belongs to the stored *bit pattern* ``i``, so a
    table for int8 is indexed by ``q & 255``.
    """
    patterns = np.arange(256, dtype=np.uint8).view(storage_dtype(in_storage))
    y = np.asarray(function(dequantize(patterns, in_scale, in_zero_point)), F32)
    return quantize(y, out_scale, out_zero_point, out_storage)


# -- float32 softmax and sigmoid (contract 11) ---------------------------------------------------

EXP_LEAST = F32(-87.0)
"""Below this the exponential is 0; from here on it is a normal float32."""
EXP_ROUNDER = F32(1.5 * 2.0**23 + 127)
"""Added to a small v, it leaves ``rint(v) + 127``, a biased exponent, in the sum's low bits."""
LOG2_E = F32(float.fromhex("0x1.715476p+0"))
LN2_HIGH = F32(float.fromhex("0x1.62e4p-1"))
"""The first 15 bits of ln 2: its products with exponents are exact (Cody and Waite, 1980)."""
LN2_LOW = F32(float.fromhex("0x1.7f7d1cp-20"))
"""The float32 nearest to the rest of ln 2."""
EXP_POLYNOMIAL: tuple[np.float32, ...] = tuple(
    F32(float.fromhex(text))
    for text in (
        "0x1.6a4d60p-10",
        "0x1.12398ep-7",
        "0x1.5558b0p-5",
        "0x1.555492p-3",
        "0x1.fffffcp-2",
        "0x1p+0",
        "0x1p+0",
    )
)
"""Coefficients of exp on [-ln 2 / 2, ln 2 / 2], highest power first.

The minimax polynomial of relative error with the last two coefficients 1, found by reweighted least
squares and rounded coefficient by coefficient; its own error is below 3.2e-9.
"""
SUM_LANES = 8
"""Partial sums of a softmax's row, on every instruction set."""


def exponential(d: Any) -> FloatArray:
    """Contract 11: ``exp(d)`` of float32 ``d <= 0``; 0 below -87 and NaN of NaN.

    Within 1.25 units in the last place of the exact value.  Every product and sum rounds.
    """
    d = np.asarray(d, F32)
    with np.errstate(all="ignore"):
        shifted = np.asarray(d * LOG2_E + EXP_ROUNDER)
        n = shifted - EXP_ROUNDER
        r = d - n * LN2_HIGH - n * LN2_LOW
        p = np.full_like(r, EXP_POLYNOMIAL[0])
        for coefficient in EXP_POLYNOMIAL[1:]:
            p = p * r + coefficient
        power = (shifted.view(np.uint32) << np.uint32(23)).view(F32)
        return np.asarray(np.where(d < EXP_LEAST, F32(0), p * power), F32)


def softmax(x: Any) -> FloatArray:
    """Contract 11: softmax of float32 ``x`` (rank at least 1) along its last axis.

    A row that holds NaN or +inf, or nothing but -inf, becomes NaN (always ``0x7fc00000``).
    """
    x = np.asarray(x, F32)
    if x.size == 0:
        return np.array(x)
    with np.errstate(all="ignore"):
        terms = exponential(x - x.max(axis=-1, keepdims=True))
        total = sum_in_lanes(terms).astype(F32)
        return np.asarray(np.where(np.isnan(total), F32(np.nan), terms / total), F32)


def sum_in_lanes(terms: Any) -> NDArray[np.float64]:
    """Contracts 11, 12 and 14: the float64 sum along the last axis, kept as an axis of size 1.

    Element ``i`` is added, in order, to partial sum ``i % SUM_LANES``, which begins as +0; partial
    sums are added in halves.
    """
    terms = np.asarray(terms, np.float64)
    missing = -terms.shape[-1] % SUM_LANES
    padded = np.pad(terms, [(0, 0)] * (terms.ndim - 1) + [(0, missing)])
    blocks = padded.reshape(*terms.shape[:-1], -1, SUM_LANES)
    # The last + 0 turns a sum of nothing but -0 into +0, which it is with +0 as the first term.
    lanes = np.add.accumulate(blocks, axis=-2)[..., -1, :] + 0.0
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return np.asarray(lanes, np.float64)


def sigmoid(x: Any) -> FloatArray:
    """Contract 11: ``1 / (1 + exp(-|x|))`` of float32 ``x``, with ``exp(-|x|)`` above it for x < 0.

    NaN becomes the NaN ``0x7fc00000``.
    """
    x = np.asarray(x, F32)
    with np.errstate(all="ignore"):
        small = exponential(-np.abs(x))
        y = np.where(x < 0, small, F32(1)) / (F32(1) + small)
        return np.asarray(np.where(np.isnan(x), F32(np.nan), y), F32)


# -- float32 layer normalization (contract 12) ---------------------------------------------------


def layer_norm(x: Any, scale: Any, bias: Any | None, epsilon: float) -> FloatArray:
    """Contract 12: normalization of float32 ``x`` (rank at least 1) along its last axis.

    ``scale`` and ``bias`` are float32 and broadcast to ``x``.  The mean and the mean of squares are
    float64 sums in lanes; every NaN of the result is ``0x7fc00000``.
    """
    x = np.asarray(x, F32)
    if x.size == 0:
        return np.array(x)
    with np.errstate(all="ignore"):
        count = np.float64(x.shape[-1])
        d = x - (sum_in_lanes(x) / count).astype(F32)
        variance = sum_in_lanes(np.square(d.astype(np.float64))) / count
        root = np.sqrt(variance + np.float64(F32(epsilon)))
        y = d * (np.float64(1) / root).astype(F32) * np.asarray(scale, F32)
        if bias is not None:
            y = y + np.asarray(bias, F32)
        return one_nan(y)


# -- reductions of float32 rows (contract 14) ----------------------------------------------------


def row_sum(x: Any) -> FloatArray:
    """Contract 14: the sum of float32 ``x`` along its last axis, which stays with size 1."""
    with np.errstate(all="ignore"):
        return one_nan(sum_in_lanes(np.asarray(x, F32)).astype(F32))


def row_mean(x: Any) -> FloatArray:
    """Contract 14: the mean of float32 ``x`` along its last axis, which stays with size 1."""
    x = np.asarray(x, F32)
    with np.errstate(all="ignore"):
        return one_nan((sum_in_lanes(x) / np.float64(x.shape[-1])).astype(F32))


def row_length(x: Any) -> FloatArray:
    """Contract 14: the Euclidean length of float32 ``x`` along its last axis, kept with size 1."""
    with np.errstate(all="ignore"):
        squares = np.square(np.asarray(x, np.float64))
        return one_nan(np.sqrt(sum_in_lanes(squares)).astype(F32))


# -- float32 matrix product (contract 13) --------------------------------------------------------


def matmul(a: Any, b: Any) -> FloatArray:
    """Contract 13: ``[..., M, K] @ [..., K, N]`` in float32; leading axes broadcast.

    A result begins as +0, and products are added in ascending order, each by one fused
    multiply-add; every NaN is ``0x7fc00000``.
    """
    a, b = np.asarray(a, F32), np.asarray(b, F32)
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    left = np.broadcast_to(a, (*leading, *a.shape[-2:]))
    right = np.broadcast_to(b, (*leading, *b.shape[-2:]))
    total = np.empty((*leading, a.shape[-2], b.shape[-1]), F32)
    for index in np.ndindex(*leading):
        total[index] = sums_of_products(left[index][:, None], right[index][None], F32(0))[:, 0]
    return total


# -- float32 convolutions and pools (contract 16) ------------------------------------------------


def larger(a: Any, b: Any) -> FloatArray:
    """The larger operand, element by element: ``b`` of two equal ones, NaN where either is NaN.

    Which of two zeros numpy's ``maximum`` gives depends on the machine; here it is always ``b``.
    """
    return np.asarray(np.where((a > b) | np.isnan(a), a, b), F32)


def smaller(a: Any, b: Any) -> FloatArray:
    """The smaller operand, with the rules of :func:`larger`."""
    return np.asarray(np.where((a < b) | np.isnan(a), a, b), F32)


def finished(
    y: Any, residual: Any | None = None, low: float | None = None, high: float | None = None
) -> FloatArray:
    """Contract 16: what follows the products: ``y + residual``, then ``low``, then ``high``.

    Each is skipped where it is None; every NaN of the result is ``0x7fc00000``.
    """
    y = np.asarray(y, F32)
    with np.errstate(all="ignore"):
        if residual is not None:
            y = y + np.asarray(residual, F32)
        if low is not None:
            y = larger(y, F32(low))
        if high is not None:
            y = smaller(y, F32(high))
        return one_nan(y)


def window_maximum(taps: Sequence[Any]) -> FloatArray:
    """Contract 16: the maximum of float32 arrays, one a tap of a window, in their order."""
    found = np.asarray(taps[0], F32)
    for tap in taps[1:]:
        found = larger(found, np.asarray(tap, F32))
    return one_nan(found)


def window_mean(taps: Sequence[Any], counts: Any) -> FloatArray:
    """Contract 16: the float64 sum of ``taps`` in their order over ``counts``, rounded once."""
    with np.errstate(all="ignore"):
        total = np.zeros(np.shape(taps[0]))
        for tap in taps:
            total += np.asarray(tap, F32)
        return one_nan((total / np.asarray(counts, np.float64)).astype(F32))


def one_nan(y: Any) -> FloatArray:
    """``y`` with every NaN as ``0x7fc00000``."""
    return np.asarray(np.where(np.isnan(y), F32(np.nan), y), F32)
