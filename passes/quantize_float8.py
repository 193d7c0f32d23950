"""Quantize to float8 (e4m3): the placement of an int8 plan, in ONNX's own Q/DQ.

A float8 number has a sign, 4 bits of exponent and 3 of mantissa, so its steps grow with its size
and the largest value decides the scale (``absmax / 448``): nothing is gained by clipping.  Weights
have a scale for each output channel and are stored; biases stay float.  The graph stays one of
float ops with QuantizeLinear and DequantizeLinear (opset 19), since no kernel of qcc's computes on
float8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qcc.ir.core import Graph, Node, Value
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import TensorType
from qcc.passes.fusion_plan import FusionGroup, FusionPlan
from qcc.quant.qparams import QuantParams

FLOAT8 = "float8_e4m3fn"
"""The element, by numpy's name."""

LARGEST = 448.0

LEAST_SCALE = 2.0**-23


def quantize_float8(graph: Graph, plan: FusionPlan, ranges: Mapping[str, QuantParams]) -> None:
    """Put float8 Q/DQ in front of the readers of ``plan``, which speaks of ``graph``, in place.

    ``ranges`` gives for each value by name (symmetric) parameters whose range is its largest value.
    """
    rewriter = Rewriter(graph)
    after = dict(zip(graph.nodes, [*graph.nodes[1:], None], strict=True))
    first = graph.nodes[0] if graph.nodes else None
    readers = plan.readers()
    for value in plan.quantized_values():
        largest = float(np.max(np.abs(ranges[value.name].real_range)))
        scale = max(largest / LARGEST, LEAST_SCALE)
        before = first if value.producer is None else after[value.producer]
        real = _round_trip(rewriter, value, np.float32(scale), before)
        for group in readers.get(value, ()):
            _read_instead(rewriter, group, value, real)
    for group in plan.groups:
        if group.weight is not None and group.weight.constant is not None:
            _store_weight(rewriter, group, group.weight)


def _round_trip(rewriter: Rewriter, value: Value, scale: Any, before: Node | None) -> Value:
    """``value`` rounded to float8: QuantizeLinear and DequantizeLinear."""
    graph = rewriter.graph
    parameters = [
        rewriter.constant(f"{value.name}_scale", np.asarray(scale, np.float32)),
        rewriter.constant(
            f"{value.name}_zero_point",
            np.zeros((), ml_dtypes.float8_e4m3fn),
            TensorType((), FLOAT8),
        ),
    ]
    stored = rewriter.insert(
        "QuantizeLinear",
        [value, *parameters],
        [value.tensor.with_element(FLOAT8)],
        output_names=[graph.fresh_name(f"{value.name}_float8")],
        before=before,
    )
    return rewriter.insert(
        "DequantizeLinear",
        [stored.output, *parameters],
        [value.type],
        output_names=[graph.fresh_name(f"{value.name}_real")],
        before=before,
    ).output


def _read_instead(rewriter: Rewriter, group: FusionGroup, value: Value, real: Value) -> None:
    for node in group.nodes:
        for index, operand in enumerate(node.inputs):
            if operand is value:
                rewriter.replace_input(node, index, real)


def _store_weight(rewriter: Rewriter, group: FusionGroup, weight: Value) -> None:
    """The weight as float8 with a scale for each output channel, behind a DequantizeLinear."""
    data = np.asarray(weight.constant, np.float32)
    axis = group.weight_axis or 0
    scales = channel_scales(data, axis)
    shape = [1] * data.ndim
    shape[axis] = -1
    stored = (data / scales.reshape(shape)).clip(-LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    operands = [
        rewriter.constant(f"{weight.name}_float8", stored, TensorType(data.shape, FLOAT8)),
        rewriter.constant(f"{weight.name}_scale", scales),
        rewriter.constant(
            f"{weight.name}_zero_point",
            np.zeros(scales.shape, ml_dtypes.float8_e4m3fn),
            TensorType(scales.shape, FLOAT8),
        ),
    ]
    anchor = group.anchor
    made = rewriter.insert(
        "DequantizeLinear",
        operands,
        [weight.type],
        attributes={"axis": axis},
        output_names=[rewriter.graph.fresh_name(f"{weight.name}_real")],
        before=anchor,
    )
    rewriter.replace_input(anchor, anchor.inputs.index(weight), made.output)
    rewriter.erase_dead(weight)


def channel_scales(data: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """``absmax / 448`` of each channel; an empty one takes 1."""
    others = tuple(index for index in range(data.ndim) if index != axis)
    largest = np.abs(data).max(axis=others)
    scales = np.where(largest > 0, np.maximum(largest / LARGEST, LEAST_SCALE), 1.0)
    return np.asarray(scales, np.float32)
