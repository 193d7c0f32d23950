"""What the rules ask of the float ops between Q/DQ nodes: activations, layers, branches."""

from __future__ import annotations

from collections.abc import Iterator

from qcc.lint.index import ModelIndex, Operation, Tensor
from qcc.lint.quantizers import DEQUANTIZE, QUANTIZE, Quantizer, dequantizer

ACTIVATIONS = frozenset(
    (
        *("Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu"),
        *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Mish", "Softplus", "Softsign"),
    )
)
"""Functions of single values that end a layer."""

POINTWISE = ACTIVATIONS | {
    *("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Sqrt", "Exp", "Log", "Abs", "Neg", "Erf"),
    *("Reciprocal", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign", "Cast", "Identity"),
    "BatchNormalization",
}
"""Ops that a kernel computes on its results before it stores them."""

CONVOLUTIONS = ("Conv", "ConvTranspose")


def behind_quantization(index: ModelIndex, tensor: Tensor) -> Tensor:
    """The value that a quantize and dequantize pair in front of ``tensor`` reads, or itself."""
    found = dequantizer(index, tensor)
    source = None if found is None else found.made_by
    return tensor if source is None or source.data is None else source.data


def float_readers(index: ModelIndex, tensor: Tensor) -> Iterator[Operation]:
    """The float ops that read a value, those behind Q/DQ pairs included."""
    for reader in tensor.readers:
        if reader.op in QUANTIZE and reader.output is not None:
            for inner in reader.output.readers:
                if inner.op in DEQUANTIZE and inner.output is not None:
                    yield from inner.output.readers
        elif reader.op not in DEQUANTIZE:
            yield reader


def quantize_readers(index: ModelIndex, tensor: Tensor) -> list[Quantizer]:
    """The quantize nodes that read a value."""
    return [Quantizer(index, reader) for reader in tensor.readers if reader.op in QUANTIZE]


def variable_operands(index: ModelIndex, operation: Operation) -> list[Tensor]:
    """The operands that are computed or given at run time."""
    return [v for v in operation.inputs if v is not None and not index.is_constant(v)]


def backbone(index: ModelIndex, tensor: Tensor) -> Operation | None:
    """The convolution that gives a value through pointwise ops; None if there is none.

    An Add of two computed values ends the search: a kernel ends there.
    """
    pending, seen = [tensor], {tensor}
    while pending:
        operation = pending.pop().producer
        if operation is None:
            continue
        if operation.op in CONVOLUTIONS:
            return operation
        operands = variable_operands(index, operation)
        if operation.op in POINTWISE and not (operation.op == "Add" and len(operands) > 1):
            fresh = [v for v in operands if v not in seen]
            seen.update(fresh)
            pending += fresh
    return None


def ancestors(tensor: Tensor) -> set[Operation]:
    """All nodes that a value is computed from."""
    found: set[Operation] = set()
    pending = [tensor.producer]
    while pending:
        operation = pending.pop()
        if operation is None or operation in found:
            continue
        found.add(operation)
        pending += [v.producer for v in operation.inputs if v is not None]
    return found
