"""Which repair stored values have: int8 with zero point 0, and what that costs, or floats."""

from __future__ import annotations

import numpy as np

from qcc.lint.axes import misfit
from qcc.lint.index import ModelIndex
from qcc.lint.quantizers import EIGHT_BITS, Group, Quantizer
from qcc.lint.repairs import (
    DequantizeFirst,
    FloatBias,
    MakeSymmetric,
    Repair,
    RequantizeWeight,
    StoreSigned,
    UseOnnxDomain,
)

MIDDLE = 128
"""The zero point of uint8 that stands for 0 of int8."""

COMPILE = (
    "quantize the float model again with `qcc compile --target tensorrt`, which is symmetric and "
    "per channel"
)


def symmetric(group: Group) -> tuple[Repair | None, str]:
    """The repair of a group that is uint8 or has a zero point, and the clause that says what to do.

    A group whose stored values something else reads too, or that the model takes or gives, has
    none: its interface would change.
    """
    lead = group.lead
    zeros = lead.zeros
    nodes = tuple(member.operation for member in group.members)
    if any(value.is_input or value.is_output for value in group.values):
        return None, (
            f"the model itself takes or gives these values as {lead.storage}: let it take and give "
            "floats, or quantize it again with `qcc compile --target tensorrt`"
        )
    if lead.storage not in EIGHT_BITS or zeros is None or lead.scale is None:
        return None, COMPILE
    if not _uniform(group):
        return None, COMPILE
    if lead.storage == "uint8" and (zeros == MIDDLE).all():
        return StoreSigned(nodes, group.values, MIDDLE), (
            "store it as int8 with zero point 0 (every value less 128, which changes no number)"
        )
    if not _positive(lead) or misfit(lead) is not None:
        return None, COMPILE
    if lead.scale.size == 1:
        return _widened(group, int(zeros[0]))
    return _stored_anew(group)


def _stored_anew(group: Group) -> tuple[Repair | None, str]:
    """The repair of a stored weight with scales and zero points of its channels."""
    lead = group.lead
    alone = group.quantize is None and len(group.members) == len(group.values) == 1
    if not alone or lead.block_size or lead.rank is None:
        return None, COMPILE
    return RequantizeWeight(lead.operation, lead.axis % lead.rank), (
        "store it as int8 with zero point 0 and a scale a channel that holds its largest number "
        f"(to lose less, {COMPILE})"
    )


def _widened(group: Group, zero: int) -> tuple[Repair, str]:
    lead = group.lead
    assert lead.scale is not None
    scale = float(np.asarray(lead.scale).reshape(-1)[0])
    lowest, highest = (0, 255) if lead.storage == "uint8" else (-128, 127)
    low, high = (lowest - zero) * scale, (highest - zero) * scale
    ratio = max(-low, high) / 127 / scale
    nodes = tuple(member.operation for member in group.members)
    return MakeSymmetric(nodes, group.values, low, high), (
        f"store it as int8 with zero point 0: the range {low:.4g} to {high:.4g} is kept, and steps "
        f"are {ratio:.2f} times as large (to lose less, {COMPILE})"
    )


def _positive(lead: Quantizer) -> bool:
    scale = np.asarray(lead.scale, np.float64)
    return bool(np.isfinite(scale).all() and (scale > 0).all())


def _uniform(group: Group) -> bool:
    """Whether all nodes say the same of the stored values, and nobody else reads them."""
    lead, stored = group.lead, group.stored
    constant = lead.index.constant(stored) is not None
    if group.others or not (constant or group.quantize is not None):
        return False
    if (
        stored.producer is not None
        and group.quantize is None
        and not _is_stored(stored.producer.op)
    ):
        return False
    return all(_same(lead, member) for member in group.members)


def _is_stored(op: str) -> bool:
    return op == "Constant"


def _same(lead: Quantizer, member: Quantizer) -> bool:
    pairs = ((lead.scale, member.scale), (lead.zeros, member.zeros))
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)


def float_bias(bias: Quantizer) -> FloatBias | None:
    """The repair of a stored bias that may be float32 as well."""
    stored = bias.index.constant(bias.data) is not None and bias.scale is not None
    whole = bias.result is not None and not bias.result.is_output
    safe = stored and whole and bias.zeros is not None and misfit(bias) is None
    return FloatBias(bias.operation) if safe else None


def dequantize_first(group: Group | None) -> Repair | None:
    """The repair of stored data that are moved and then dequantized, where one scale holds."""
    if group is None or group.others or len(group.values) == 1 or group.lead.scale is None:
        return None
    if any(reader.graph is not group.stored.graph for reader in group.stored.readers):
        return None
    if any(q.result is None or q.result.is_output for q in group.dequantize):
        return None
    alike = all(q.is_per_tensor and _same(group.lead, q) for q in group.dequantize)
    moved = all(q.data is not group.stored for q in group.dequantize)
    nodes = tuple(q.operation for q in group.dequantize)
    return DequantizeFirst(nodes, group.values) if alike and moved else None


def onnx_domain(quantizer: Quantizer) -> Repair | None:
    """ONNX's own op in place of com.microsoft's, where the model's opset has it."""
    index: ModelIndex = quantizer.index
    needed = 10 if quantizer.is_per_tensor else 13
    known = quantizer.storage in (*EIGHT_BITS, "int32") and quantizer.states_storage
    declared = any(o.domain in ("", "ai.onnx") for o in index.model.opset_import)
    return (
        UseOnnxDomain(quantizer.operation) if known and declared and index.opset >= needed else None
    )
