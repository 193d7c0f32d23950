"""Normal forms of small float expressions, so that re-fusing need not list every way to write one.

A *product* is what a tree of Mul, Div, Reciprocal, Neg and square roots multiplies; a *polynomial*
is what a tree of Add, Sub, Mul, Div and Pow with numbers computes of one base value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcc.ir.core import Node, Value
from qcc.passes.constants import scalar, split_constant

TOLERANCE = 2e-6
"""Relative: float32 constants of an export may be off by a few units in the last place."""

HIGHEST_DEGREE = 4
DEPTH = 10
"""How many ops deep a polynomial may be written: it bounds the work on shared expressions."""

ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Neg"})

Polynomial = tuple[float, ...]
"""Coefficients, the constant one first."""


def close(a: float, b: float) -> bool:
    """Whether two constants are the same number to the rounding of exporters."""
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12)


@dataclass(frozen=True)
class Product:
    """``factor * prod(numerators) * prod(tensors) / (prod(denominators) * prod(sqrt(roots)))``.

    ``tensors`` are constants of more than one element.
    """

    factor: float = 1.0
    numerators: tuple[Value, ...] = ()
    denominators: tuple[Value, ...] = ()
    roots: tuple[Value, ...] = ()
    tensors: tuple[Value, ...] = ()

    def times(self, other: Product) -> Product:
        """The product of both."""
        return Product(
            self.factor * other.factor,
            self.numerators + other.numerators,
            self.denominators + other.denominators,
            self.roots + other.roots,
            self.tensors + other.tensors,
        )

    def inverse(self) -> Product | None:
        """One over this, where it is a plain product."""
        if self.roots or self.tensors or self.factor == 0.0:
            return None
        return Product(1.0 / self.factor, self.denominators, self.numerators)


def product(value: Value, root: bool = True) -> Product:
    """``value`` as a product.  Inner results that are used elsewhere stay whole."""
    number = scalar(value)
    if number is not None:
        return Product(number)
    if value.is_constant:
        return Product(tensors=(value,))
    node = value.producer
    whole = Product(numerators=(value,))
    if node is None or (not root and len(value.uses) > 1):
        return whole
    if node.op == "Mul" and len(node.inputs) == 2:
        return product(node.operand(0), False).times(product(node.operand(1), False))
    if node.op == "Neg":
        return Product(-1.0).times(product(node.operand(0), False))
    if node.op in ("Div", "Reciprocal"):
        above = Product() if node.op == "Reciprocal" else product(node.operand(0), False)
        below = _inverse(node.operand(len(node.inputs) - 1))
        return whole if below is None else above.times(below)
    if node.op == "Pow" and _is(scalar(node.input(1)), -0.5):
        return Product(roots=(node.operand(0),))
    return whole


def _inverse(value: Value) -> Product | None:
    """One over ``value``; a square root goes to the roots, even where it is used elsewhere too."""
    radicand = square_root(value)
    return Product(roots=(radicand,)) if radicand is not None else product(value, False).inverse()


def _is(number: float | None, wanted: float) -> bool:
    return number is not None and close(number, wanted)


def square_root(value: Value) -> Value | None:
    """v where ``value`` is Sqrt(v) or Pow(v, 0.5)."""
    node = value.producer
    if node is None:
        return None
    if node.op == "Sqrt" or (node.op == "Pow" and _is(scalar(node.input(1)), 0.5)):
        return node.operand(0)
    return None


def square(value: Value) -> Value | None:
    """v where ``value`` is Mul(v, v) or Pow(v, 2)."""
    node = value.producer
    if node is None:
        return None
    if node.op == "Mul" and node.operand(0) is node.operand(1):
        return node.operand(0)
    return node.operand(0) if node.op == "Pow" and _is(scalar(node.input(1)), 2.0) else None


def polynomial(value: Value, base: Value, depth: int = DEPTH) -> Polynomial | None:
    """``value`` as a polynomial in ``base``, or None.  At most of degree four."""
    if value is base:
        return (0.0, 1.0)
    number = scalar(value)
    if number is not None:
        return (number,)
    node = value.producer
    if node is None or node.op not in ARITHMETIC or depth == 0:
        return None
    first = polynomial(node.operand(0), base, depth - 1)
    if first is None:
        return None
    if node.op == "Neg":
        return _scaled(first, -1.0)
    second = polynomial(node.operand(1), base, depth - 1)
    return None if second is None else _combined(node.op, first, second)


def _combined(op: str, a: Polynomial, b: Polynomial) -> Polynomial | None:
    if op in ("Add", "Sub"):
        return _sum(a, b if op == "Add" else _scaled(b, -1.0))
    if op == "Mul":
        return _multiplied(a, b)
    if len(b) != 1:
        return None
    if op == "Div":
        return None if b[0] == 0.0 else _scaled(a, 1.0 / b[0])
    power = b[0]
    if power not in range(1, HIGHEST_DEGREE + 1):
        return None
    result: Polynomial | None = a
    for _ in range(int(power) - 1):
        result = None if result is None else _multiplied(result, a)
    return result


def _scaled(a: Polynomial, factor: float) -> Polynomial:
    return tuple(item * factor for item in a)


def _sum(a: Polynomial, b: Polynomial) -> Polynomial:
    size = max(len(a), len(b))
    padded = [(*p, *(0.0,) * (size - len(p))) for p in (a, b)]
    return tuple(x + y for x, y in zip(*padded, strict=True))


def _multiplied(a: Polynomial, b: Polynomial) -> Polynomial | None:
    if len(a) + len(b) - 2 > HIGHEST_DEGREE:
        return None
    result = [0.0] * (len(a) + len(b) - 1)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            result[i + j] += x * y
    return tuple(result)


def same_polynomial(found: Polynomial | None, wanted: Sequence[float]) -> bool:
    """Whether the coefficients agree (trailing zeros aside)."""
    if found is None:
        return False
    size = max(len(found), len(wanted))
    return all(
        close(a, b)
        for a, b in zip(
            (*found, *(0.0,) * (size - len(found))),
            (*wanted, *(0.0,) * (size - len(wanted))),
            strict=True,
        )
    )


def descend(value: Value, ops: frozenset[str]) -> Value | None:
    """The result of a node of ``ops`` that ``value`` is an affine function of, or None."""
    node = value.producer
    while node is not None:
        if node.op in ops:
            return node.output
        inner = affine_operand(node)
        node = None if inner is None else inner.producer
    return None


def affine_base(value: Value) -> Value:
    """The innermost value that ``value`` is an affine function of, by numbers only."""
    node = value.producer
    while node is not None:
        inner = affine_operand(node)
        if inner is None:
            return value
        value, node = inner, inner.producer
    return value


def affine_operand(node: Node) -> Value | None:
    """The variable operand of Add, Sub, Mul or Div by a number."""
    if node.op not in ("Add", "Sub", "Mul", "Div"):
        return None
    pair = split_constant(node)
    if pair is None or scalar(pair[1]) is None:
        return None
    if node.op == "Div" and pair[0] is not node.operand(0):
        return None
    return pair[0]
