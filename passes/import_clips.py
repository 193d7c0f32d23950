"""Limits on stored integers become limits on real values: ``Clip -> Q`` for ``Q -> Clip``.

Quantizers with fewer steps than the type has (7 bits, [-127, 127]) write it so.  The limits are
exact multiples of the scale, so the integers stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcc.ir.core import Array, Graph, Node, Stage, constant_array
from qcc.ir.rewrite import Rewriter
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
