"""Do the scales of a Q/DQ node fit its tensor, and do they lie along the right axis of a weight?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcc.lint.findings import Problem
from qcc.lint.index import Array, ModelIndex
from qcc.lint.quantizers import MOVES, Product, Quantizer, products, quantizers
from qcc.lint.repairs import FlattenScales, Repair, RequantizeWeight, SetAxis

PER_AXIS_SINCE = 13
BLOCKS_SINCE = 21

NEARLY_FULL = 0.98
"""A channel was stored with a scale of its own where its largest value is this share of the range.

Scales are made of the largest value of a channel, which is then stored as the end of the range.
"""


def unfitting(index: ModelIndex) -> Iterator[Problem]:
    """Scales and zero points whose shapes the op's definition does not allow."""
    for quantizer in quantizers(index):
        message = misfit(quantizer)
        if message is not None:
            yield Problem(quantizer.operation, message, _repair_of_misfit(quantizer))


def misfit(q: Quantizer) -> str | None:
    """Why the scales of a Q/DQ node do not fit its tensor; None where nothing speaks against."""
    if q.scale is None:
        return None
    if q.zero_point is not None and q.zero_point.size != q.scale.size:
        return (
            f"it has {q.scale.size} scales and {q.zero_point.size} zero points; give both the same "
            "shape"
        )
    if q.block_size:
        return _misfit_of_blocks(q)
    return None if q.scale.size == 1 else _misfit_of_axis(q)


def _misfit_of_axis(q: Quantizer) -> str | None:
    assert q.scale is not None
    if q.scale.ndim != 1:
        return (
            f"its scale has the shape {list(q.scale.shape)}: give one scale, or a list of one a "
            "channel, or block_size"
        )
    if q.index.opset < PER_AXIS_SINCE and not q.operation.proto.domain:
        return (
            f"scales of channels need opset {PER_AXIS_SINCE}, and the model uses {q.index.opset}: "
            "export it with a newer opset"
        )
    shape = q.index.shape(q.data)
    if shape is None:
        return None
    if not -len(shape) <= q.axis < len(shape):
        return f"axis {q.axis} does not exist in a tensor of rank {len(shape)}: correct the axis"
    size = shape[q.axis]
    if isinstance(size, int) and size != q.scale.size:
        return (
            f"it has {q.scale.size} scales along axis {q.axis}, which has {size} elements: correct "
            "the axis or the scales"
        )
    return None


def _misfit_of_blocks(q: Quantizer) -> str | None:
    assert q.scale is not None
    if q.index.opset < BLOCKS_SINCE:
        return (
            f"block_size needs opset {BLOCKS_SINCE}, and the model uses {q.index.opset}: export it "
            "with a newer opset"
        )
    shape = q.index.shape(q.data)
    if shape is None or not all(isinstance(size, int) for size in shape):
        return None
    if not -len(shape) <= q.axis < len(shape):
        return f"axis {q.axis} does not exist in a tensor of rank {len(shape)}: correct the axis"
    expected = list(shape)
    expected[q.axis] = -(-expected[q.axis] // q.block_size)
    if list(q.scale.shape) == expected:
        return None
    return (
        f"blocks of {q.block_size} along axis {q.axis} of {list(shape)} need scales of the shape "
        f"{expected}, not {list(q.scale.shape)}: correct the scales, block_size or the axis"
    )


def _repair_of_misfit(q: Quantizer) -> Repair | None:
    """The right axis of a weight whose scales do not fit the axis that is written.

    Scales of channels with dimensions of 1 beside them are written as a list.
    """
    if q.block_size or q.scale is None:
        return None
    if q.scale.ndim > 1:
        zeros = q.zero_point is not None or not q.has_zero_point
        return FlattenScales(q.operation) if zeros and max(q.scale.shape) == q.scale.size else None
    if q.quantizes:
        return None
    for product in products(q.index):
        weight = product.weight
        if weight is not None and weight.operation is q.operation:
            found = misplaced(product)
            return None if found is None else found.repair
    return None


# -- the axis of weights ---------------------------------------------------------------------------


def misplaced(product: Product, consequence: str = "") -> Problem | None:
    """The problem of a weight whose scales lie along another axis than its output channels.

    ``consequence`` is what the target makes of it, a clause.
    """
    weight = product.weight
    rank = None if weight is None else weight.rank
    if weight is None or rank is None or weight.scale is None or weight.block_size:
        return None
    right = product.weight_axis(rank)
    if weight.scale.size <= 1 or right is None or not -rank <= weight.axis < 2 * rank:
        return None
    written = weight.axis + rank if weight.axis < 0 else weight.axis
    if written == right:
        return None
    repair = axis_repair(product, weight, written, right)
    shape = list(weight.index.shape(weight.data) or ())
    advice = _advice(repair, right)
    return Problem(
        weight.operation,
        f"the scales lie along axis {written} of the weight {shape}, but the output channels of "
        f"{product.operation.op} '{product.operation.label}' are axis {right}{consequence}; "
        f"{advice}",
        repair,
    )


def _advice(repair: Repair | None, right: int) -> str:
    if isinstance(repair, RequantizeWeight):
        return (
            f"quantize it along axis {right} (the scales fit the stored data along the axis that "
            "is written, so the weight has to be stored anew)"
        )
    return (
        f"write axis={right} (this assumes that the scales are those of the output channels and "
        "only the attribute is wrong)"
    )


def axis_repair(product: Product, weight: Quantizer, written: int, right: int) -> Repair | None:
    """How the scales of a weight come to lie along axis ``right``; None where that is not safe."""
    shape = weight.index.shape(weight.data)
    chain = _exclusive(product, weight, right)
    if shape is None or chain is None or weight.scale is None or right >= len(shape):
        return None
    count = weight.scale.size
    fits_written = written < len(shape) and shape[written] == count
    if shape[right] != count:
        return RequantizeWeight(weight.operation, right) if fits_written else None
    if fits_written and _belongs_to(weight, written, right):
        return RequantizeWeight(weight.operation, right)
    return SetAxis(tuple(q.operation for q in chain), right)


def _exclusive(product: Product, weight: Quantizer, right: int) -> tuple[Quantizer, ...] | None:
    """The Q/DQ nodes of the weight, None where others read it or want another axis."""
    index = weight.index
    for other in products(index):
        if other.weight is None or other.weight.operation is not weight.operation:
            continue
        rank = weight.rank
        if rank is None or other.weight_axis(rank) != right:
            return None
    result = weight.result
    if result is None or result.is_output:
        return None
    if any(user.op != product.operation.op and user.op not in MOVES for user in result.readers):
        return None
    source = weight.made_by
    if source is None:
        return (weight,) if index.constant(weight.data) is not None else None
    alone = source.result is not None and len(source.result.users) == 1
    return (source, weight) if alone and index.constant(source.data) is not None else None


def _belongs_to(weight: Quantizer, written: int, right: int) -> bool:
    """Whether the scales were made for axis ``written`` rather than for ``right``.

    Undecided cases count as made for ``right``: a wrong attribute is the usual mistake.
    """
    source = weight.made_by
    scale = np.asarray(weight.scale, np.float64)
    if source is not None:
        data = np.asarray(weight.index.constant(source.data), np.float64)
        return _rounding(data, scale, written) < _rounding(data, scale, right)
    stored = np.abs(np.asarray(weight.index.constant(weight.data), np.float64))
    return _full_channels(stored, written) > _full_channels(stored, right)


def _rounding(data: Array, scale: Array, axis: int) -> float:
    """The squared error of storing ``data`` in 8 bits with scales along ``axis``."""
    shape = [1] * data.ndim
    shape[axis] = -1
    steps = np.where(scale > 0, scale, 1.0).reshape(shape)
    kept = np.clip(np.rint(data / steps), -128, 127) * steps
    return float(((kept - data) ** 2).sum())


def _full_channels(stored: Array, axis: int) -> float:
    """The share of channels along ``axis`` whose largest value is near the largest of all."""
    others = tuple(at for at in range(stored.ndim) if at != axis)
    peaks = stored.max(axis=others, initial=0.0)
    used = peaks[peaks > 0]
    return float((used >= NEARLY_FULL * peaks.max(initial=0.0)).mean()) if used.size else 0.0
