"""What onnxruntime's CPU provider does on x86 only (rules R9 and R14)."""

from __future__ import annotations

from collections.abc import Iterator

from qcc.lint.findings import Problem
from qcc.lint.index import ModelIndex
from qcc.lint.onnxruntime import PRODUCTS, quantized_behind, units
from qcc.lint.quantizers import DEQUANTIZE, Quantizer

NARROW_WEIGHT = 64


def saturating_weights(index: ModelIndex) -> Iterator[Problem]:
    """R9: on x86 without VNNI, products of uint8 by int8 saturate unless weights have 7 bits."""
    wide = [operation for operation, pair in units(index, *PRODUCTS) if _saturates(index, pair)]
    if wide:
        yield Problem(
            wide[0],
            f"weights of {len(wide)} nodes use more than 7 bits beside uint8 activations: on x86 "
            "CPUs without VNNI sums saturate, so load the model there with the session option "
            "session.x64quantprecision=1",
        )


def _saturates(index: ModelIndex, pair: list[Quantizer]) -> bool:
    activation, weight = pair[0], pair[1]
    if activation.storage != "uint8" or weight.storage != "int8":
        return False
    data = index.constant(weight.data)
    if data is None or not data.size:
        return False
    return int(data.max()) > NARROW_WEIGHT or int(data.min()) < -NARROW_WEIGHT


def mixed_types(index: ModelIndex) -> Iterator[Problem]:
    """R14: int8 activations that one op reads become uint8 on x86, and those of several do not.

    Integer kernels take no operands and results of both types.
    """
    mixed = []
    for operation, found in units(index):
        # A weight of a product may have another type than its activation; constants stay int8.
        read = found[:1] if operation.op in PRODUCTS and found[-1].is_weight else found
        around = [*read, *quantized_behind(index, operation.output)]
        stored = {_type_on_x86(q) for q in around if q.storage == "int8"}
        if len(stored) > 1:
            mixed.append(operation)
    if mixed:
        nodes = "1 node reads" if len(mixed) == 1 else f"{len(mixed)} nodes read"
        yield Problem(
            mixed[0],
            f"{nodes} or give int8 values of which onnxruntime on x86 makes some uint8 (those that "
            "one op reads) and others not, so they run in float there: store activations as uint8, "
            "or load the model with the session option session.qdqisint8allowed=1",
        )


def _type_on_x86(q: Quantizer) -> str:
    """The type in which int8 values of a Q/DQ pair are stored on x86."""
    stored = q.stored
    if stored is None or q.is_weight or stored.producer is None or stored.is_output:
        return "int8"
    readers = 0
    for reader, _ in stored.users:
        if reader.op not in DEQUANTIZE or reader.output is None:
            return "int8"
        readers += len(reader.output.users) + reader.output.is_output
    return "uint8" if readers == 1 else "int8"
