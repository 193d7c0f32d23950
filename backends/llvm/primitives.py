"""The few vector instructions that kernels use by name: each intrinsic beside its definition.

A :class:`Primitive` is one row: the LLVM intrinsic that is the machine instruction, its types, and
a function that writes the same semantics in plain LLVM IR.  For an emulated instruction set the
definition takes the intrinsic's place, so kernels written for a CPU can be executed bit for bit on
another one.  Where no intrinsic is named, LLVM recognizes the definition and selects the
instruction itself.

Packs and unpacks work within 128-bit lanes, as x86 does; on AArch64 a vector is one lane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from qcc.backends.llvm.builder import F32, I8, I16, I32, LoopBuilder, Value, constant, vector
from qcc.backends.llvm.isa import InstructionSet

Definition = Callable[[LoopBuilder, list[Value]], Value]


@dataclass(frozen=True)
class Primitive:
    """One instruction: its name, result and argument types, definition, and intrinsic if any.

    ``operand_types`` are what kernels pass; ``intrinsic_types`` what the intrinsic takes where the
    two differ (same bits).  ``trailing`` are constant arguments that the intrinsic wants besides.
    """

    name: str
    result: Any
    operand_types: tuple[Any, ...]
    definition: Definition
    intrinsic: str | None = None
    intrinsic_types: tuple[Any, ...] | None = None
    trailing: tuple[tuple[Any, int | None], ...] = ()


# -- definitions ------------------------------------------------------------------------------


def _declare(k: LoopBuilder, name: str, result: Any, arguments: list[Any]) -> Any:
    found = k.module.globals.get(name)
    return found or ir.Function(k.module, ir.FunctionType(result, arguments), name)


def _minmax(k: LoopBuilder, kind: str, a: Value, b: Value) -> Value:
    name = f"llvm.{kind}.v{a.type.count}i{a.type.element.width}"
    return k.ir.call(_declare(k, name, a.type, [a.type, a.type]), [a, b])


def _clamped(k: LoopBuilder, value: Value, low: int, high: int) -> Value:
    value = _minmax(k, "smax", value, constant(value.type, low))
    return _minmax(k, "smin", value, constant(value.type, high))


def _grouped_products(k: LoopBuilder, a: Value, b: Value, count: int) -> Value:
    """Sum of products of ``count`` neighbouring elements; ``a`` and ``b`` already widened."""
    products = k.ir.mul(a, b)
    lanes = products.type.count // count
    total = k.shuffle(products, None, [lane * count for lane in range(lanes)])
    for i in range(1, count):
        picked = k.shuffle(products, None, [lane * count + i for lane in range(lanes)])
        total = k.ir.add(total, picked)
    return total


def _widen(k: LoopBuilder, value: Value, element: Any, *, signed: bool) -> Value:
    convert = k.ir.sext if signed else k.ir.zext
    return convert(value, vector(element, value.type.count))


def _dot_unsigned_signed(k: LoopBuilder, arguments: list[Value]) -> Value:
    accumulator, a, b = arguments
    a, b = _widen(k, a, I32, signed=False), _widen(k, b, I32, signed=True)
    return k.ir.add(accumulator, _grouped_products(k, a, b, 4))


def _dot_signed_signed(k: LoopBuilder, arguments: list[Value]) -> Value:
    accumulator, a, b = arguments
    a, b = _widen(k, a, I32, signed=True), _widen(k, b, I32, signed=True)
    return k.ir.add(accumulator, _grouped_products(k, a, b, 4))


def _dot_by_long_products(k: LoopBuilder, arguments: list[Value]) -> Value:
    """The signed dot product of ARMv8.0; no two neighbouring products may both be 2^14."""
    accumulator, a, b = arguments
    halves, octets = vector(I16, 8), vector(I8, 8)
    multiply = _declare(k, "llvm.aarch64.neon.smull.v8i16", halves, [octets, octets])
    add = _declare(k, "llvm.aarch64.neon.addp.v8i16", halves, [halves, halves])
    parts = ([k.shuffle(value, None, part) for value in (a, b)] for part in _HALVES_OF_16)
    pairs = k.ir.call(add, [k.ir.call(multiply, part) for part in parts])
    return add_pairwise(k, accumulator, pairs)


def _add_long_products(k: LoopBuilder, arguments: list[Value]) -> Value:
    """The first eight products of each of two vectors of activations, added to neighbours."""
    accumulator, *operands = arguments
    first, second, b = (_widen(k, value, I32, signed=True) for value in operands)
    low = k.ir.mul(*(k.shuffle(value, None, _HALVES_OF_16[0]) for value in (first, b)))
    high = k.ir.mul(*(k.shuffle(value, None, _HALVES_OF_16[1]) for value in (second, b)))
    sums = k.ir.add(low, high)
    even, odd = (k.shuffle(sums, None, range(start, 8, 2)) for start in (0, 1))
    return k.ir.add(accumulator, k.ir.add(even, odd))


def _long_products(k: LoopBuilder, arguments: list[Value]) -> Value:
    """The same by ``smull``, ``smlal2`` and ``sadalp``; no two products may both be 2^14."""
    accumulator, first, second, b = arguments
    halves, octets = vector(I16, 8), vector(I8, 8)
    multiply = _declare(k, "llvm.aarch64.neon.smull.v8i16", halves, [octets, octets])
    low = k.ir.call(multiply, [k.shuffle(v, None, _HALVES_OF_16[0]) for v in (first, b)])
    high = k.ir.call(multiply, [k.shuffle(v, None, _HALVES_OF_16[1]) for v in (second, b)])
    return add_pairwise(k, accumulator, k.ir.add(low, high))


def _matrix_product(k: LoopBuilder, arguments: list[Value]) -> Value:
    """Two rows of eight unsigned bytes by two columns of eight signed ones: four sums."""
    accumulator, a, b = arguments
    a, b = _widen(k, a, I32, signed=False), _widen(k, b, I32, signed=True)
    rows = k.shuffle(a, None, [*range(8), *range(8), *range(8, 16), *range(8, 16)])
    columns = k.shuffle(b, None, [*range(16), *range(16)])
    return k.ir.add(accumulator, _grouped_products(k, rows, columns, 8))


_HALVES_OF_16 = (range(8), range(8, 16))


def add_pairwise(k: LoopBuilder, accumulator: Value, halves: Value) -> Value:
    """AArch64: each int32 lane and the two int16 elements that lie beside it (``sadalp``)."""
    declared = _declare(k, "llvm.aarch64.neon.saddlp.v4i32.v8i16", vector(I32, 4), [halves.type])
    return k.ir.add(accumulator, k.ir.call(declared, [halves]))


def _multiply_add_pairs(k: LoopBuilder, arguments: list[Value]) -> Value:
    a, b = (_widen(k, value, I32, signed=True) for value in arguments)
    return _grouped_products(k, a, b, 2)


def _multiply_add_bytes(k: LoopBuilder, arguments: list[Value]) -> Value:
    a = _widen(k, arguments[0], I32, signed=False)
    b = _widen(k, arguments[1], I32, signed=True)
    total = _clamped(k, _grouped_products(k, a, b, 2), -32768, 32767)
    return k.ir.trunc(total, vector(I16, total.type.count))


def _round_to_int(k: LoopBuilder, arguments: list[Value]) -> Value:
    value = arguments[0]
    name = f"llvm.roundeven.v{value.type.count}f32"
    rounded = k.ir.call(_declare(k, name, value.type, [value.type]), [value])
    inside = k.ir.and_(
        k.ir.fcmp_ordered(">=", rounded, constant(value.type, -(2.0**31))),
        k.ir.fcmp_ordered("<", rounded, constant(value.type, 2.0**31)),
    )
    result = vector(I32, value.type.count)
    safe = k.ir.select(inside, rounded, constant(value.type, 0.0))
    return k.ir.select(inside, k.ir.fptosi(safe, result), constant(result, -(2**31)))


def _lane_pack(k: LoopBuilder, a: Value, b: Value, lane: int, *, low: int, high: int) -> Value:
    """Saturate two vectors to half their width, interleaved in pieces of ``lane`` elements."""
    count = a.type.count
    joined = _clamped(k, k.join(a, b), low, high)
    narrow = k.ir.trunc(joined, vector(ir.IntType(a.type.element.width // 2), 2 * count))
    order = [
        source * count + start + i
        for start in range(0, count, lane)
        for source in range(2)
        for i in range(lane)
    ]
    return k.shuffle(narrow, None, order)


def _pack_to_int16(k: LoopBuilder, arguments: list[Value]) -> Value:
    return _lane_pack(k, arguments[0], arguments[1], 4, low=-32768, high=32767)


def _pack_to_uint8(k: LoopBuilder, arguments: list[Value]) -> Value:
    return _lane_pack(k, arguments[0], arguments[1], 8, low=0, high=255)


def _lookup_16(k: LoopBuilder, arguments: list[Value]) -> Value:
    """Per 128-bit lane: ``table[index & 15]``, or 0 where bit 7 of ``index`` is set."""
    table, index = arguments
    result = constant(index.type, 0)
    for i in range(index.type.count):
        at = k.ir.extract_element(index, constant(I32, i))
        nibble = k.ir.add(k.ir.zext(k.ir.and_(at, constant(I8, 15)), I32), constant(I32, i & ~15))
        found = k.ir.extract_element(table, nibble)
        value = k.ir.select(k.ir.icmp_signed("<", at, constant(I8, 0)), constant(I8, 0), found)
        result = k.ir.insert_element(result, value, constant(I32, i))
    return result


def _lookup_64(k: LoopBuilder, arguments: list[Value]) -> Value:
    """Entry ``index`` of four vectors of 16 bytes one after the other, or 0 from 64 on."""
    return _replace_by_64(k, [constant(arguments[-1].type, 0), *arguments])


def _pick_bytes(k: LoopBuilder, arguments: list[Value]) -> Value:
    """``table[index]`` of 16 bytes, or 0 from 16 on."""
    table, index = arguments
    return _picked(k, table, index, constant(index.type, 0), 16)


def _replace_by_64(k: LoopBuilder, arguments: list[Value]) -> Value:
    """As ``lookup_64``, but from 64 on the byte of the first operand."""
    otherwise, *tables, index = arguments
    table = k.join(k.join(tables[0], tables[1]), k.join(tables[2], tables[3]))
    return _picked(k, table, index, otherwise, 64)


def _picked(k: LoopBuilder, table: Value, index: Value, otherwise: Value, entries: int) -> Value:
    result = otherwise
    for i in range(index.type.count):
        lane = constant(I32, i)
        at = k.ir.extract_element(index, lane)
        entry = k.ir.zext(k.ir.and_(at, constant(I8, entries - 1)), I32)
        inside = k.ir.icmp_unsigned("<", at, constant(I8, entries))
        kept = k.ir.extract_element(otherwise, lane)
        value = k.ir.select(inside, k.ir.extract_element(table, entry), kept)
        result = k.ir.insert_element(result, value, lane)
    return result


# -- the table --------------------------------------------------------------------------------

_INTRINSICS: dict[tuple[str, str, int], str] = {
    ("x86_64", "dot_unsigned_signed", 64): "llvm.x86.avx512.vpdpbusd.512",
    ("x86_64", "dot_unsigned_signed", 32): "llvm.x86.avx512.vpdpbusd.256",
    ("x86_64", "multiply_add_pairs", 64): "llvm.x86.avx512.pmaddw.d.512",
    ("x86_64", "multiply_add_pairs", 32): "llvm.x86.avx2.pmadd.wd",
    ("x86_64", "multiply_add_bytes", 64): "llvm.x86.avx512.pmaddubs.w.512",
    ("x86_64", "multiply_add_bytes", 32): "llvm.x86.avx2.pmadd.ub.sw",
    ("x86_64", "round_to_int", 64): "llvm.x86.avx512.mask.cvtps2dq.512",
    ("x86_64", "round_to_int", 32): "llvm.x86.avx.cvt.ps2dq.256",
    ("x86_64", "round_to_int", 16): "llvm.x86.sse2.cvtps2dq",
    ("x86_64", "pack_to_int16", 64): "llvm.x86.avx512.packssdw.512",
    ("x86_64", "pack_to_int16", 32): "llvm.x86.avx2.packssdw",
    ("x86_64", "pack_to_int16", 16): "llvm.x86.sse2.packssdw.128",
    ("x86_64", "pack_to_uint8", 64): "llvm.x86.avx512.packuswb.512",
    ("x86_64", "pack_to_uint8", 32): "llvm.x86.avx2.packuswb",
    ("x86_64", "pack_to_uint8", 16): "llvm.x86.sse2.packuswb.128",
    ("x86_64", "lookup_16", 64): "llvm.x86.avx512.pshuf.b.512",
    ("x86_64", "lookup_16", 32): "llvm.x86.avx2.pshuf.b",
    ("x86_64", "lookup_16", 16): "llvm.x86.ssse3.pshuf.b.128",
    ("aarch64", "dot_signed_signed", 16): "llvm.aarch64.neon.sdot.v4i32.v16i8",
    ("aarch64", "dot_unsigned_signed", 16): "llvm.aarch64.neon.usdot.v4i32.v16i8",
    ("aarch64", "matrix_product", 16): "llvm.aarch64.neon.usmmla.v4i32.v16i8",
    ("aarch64", "round_to_int", 16): "llvm.aarch64.neon.fcvtns.v4i32.v4f32",
    ("aarch64", "pick_bytes", 16): "llvm.aarch64.neon.tbl1.v16i8",
    ("aarch64", "lookup_64", 16): "llvm.aarch64.neon.tbl4.v16i8",
    ("aarch64", "replace_by_64", 16): "llvm.aarch64.neon.tbx4.v16i8",
}

_SEQUENCES: dict[tuple[str, str], Definition] = {
    ("smull", "dot_signed_signed"): _dot_by_long_products,
    ("smull", "add_long_products"): _long_products,
}
"""What an instruction set (by its ``dot``) does by several instructions instead of one."""

_ONLY_BY_INTRINSIC = frozenset(
    {"dot_unsigned_signed", "dot_signed_signed", "multiply_add_bytes", "matrix_product"}
)


def primitive(name: str, isa: InstructionSet, vector_bytes: int) -> Primitive:
    """The row of primitive ``name`` for vectors of ``vector_bytes`` bytes on ``isa``."""
    lanes = vector_bytes // 4
    words, halves, octets = vector(I32, lanes), vector(I16, 2 * lanes), vector(I8, 4 * lanes)
    floats = vector(F32, lanes)
    rows: dict[str, tuple[Any, tuple[Any, ...], Definition]] = {
        "dot_unsigned_signed": (words, (words, octets, octets), _dot_unsigned_signed),
        "dot_signed_signed": (words, (words, octets, octets), _dot_signed_signed),
        "add_long_products": (words, (words, octets, octets, octets), _add_long_products),
        "matrix_product": (words, (words, octets, octets), _matrix_product),
        "multiply_add_pairs": (words, (halves, halves), _multiply_add_pairs),
        "multiply_add_bytes": (halves, (octets, octets), _multiply_add_bytes),
        "round_to_int": (words, (floats,), _round_to_int),
        "pack_to_int16": (halves, (words, words), _pack_to_int16),
        "pack_to_uint8": (octets, (halves, halves), _pack_to_uint8),
        "lookup_16": (octets, (octets, octets), _lookup_16),
        "pick_bytes": (octets, (octets, octets), _pick_bytes),
        "lookup_64": (octets, (octets,) * 5, _lookup_64),
        "replace_by_64": (octets, (octets,) * 6, _replace_by_64),
    }
    result, types, definition = rows[name]
    intrinsic = _INTRINSICS.get((isa.architecture, name, vector_bytes))
    if intrinsic is None and name in _ONLY_BY_INTRINSIC and not isa.emulated:
        raise KeyError(f"{isa.name} has no instruction '{name}' on {vector_bytes} bytes")
    intrinsic_types: tuple[Any, ...] | None = None
    trailing: tuple[tuple[Any, int | None], ...] = ()
    if intrinsic is not None and "vpdpbusd" in intrinsic:
        # LLVM before 22 declares the byte vectors as words, and later ones accept that.
        intrinsic_types = (words, words, words)
    if intrinsic is not None and "mask.cvtps2dq" in intrinsic:
        trailing = ((words, None), (I16, -1), (I32, 4))
    return Primitive(name, result, types, definition, intrinsic, intrinsic_types, trailing)


def call(k: LoopBuilder, isa: InstructionSet, name: str, *arguments: Value) -> Value:
    """Apply primitive ``name`` to vectors; the width follows from the last argument."""
    last = arguments[-1].type
    bits = 32 if last.element == F32 else last.element.width
    sequence = _SEQUENCES.get((isa.dot, name))
    if sequence is not None and not isa.emulated:
        return sequence(k, list(arguments))
    row = primitive(name, isa, last.count * bits // 8)
    if row.intrinsic is None:
        return row.definition(k, list(arguments))
    if isa.emulated:
        return k.ir.call(_emulation(k, row), arguments)
    types = row.intrinsic_types or row.operand_types
    passed = [
        value if value.type == type_ else k.ir.bitcast(value, type_)
        for value, type_ in zip(arguments, types, strict=True)
    ]
    extra = [ir.Constant(t, ir.Undefined if v is None else v) for t, v in row.trailing]
    types = (*types, *(type_ for type_, _ in row.trailing))
    return k.ir.call(_declare(k, row.intrinsic, row.result, list(types)), [*passed, *extra])


def _emulation(k: LoopBuilder, row: Primitive) -> Any:
    """The internal function with the definition of ``row``, written once in a module."""
    name = f"emulated.{row.name}.{row.operand_types[-1].count}"
    found = k.module.globals.get(name)
    if found is not None:
        return found
    function = ir.Function(k.module, ir.FunctionType(row.result, list(row.operand_types)), name)
    function.linkage = "internal"
    # Inlining every use of a definition would make compilation many times slower.
    function.attributes.add("noinline")
    inner = LoopBuilder(function)
    inner.ir.ret(row.definition(inner, list(function.args)))
    return function


# -- small compositions of primitives that several kernels share --------------------------------


def add_saturating_int16(k: LoopBuilder, a: Value, b: Value) -> Value:
    """Signed saturating add of 16-bit elements."""
    name = f"llvm.sadd.sat.v{a.type.count}i16"
    return k.ir.call(_declare(k, name, a.type, [a.type, a.type]), [a, b])


def integer_minmax(k: LoopBuilder, kind: str, a: Value, b: Value) -> Value:
    """Elementwise ``umax``, ``umin``, ``smax`` or ``smin`` of two integer vectors."""
    return _minmax(k, kind, a, b)


def clamp_float(k: LoopBuilder, value: Value, bound: float) -> Value:
    """Clamp floats to ``[-bound, bound]``; NaN becomes ``-bound``."""
    low, high = constant(value.type, -bound), constant(value.type, bound)
    value = k.ir.select(k.ir.fcmp_ordered(">", value, low), value, low)
    return k.ir.select(k.ir.fcmp_ordered("<", value, high), value, high)


def unpack(k: LoopBuilder, a: Value, b: Value, *, high: bool) -> Value:
    """Interleave the low (or high) halves of each 128-bit lane of two vectors."""
    count = a.type.count
    lane = 128 // a.type.element.width
    order = [
        source * count + start + i + (lane // 2 if high else 0)
        for start in range(0, count, lane)
        for i in range(lane // 2)
        for source in range(2)
    ]
    return k.shuffle(a, b, order)


def lookup_by_64(k: LoopBuilder, isa: InstructionSet, table: Value, index: Value) -> Value:
    """``table[index]`` of every byte on AArch64, which looks up 64 entries at a time."""
    parts = [
        [k.load(index.type, table, 64 * part + 16 * i, align=16) for i in range(4)]
        for part in range(4)
    ]
    result = call(k, isa, "lookup_64", *parts[0], index)
    for part in range(1, 4):
        moved = k.ir.sub(index, constant(index.type, 64 * part))
        result = call(k, isa, "replace_by_64", result, *parts[part], moved)
    return result


def zero_extended_quarter(k: LoopBuilder, isa: InstructionSet, octets: Value, part: int) -> Value:
    """Bytes ``4 part`` to ``4 part + 3`` of 16 as int32: one instruction on AArch64.

    (LLVM would take two or three, and look through the shuffles that made ``octets``.)
    """
    order = [4 * part + i // 4 if i % 4 == 0 else 255 for i in range(16)]
    index = constant(octets.type, [value - 256 if value > 127 else value for value in order])
    return k.ir.bitcast(call(k, isa, "pick_bytes", octets, index), vector(I32, 4))


def clamp_or_low(
    k: LoopBuilder, isa: InstructionSet, value: Value, low: Value, high: Value
) -> Value:
    """Floats clamped to ``[low, high]`` (vectors without zeros or NaN); NaN becomes ``low``."""
    if isa.architecture == "aarch64" and not isa.emulated:
        # fmin makes any NaN a quiet one, and of that and a number fmaxnm gives the number.
        for name, bound in (("fmin", high), ("fmaxnm", low)):
            function = f"llvm.aarch64.neon.{name}.v{value.type.count}f32"
            declared = _declare(k, function, value.type, [value.type, value.type])
            value = k.ir.call(declared, [value, bound])
        return value
    # Ordered compares: false of NaN.
    value = k.ir.select(k.ir.fcmp_ordered(">", value, low), value, low)
    return k.ir.select(k.ir.fcmp_ordered("<", value, high), value, high)
