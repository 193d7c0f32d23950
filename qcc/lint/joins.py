"""Where branches meet: skip connections and concatenations (rules W3 and W4)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex, Operation, Tensor
from qcc.lint.layers import ancestors, backbone, behind_quantization, quantize_readers
from qcc.lint.quantizers import Product, Quantizer, dequantizer, quantized_operand

# -- W3: skip connections --------------------------------------------------------------------------


def skip_connections(index: ModelIndex) -> Iterator[Problem]:
    """An Add that a convolution's kernel can compute reads its skip operand quantized, only that.

    The other operand must come out of a convolution of its own through pointwise ops; where both
    operands do, either may be the skip.
    """
    for add in index.of("Add"):
        operands = _residual_operands(index, add)
        lengths = [] if operands is None else _fusible(index, operands)
        if operands is None or not any(lengths):
            continue
        quantized = [quantized_operand(index, operand) is not None for operand in operands]
        message = _skip_message(operands, lengths, quantized)
        if message is not None:
            yield Problem(add, message)


def _residual_operands(index: ModelIndex, add: Operation) -> tuple[Tensor, Tensor] | None:
    """The two computed operands of an Add of equal shapes."""
    left, right = add.input(0), add.input(1)
    if left is None or right is None or left is right:
        return None
    sources = [behind_quantization(index, operand) for operand in (left, right)]
    if any(source.producer is None or index.is_constant(source) for source in sources):
        return None
    shapes = [index.shape(operand) for operand in (left, right)]
    known = all(shape is not None and None not in shape for shape in shapes)
    return None if known and shapes[0] != shapes[1] else (left, right)


def _fusible(index: ModelIndex, operands: tuple[Tensor, Tensor]) -> list[int]:
    """How many nodes each operand has for itself; 0 where no quantized convolution ends them.

    The kernel of such a convolution can add the other operand.
    """
    sources = [behind_quantization(index, operand) for operand in operands]
    above = [ancestors(source) for source in sources]
    found = []
    for place, source in enumerate(sources):
        conv = backbone(index, source)
        own = above[place] - above[1 - place]
        ends = conv is not None and conv in own and Product(index, conv).is_quantized
        found.append(len(own) if ends else 0)
    return found


def _skip_message(
    operands: tuple[Tensor, Tensor], lengths: list[int], quantized: list[bool]
) -> str | None:
    """What is wrong at a skip connection; of two branches the longer one is no skip."""
    layer = lengths.index(max(lengths))
    conv, skip = operands[layer].name, operands[1 - layer].name
    if not any(quantized):
        return (
            f"both operands of this skip connection are float, so its kernel reads and writes "
            f"floats: quantize the skip operand '{skip}' and leave '{conv}' as it is"
        )
    if all(quantized):
        return (
            "both operands of this skip connection are quantized, which rounds once more and keeps "
            f"it out of the convolution's kernel: let it read '{conv}' without Q/DQ"
        )
    if lengths[quantized.index(False)]:
        return None
    return (
        f"the convolution's branch '{conv}' is quantized and the skip operand '{skip}' is not: "
        "quantize the skip operand instead"
    )


# -- W4: concatenations ----------------------------------------------------------------------------


def concat_scales(index: ModelIndex) -> Iterator[Problem]:
    """All quantized operands of a Concat, and its quantized result, have one scale."""
    for concat in index.of("Concat"):
        operands = [v for v in concat.inputs if v is not None and not index.is_constant(v)]
        found = [q for q in (dequantizer(index, v) for v in operands) if q is not None]
        if concat.output is not None and len(found) == len(operands):
            found += quantize_readers(index, concat.output)
        scales = _distinct_scales(found)
        if len(scales) > 1:
            yield Problem(
                concat,
                f"its quantized operands and result have {len(scales)} scales "
                f"({', '.join(f'{scale:.4g}' for scale in sorted(scales)[:4])}), so operands are "
                "rounded again: quantize all of them with the largest",
            )


def _distinct_scales(found: list[Quantizer]) -> set[float]:
    return {
        float(np.asarray(q.scale).reshape(-1)[0])
        for q in found
        if q.scale is not None and q.scale.size == 1
    }
