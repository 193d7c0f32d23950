"""The patterns that lowering tests use, independent of any backend's catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcc.ir.pattern import Pattern, optional, pattern, rest


@dataclass(frozen=True)
class Entry:
    name: str
    pattern: Pattern
    lowering: str


@pattern
def conv_add_act(op: Any, x: Any, w: Any, r: Any, b: Any = optional()) -> Any:
    return op.any_of("Relu", "Clip")(op.Add(op.Conv(x, w, b), r), optional("lo"), optional("hi"))


@pattern
def conv_add(op: Any, x: Any, w: Any, r: Any, b: Any = optional()) -> Any:
    return op.Add(op.Conv(x, w, b), r)


@pattern
def conv_act(op: Any, x: Any, w: Any, b: Any = optional()) -> Any:
    return op.any_of("Relu", "Clip")(op.Conv(x, w, b), optional("lo"), optional("hi"))


@pattern
def conv(op: Any, x: Any, w: Any, b: Any = optional()) -> Any:
    return op.Conv(x, w, b)


@pattern
def gemm(op: Any, x: Any, w: Any, b: Any = optional()) -> Any:
    return op.Gemm(x, w, b)


@pattern
def matmul_add(op: Any, x: Any, w: Any, b: Any) -> Any:
    return op.Add(op.MatMul(x, w), b)


@pattern
def matmul(op: Any, x: Any, w: Any) -> Any:
    return op.MatMul(x, w)


@pattern
def binary_act(op: Any, a: Any, b: Any) -> Any:
    return op.Relu(op.any_of("Add", "Sub", "Mul")(a, b))


@pattern
def silu(op: Any, x: Any) -> Any:
    return op.Mul(x, op.Sigmoid(x))


@pattern
def binary(op: Any, a: Any, b: Any) -> Any:
    return op.any_of("Add", "Sub", "Mul")(a, b)


@pattern
def unary(op: Any, x: Any) -> Any:
    return op.any_of("Sigmoid", "Tanh", "HardSwish", "Relu", "Exp", "Neg")(x)


@pattern
def concat(op: Any, xs: Any = rest("xs")) -> Any:
    return op.Concat(xs)


@pattern
def softmax(op: Any, x: Any) -> Any:
    return op.Softmax(x)


@pattern
def max_pool(op: Any, x: Any) -> Any:
    return op.any_of("MaxPool", "GlobalMaxPool")(x)


@pattern
def average_pool(op: Any, x: Any) -> Any:
    return op.AveragePool(x)


@pattern
def mean(op: Any, x: Any, axes: Any = optional()) -> Any:
    return op.any_of("GlobalAveragePool", "ReduceMean")(x, axes)


@pattern
def resize(op: Any, x: Any, operands: Any = rest("operands")) -> Any:
    return op.Resize(x, operands)


PATTERNS = (
    Entry("conv_add_act", conv_add_act, "q.conv"),
    Entry("conv_add", conv_add, "q.conv"),
    Entry("conv_act", conv_act, "q.conv"),
    Entry("conv", conv, "q.conv"),
    Entry("matmul_add", matmul_add, "q.matmul"),
    Entry("gemm", gemm, "q.matmul"),
    Entry("matmul", matmul, "q.matmul"),
    Entry("silu", silu, "q.lut"),
    Entry("binary_act", binary_act, "q.add"),
    Entry("binary", binary, "q.add"),
    Entry("unary", unary, "q.lut"),
    Entry("concat", concat, "q.concat"),
    Entry("softmax", softmax, "q.softmax"),
    Entry("max_pool", max_pool, "q.max_pool"),
    Entry("average_pool", average_pool, "q.average_pool"),
    Entry("mean", mean, "q.reduce_mean"),
    Entry("resize", resize, "q.resize"),
)
