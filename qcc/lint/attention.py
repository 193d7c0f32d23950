"""Attention: product of queries and keys, Softmax, product with values (rule W5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex, Operation, Tensor
from qcc.lint.layers import float_readers, variable_operands
from qcc.lint.quantizers import MOVES, dequantizer

SCORES = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip", *MOVES})
"""Ops between the first product and the Softmax: scale and mask."""

AFTER_SOFTMAX = frozenset({"Dropout", "Where", *MOVES})


@dataclass(frozen=True)
class Attention:
    """The nodes of one attention; ``operands`` are what its two products read."""

    scores: Operation
    softmax: Operation
    context: Operation

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        """Queries, keys, probabilities and values, in the order of the products' operands."""
        return (*self.scores.inputs[:2], *self.context.inputs[:2])


def attentions(index: ModelIndex) -> Iterator[Attention]:
    """Every attention of the model that is written as MatMul, Softmax, MatMul."""
    for softmax in index.of("Softmax"):
        scores = _product_in_front(index, softmax.input(0))
        context = _product_behind(index, softmax.output)
        if scores is not None and context is not None:
            yield Attention(scores, softmax, context)


def attention_products(index: ModelIndex) -> set[Operation]:
    """The products of all attentions."""
    return {product for a in attentions(index) for product in (a.scores, a.context)}


def partly_quantized(index: ModelIndex) -> Iterator[Problem]:
    """Attention is quantized as a whole (Q, K, V and the Softmax's result) or not at all."""
    for attention in attentions(index):
        quantized = [v for v in attention.operands if _is_quantized(index, v)]
        if 0 < len(quantized) < len(attention.operands):
            yield Problem(
                attention.scores,
                f"{len(quantized)} of the 4 operands of the attention around Softmax "
                f"'{attention.softmax.label}' are quantized, which is slower than none: quantize "
                "queries, keys, values and the result of the Softmax, or none of them",
            )


def _is_quantized(index: ModelIndex, tensor: Tensor | None) -> bool:
    """Whether an operand is dequantized, moved and scaled by a constant at most."""
    while tensor is not None and tensor.producer is not None:
        if dequantizer(index, tensor) is not None:
            return True
        producer = tensor.producer
        scaled = producer.op in ("Mul", "Div") and len(variable_operands(index, producer)) == 1
        if producer.op not in MOVES and not scaled:
            return False
        tensor = variable_operands(index, producer)[0] if scaled else producer.input(0)
    return False


def _is_product(index: ModelIndex, operation: Operation) -> bool:
    return operation.op == "MatMul" and len(variable_operands(index, operation)) == 2


def _product_in_front(index: ModelIndex, tensor: Tensor | None) -> Operation | None:
    pending, seen = [tensor], set[Tensor]()
    while pending:
        value = pending.pop()
        if value is None or value in seen or value.producer is None:
            continue
        seen.add(value)
        producer = value.producer
        if _is_product(index, producer):
            return producer
        found = dequantizer(index, value)
        if found is not None:
            source = found.made_by
            pending.append(None if source is None else source.data)
        elif producer.op in SCORES:
            pending += variable_operands(index, producer)
    return None


def _product_behind(index: ModelIndex, tensor: Tensor | None) -> Operation | None:
    pending = [] if tensor is None else [tensor]
    seen: set[Tensor] = set()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        for reader in float_readers(index, value):
            if _is_product(index, reader):
                return reader
            if reader.op in AFTER_SOFTMAX and reader.output is not None:
                pending.append(reader.output)
    return None
