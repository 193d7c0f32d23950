"""The float32 exponentials of contracts 11 and 20 on vectors, and the sigmoid made of it.

Operation for operation :func:`qcc.numerics.exponential`; nothing is fused, so that every
instruction set gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcc import curves, numerics
from qcc.backends.llvm.builder import I32, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.isa import InstructionSet

_NAN_BITS = 0x7FC00000
_SIGN_BIT = -(2**31)
_MANTISSA_BITS = 23


def _like(value: Value, number: np.float32) -> Value:
    return constant(value.type, float(number))


def exponential(k: LoopBuilder, d: Value) -> Value:
    """``exp(d)`` of a float32 vector of values that are at most 0, or NaN."""
    p, exponent = _parts(k, d)
    power = k.ir.bitcast(k.ir.shl(exponent, constant(exponent.type, _MANTISSA_BITS)), d.type)
    return _unless_tiny(k, d, k.ir.fmul(p, power))


def exp(k: LoopBuilder, x: Value) -> Value:
    """``exp(x)`` of a float32 vector, as :func:`qcc.curves.exp` has it."""
    ir = k.ir
    most = _like(x, curves.EXP_MOST)
    d = ir.select(ir.fcmp_ordered(">", x, most), most, x)
    p, exponent = _parts(k, d)
    # A power that float32 does not have is two times one that it has.
    above = ir.fcmp_ordered(">", d, constant(d.type, 0.0))
    exponent = ir.add(exponent, ir.sext(above, exponent.type))
    power = ir.bitcast(ir.shl(exponent, constant(exponent.type, _MANTISSA_BITS)), d.type)
    factor = ir.select(above, constant(d.type, 2.0), constant(d.type, 1.0))
    return nan_where_unordered(k, x, _unless_tiny(k, d, ir.fmul(ir.fmul(p, power), factor)))


def _parts(k: LoopBuilder, d: Value) -> tuple[Value, Value]:
    """``exp(r)`` and the biased exponent of ``exp(n ln 2)``, where ``d = n ln 2 + r``."""
    ir = k.ir
    rounder = _like(d, numerics.EXP_ROUNDER)
    shifted = ir.fadd(ir.fmul(d, _like(d, numerics.LOG2_E)), rounder)
    n = ir.fsub(shifted, rounder)
    r = ir.fsub(d, ir.fmul(n, _like(d, numerics.LN2_HIGH)))
    r = ir.fsub(r, ir.fmul(n, _like(d, numerics.LN2_LOW)))
    p = _like(d, numerics.EXP_POLYNOMIAL[0])
    for coefficient in numerics.EXP_POLYNOMIAL[1:]:
        p = ir.fadd(ir.fmul(p, r), _like(d, coefficient))
    return p, ir.bitcast(shifted, vector(I32, d.type.count))


def _unless_tiny(k: LoopBuilder, d: Value, result: Value) -> Value:
    """0 where ``d`` is too small; the compare is false of NaN, which so stays."""
    vanishes = k.ir.fcmp_ordered("<", d, _like(d, numerics.EXP_LEAST))
    return k.ir.select(vanishes, constant(d.type, 0.0), result)


def sigmoid(k: LoopBuilder, x: Value) -> Value:
    """``1 / (1 + exp(-x))`` of a float32 vector, as :func:`qcc.numerics.sigmoid` has it."""
    ir = k.ir
    words = vector(I32, x.type.count)
    negative = ir.bitcast(ir.or_(ir.bitcast(x, words), constant(words, _SIGN_BIT)), x.type)
    small = exponential(k, negative)
    one, zero = constant(x.type, 1.0), constant(x.type, 0.0)
    above = ir.select(ir.fcmp_ordered("<", x, zero), small, one)
    return nan_where_unordered(k, x, ir.fdiv(above, ir.fadd(one, small)))


def side_by_side(
    k: LoopBuilder, values: Sequence[Value], function: Callable[[LoopBuilder, Value], Value]
) -> list[Value]:
    """``function`` of each vector (they are of one type), computed step by step for all of them.

    A long chain of dependent operations leaves a CPU idle unless the next chain is near in the
    code.  LLVM does not interleave chains, but it cuts each operation on a longer vector.
    """
    results: list[Value] = []
    while len(results) < len(values):
        left = values[len(results) :]
        count = min(MOST_CHAINS, 1 << (len(left).bit_length() - 1))
        joined = list(left[:count])
        while len(joined) > 1:
            joined = [k.join(a, b) for a, b in zip(joined[::2], joined[1::2], strict=True)]
        pieces = [function(k, joined[0])]
        while len(pieces) < count:
            pieces = [half for piece in pieces for half in k.halves(piece)]
        results += pieces
    return results


MOST_CHAINS = 8
"""Vectors whose operations are interleaved, at most."""


def chains(isa: InstructionSet) -> int:
    """How many vectors to compute side by side.

    AArch64 has no operands in memory: with more of them, constants and values pass through the
    stack all the time.
    """
    return 4 if isa.architecture == "aarch64" else MOST_CHAINS


def nan_where_unordered(k: LoopBuilder, tested: Value, value: Value) -> Value:
    """``value``, with the one NaN of the contract wherever ``tested`` is NaN."""
    words = constant(vector(I32, value.type.count), _NAN_BITS)
    nan = k.ir.bitcast(words, value.type)
    return k.ir.select(k.ir.fcmp_unordered("uno", tested, tested), nan, value)
