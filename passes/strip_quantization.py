"""Take the numbers out of a quantized model: the float model, and what it was quantized by.

Weights and biases become float32 constants with the values that their integers stand for.  Where an
activation was quantized from 0 on (as behind a Relu that the zero point implies), a Relu keeps the
float model from giving what the quantized one could not.  The ranges of the activations are kept by
value name, so that the model can be quantized again by the same ranges for another target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from qcc.ir.core import Array, Graph, Node, Stage, Value, constant_array
from qcc.ir.rewrite import Rewriter
from qcc.ir.types import Quant, TensorType
from qcc.passes.dequantize_constants import dequantized_constant
from qcc.passes.eliminate_dead import EliminateDead
from qcc.passes.import_movers import MOVERS, moved_operands, moved_outputs


@dataclass(frozen=True)
class RecordedRange:
    """The real values ``low`` to ``high`` that a value was quantized by, ``step`` apart.

    ``symmetric``: whether 0 was in the middle (zero point 0 of a signed type).
    """

    low: float
    high: float
    step: float
    symmetric: bool = False

    @classmethod
    def of(cls, quant: Quant) -> RecordedRange:
        """The range that stored values of ``quant`` cover, over all channels."""
        bottom, top = quant.range
        low = (bottom - quant.zero_points) * quant.scales.astype(np.float64)
        high = (top - quant.zero_points) * quant.scales.astype(np.float64)
        signed = bottom < 0 and not any(quant.zero_point)
        return cls(float(low.min()), float(high.max()), float(max(quant.scale)), signed)

    def within(self, maker: Node | None) -> RecordedRange:
        """What is left of the range where ``maker`` clamps what it gives."""
        low, high = (-np.inf, np.inf) if maker is None else _bounds(maker)
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))

    def joined_with(self, other: RecordedRange) -> RecordedRange:
        """What covers both ranges, with the finer step."""
        return RecordedRange(
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.step, other.step),
            self.symmetric and other.symmetric,
        )


@dataclass
class Stripped:
    """The float ``graph`` (stage FLOAT) and the ``ranges`` of its activations by value name.

    ``uneven`` names the weights that a symmetric grid of [-127, 127] steps cannot hold exactly;
    ``clamps`` are the Relus that were added, by what they read.
    """

    graph: Graph
    ranges: dict[str, RecordedRange] = field(default_factory=dict)
    uneven: tuple[str, ...] = ()
    clamps: dict[Value, Value] = field(default_factory=dict)


def strip_quantization(graph: Graph) -> Stripped:
    """The float model behind a NUMBERED ``graph``, which stays as it is.

    Inputs and outputs that are integers keep their dtype: arithmetic on floats converts them.
    """
    stripped = Stripped(graph.clone())
    rewriter = Rewriter(stripped.graph)
    stripped.uneven = tuple(dict.fromkeys(_uneven_weights(stripped.graph)))
    for node in tuple(stripped.graph.walk()):
        if node.op in ("q.dequantize", "DequantizeLinear"):
            _strip_dequantize(node, stripped, rewriter)
    for node in tuple(stripped.graph.walk()):
        if node.op == "q.quantize" and node.output.uses:
            _write_as_arithmetic(node, rewriter)
    for value in stripped.graph.inputs:
        if value.tensor.quant is not None:
            rewriter.set_type(value, value.tensor.with_element(value.tensor.storage))
    EliminateDead().run(stripped.graph, rewriter)
    stripped.graph.stage = Stage.FLOAT
    return stripped


BIAS = 2
"""Which operand of Conv, ConvTranspose and Gemm the bias is."""


def dequantize_biases(graph: Graph) -> int:
    """Turn biases of a NUMBERED graph that are integers into the float32 ones that they stand for.

    For runtimes that take no integer biases; changes the graph in place and gives their number.
    """
    rewriter, count = Rewriter(graph), 0
    for node in tuple(graph.walk()):
        if node.op != "q.dequantize" or node.output.is_output:
            continue
        quant, data = node.operand(0).tensor.quant, dequantized_constant(node)
        if data is None or quant is None:
            continue
        is_bias = all(use.index == BIAS for use in node.output.uses)
        if quant.storage != "int32" and not is_bias:
            continue
        source = node.operand(0)
        rewriter.replace(node, [rewriter.constant(f"{source.name}_float", data)])
        rewriter.erase_dead(source)
        count += 1
    return count


def store_signed(graph: Graph) -> int:
    """Store unsigned bytes around 128 as signed ones around 0, in place; gives their number.

    Both stand for the same numbers.  Inputs and outputs of a NUMBERED ``graph`` keep their dtype.
    """
    rewriter, count = Rewriter(graph), 0
    outputs = set(graph.outputs)
    for value in (*graph.constants.values(), *(v for n in graph.walk() for v in n.outputs)):
        quant = value.type.quant if isinstance(value.type, TensorType) else None
        if quant is None or quant.storage != "uint8" or set(quant.zero_point) != {128}:
            continue
        makers = {user.op for user in value.users}
        if value in outputs or makers != {"q.dequantize"}:
            continue
        low, high = (bound - 128 for bound in quant.range)
        signed = Quant.make("int8", quant.scales, 0, quant.axis, low, high)
        if value.constant is not None:
            stored = (value.constant.astype(np.int16) - 128).astype(np.int8)
            new = rewriter.constant(value.name, stored, value.tensor.with_element(signed))
            rewriter.replace_uses(value, new)
            rewriter.erase_dead(value)
        else:
            rewriter.set_type(value, value.tensor.with_element(signed))
        count += 1
    return count


def _uneven_weights(graph: Graph) -> Iterable[str]:
    for node in graph.walk():
        if node.op != "q.dequantize" or not node.operand(0).is_constant:
            continue
        quant, data = node.operand(0).tensor.quant, constant_array(node.operand(0))
        if quant is None or data is None or quant.storage == "int32":
            continue
        steps = data.astype(np.int64) - _by_channel(quant.zero_points, quant, data.ndim)
        if steps.size and np.abs(steps).max() > 127:
            yield node.operand(0).name


def _by_channel(numbers: Array, quant: Quant, rank: int) -> Array:
    sizes = [1] * rank
    if quant.axis is not None:
        sizes[quant.axis] = numbers.size
    return numbers.reshape(sizes)


def _strip_dequantize(node: Node, stripped: Stripped, rewriter: Rewriter) -> None:
    source = node.operand(0)
    if source.is_constant:
        data = dequantized_constant(node)
        if data is not None and not node.output.is_output:
            rewriter.replace(node, [rewriter.constant(f"{source.name}_float", data)])
        return
    quant = source.tensor.quant
    if node.op != "q.dequantize" or quant is None:
        return
    found = RecordedRange.of(quant)
    if source.producer is None:
        real = _real_input(node, source, quant, rewriter)
    else:
        real = source.producer.operand(0)
        found = found.within(real.producer)
        if found.low >= 0 and not _is_input(real) and not is_never_negative(real):
            real = _from_zero(node, real, stripped, rewriter)
    known = stripped.ranges.get(real.name)
    stripped.ranges[real.name] = found if known is None else known.joined_with(found)
    if not node.output.is_output:
        rewriter.replace(node, [real])
        return
    given = rewriter.insert("Identity", [real], [node.output.tensor], before=node)
    rewriter.replace(node, [given.output])


def _is_input(value: Value) -> bool:
    """Whether ``value`` holds elements of an input of the model: its data were never negative."""
    while value.producer is not None:
        moved = moved_operands(value.producer) if value.producer.op in MOVERS else ()
        if len(moved) != 1 or value.producer.op == "Pad":
            return False
        value = moved[0]
    return not value.is_constant


def _from_zero(node: Node, value: Value, stripped: Stripped, rewriter: Rewriter) -> Value:
    """A Relu of ``value``, one for all that read it so, in front of the first of them."""
    if value not in stripped.clamps:
        stripped.clamps[value] = rewriter.insert(
            "Relu",
            [value],
            [node.output.tensor],
            output_names=[rewriter.graph.fresh_name(f"{value.name}_from_zero")],
            before=node,
        ).output
    return stripped.clamps[value]


def _real_input(node: Node, source: Value, quant: Quant, rewriter: Rewriter) -> Value:
    """The real values of an integer input: ``(x - zero point) * scale`` in float32."""
    type_ = node.output.tensor
    value = rewriter.insert("Cast", [source], [type_], attributes={"to": 1}, before=node).output
    rank = source.tensor.rank or 0
    for op, numbers in (("Sub", quant.zero_points), ("Mul", quant.scales)):
        if op == "Sub" and not numbers.any():
            continue
        data = _by_channel(numbers.astype(np.float32), quant, rank if quant.axis is not None else 0)
        constant = rewriter.constant(f"{source.name}_{op.lower()}", data)
        value = rewriter.insert(op, [value, constant], [type_], before=node).output
    return value


def _write_as_arithmetic(node: Node, rewriter: Rewriter) -> None:
    """An integer output without QuantizeLinear: divide, round, add, clip, cast."""
    quant = node.output.tensor.quant
    if quant is None:
        return
    type_ = node.operand(0).tensor
    rank = type_.rank or 0 if quant.axis is not None else 0
    value = node.operand(0)
    low, high = (np.asarray(bound, np.float32) for bound in quant.range)
    steps: tuple[tuple[str, list[Array]], ...] = (
        ("Div", [_by_channel(quant.scales, quant, rank)]),
        ("Round", []),
        ("Add", [_by_channel(quant.zero_points.astype(np.float32), quant, rank)]),
        ("Clip", [low, high]),
    )
    for op, numbers in steps:
        operands = [rewriter.constant(f"{node.label}_{op.lower()}", data) for data in numbers]
        value = rewriter.insert(op, [value, *operands], [type_], before=node).output
    code = {"uint8": 2, "int8": 3, "uint16": 4, "int16": 5}[quant.storage]
    stored = rewriter.insert(
        "Cast",
        [value],
        [TensorType(type_.shape, quant.storage)],
        attributes={"to": code},
        before=node,
    )
    rewriter.replace(node, [stored.output])


# -- ranges of values that have none of their own --------------------------------------------------

NEVER_NEGATIVE = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Sqrt"})

BETWEEN = frozenset({"AveragePool", "Dropout", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"})
"""Ops whose results lie between elements of their first operand."""


def is_never_negative(value: Value) -> bool:
    """Whether ``value`` is 0 or more whatever the inputs are."""
    maker = value.producer
    if maker is None:
        data = constant_array(value)
        return data is not None and bool(np.all(data >= 0))
    if maker.op in NEVER_NEGATIVE:
        return True
    if maker.op == "Clip":
        low = constant_array(maker.input(1))
        return low is not None and bool(np.all(low >= 0))
    if maker.op in BETWEEN or maker.op == "ReduceSum":
        return is_never_negative(maker.operand(0))
    if maker.op in ("Add", "Mul"):
        squared = maker.op == "Mul" and maker.operand(0) is maker.operand(1)
        return squared or all(is_never_negative(maker.operand(index)) for index in (0, 1))
    if maker.op == "Pow":
        power = constant_array(maker.operand(1))
        return power is not None and bool(np.all(power % 2 == 0))
    moves = maker.op in MOVERS and maker.op not in ("Pad", "Resize")
    return moves and all(is_never_negative(operand) for operand in moved_operands(maker))


def spread_ranges(graph: Graph, ranges: Mapping[str, RecordedRange]) -> dict[str, RecordedRange]:
    """``ranges`` and those of values that a range-keeping op makes from, or into, a known one."""
    found = dict(ranges)
    before = -1
    while len(found) != before:
        before = len(found)
        for node in graph.walk():
            _spread_forwards(node, found)
        for node in reversed(tuple(graph.walk())):
            _spread_backwards(node, found)
    return found


def _spread_forwards(node: Node, found: dict[str, RecordedRange]) -> None:
    if all(value.name in found for value in node.outputs):
        return
    if node.op in MOVERS and node.op != "Pad":
        known = [found.get(value.name) for value in moved_operands(node) if not value.is_constant]
    elif node.op in BETWEEN or node.op in ("Relu", "Clip"):
        known = [found.get(node.operand(0).name)]
    else:
        return
    given = [item for item in known if item is not None]
    if not given or len(given) < len(known):
        return
    joined = given[0]
    for item in given[1:]:
        joined = joined.joined_with(item)
    for value in moved_outputs(node):
        found.setdefault(value.name, joined.within(node))


def _bounds(node: Node) -> tuple[float, float]:
    if node.op == "Relu":
        return 0.0, np.inf
    if node.op != "Clip":
        return -np.inf, np.inf
    bounds = [constant_array(node.input(index)) for index in (1, 2)]
    low = -np.inf if bounds[0] is None else float(bounds[0].reshape(()))
    return low, np.inf if bounds[1] is None else float(bounds[1].reshape(()))


def _spread_backwards(node: Node, found: dict[str, RecordedRange]) -> None:
    """What is only moved has the range of what it becomes."""
    if node.op not in MOVERS or node.op in ("Pad", "Slice", "Gather", "Split", "ReduceMax"):
        return
    given = found.get(node.output.name)
    for value in moved_operands(node):
        alone = len(value.uses) == 1 and not value.is_constant
        if given is not None and alone and value.name not in found:
            found[value.name] = given
