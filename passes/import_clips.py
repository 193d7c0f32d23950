"""Limits on stored integers become limits on real values: ``Clip -> Q`` for ``Q -> Clip``.

Quantizers with fewer steps than the type has (7 bits, [-127, 127]) write it so.  The limits are
exact multiples of the scale, so the integers stay the same.  In a NUMBERED graph such limits are a
part of the quantized type (:func:`narrow_ranges`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Array, Graph, Node, Stage, constant_array
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant
from qcc.numerics import STORAGE_RANGE
from qcc.passes.manager import Pass


@dataclass(frozen=True)
class ImportClips(Pass):
    """Move Clips of quantized integers in front of their QuantizeLinear."""

    name: ClassVar[str] = "import-clips"
    requires: ClassVar[Stage | None] = Stage.FLOAT
    exact: ClassVar[bool] = True

    def run(self, graph: Graph, rewriter: Rewriter) -> None:
        """Rewrite ``graph`` and its subgraphs in place."""
        for node in tuple(graph.walk()):
            if node.op != "Clip":
                continue
            maker = node.operand(0).producer
            if maker is None or maker.op != "QuantizeLinear":
                continue
            bounds = _real_bounds(node, maker)
            if bounds is not None:
                _clip_first(node, maker, bounds, rewriter)


def _real_bounds(clip: Node, quantize: Node) -> tuple[Array, Array] | None:
    """The limits as real values, float32; None where they are computed or vary by channel."""
    scale, zero_point = (constant_array(quantize.input(index)) for index in (1, 2))
    storage = quantize.output.tensor.storage
    if scale is None or scale.size != 1 or scale.dtype != np.float32:
        return None
    if storage not in STORAGE_RANGE or (quantize.input(2) is not None and zero_point is None):
        return None
    zero = 0 if zero_point is None else int(zero_point.reshape(()))
    found = []
    for index, limit in zip((1, 2), STORAGE_RANGE[storage], strict=True):
        given = clip.input(index)
        data = constant_array(given)
        if given is not None and data is None:
            return None
        stored = limit if data is None else int(data.reshape(()))
        found.append(np.asarray((stored - zero) * scale.reshape(()), np.float32))
    return found[0], found[1]


def _clip_first(
    clip: Node, quantize: Node, bounds: tuple[Array, Array], rewriter: Rewriter
) -> None:
    source = quantize.operand(0)
    data = constant_array(source)
    if data is not None:
        clipped = rewriter.constant(source.name, np.clip(data, *bounds).astype(np.float32))
    else:
        limits = [rewriter.constant(f"{clip.label}_limit", bound) for bound in bounds]
        clipped = rewriter.insert(
            "Clip", [source, *limits], [source.tensor], name=clip.name, before=clip
        ).output
    made = rewriter.insert(
        "QuantizeLinear",
        [clipped, *quantize.inputs[1:]],
        [clip.output.tensor],
        attributes=quantize.attributes,
        name=rewriter.graph.fresh_name(f"{quantize.label}_clipped"),
        before=clip,
    )
    rewriter.replace(clip, [made.output])
    rewriter.erase_dead(quantize.output)


def narrow_ranges(graph: Graph, rewriter: Rewriter) -> None:
    """Turn ``Clip -> q.quantize`` into a type of fewer steps where the limits are stored values.

    Changes a graph of stage NUMBERED and its subgraphs in place; its results stay the same.
    """
    for node in tuple(graph.walk()):
        clip = node.operand(0).producer if node.op == "q.quantize" else None
        quant = node.output.tensor.quant
        if clip is None or clip.op != "Clip" or quant is None or not quant.per_tensor:
            continue
        limits = _stored_limits(clip, quant)
        if limits is None:
            continue
        low, high = max(limits[0], quant.range[0]), min(limits[1], quant.range[1])
        if low > quant.zero_point[0] or high < quant.zero_point[0]:
            continue
        narrow = Quant.make(quant.storage, quant.scales, quant.zero_point[0], None, low, high)
        rewriter.set_type(node.output, node.output.tensor.with_element(narrow))
        rewriter.replace_input(node, 0, clip.operand(0))
        rewriter.erase_dead(clip.output)


def _stored_limits(clip: Node, quant: Quant) -> tuple[int, int] | None:
    """The limits of a Clip as stored values, where both are exactly that."""
    scale, zero = np.float32(quant.scale[0]), quant.zero_point[0]
    found = []
    for index in (1, 2):
        data = constant_array(clip.input(index))
        if data is None or not np.isfinite(data).all():
            return None
        stored = int(np.rint(data.reshape(()) / scale))
        if np.float32(stored) * scale != data.reshape(()):
            return None
        found.append(stored + zero)
    return found[0], found[1]
