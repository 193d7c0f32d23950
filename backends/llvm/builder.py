"""A small structured layer over ``llvmlite.ir``: loops that carry values, bytes and vectors.

All kernels are written with it.  Pointers are opaque and every address is ``pointer + bytes``, so
layouts are plain arithmetic.  Offsets may be Python integers or i64 values everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

Value = Any
"""An ``llvmlite.ir`` value (llvmlite has no types of its own)."""
Index = Any
"""A Python int or an i64 value."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()
F64 = ir.DoubleType()
POINTER = ir.PointerType()


def vector(element: Any, count: int) -> Any:
    """The type of ``count`` elements."""
    return ir.VectorType(element, count)


def constant(type_: Any, value: Any) -> Value:
    """A constant of a scalar or vector type; a single number fills a vector."""
    if isinstance(type_, ir.VectorType) and not isinstance(value, (list, tuple)):
        value = [value] * type_.count
    return ir.Constant(type_, value)


def declare_kernel(module: Any, symbol: str, operands: Sequence[str]) -> Any:
    """A function ``void(ptr operand..., i32 tid, i32 nthreads)`` with named arguments.

    Arguments may alias: the memory plan may let an output take the place of an input.
    """
    signature = ir.FunctionType(ir.VoidType(), [POINTER] * len(operands) + [I32, I32])
    function = ir.Function(module, signature, symbol)
    for argument, name in zip(function.args, [*operands, "tid", "nthreads"], strict=True):
        argument.name = name
    function.attributes.add("nounwind")
    # Loops stay loops: no call into the C library may appear in generated code.  llvmlite's set
    # knows no string attributes, so this one goes past its check.
    set.add(function.attributes, '"no-builtins"')
    return function


class LoopBuilder:
    """Writes the body of one function.

    ``ir`` is the underlying ``IRBuilder`` for plain arithmetic; this class adds addresses, loops
    and vectors.
    """

    def __init__(self, function: Any) -> None:
        self.function = function
        self.module = function.module
        self.ir = ir.IRBuilder(function.append_basic_block("entry"))

    def operand(self, name: str) -> Value:
        """The argument called ``name``."""
        return next(argument for argument in self.function.args if argument.name == name)

    def finish(self) -> Any:
        """End the function and return it."""
        self.ir.ret_void()
        return self.function

    # -- indices ------------------------------------------------------------------------------

    def index(self, value: Index) -> Value:
        """``value`` as an i64 (a Python int becomes a constant, an i32 is sign-extended)."""
        if isinstance(value, int):
            return ir.Constant(I64, value)
        return value if value.type == I64 else self.ir.sext(value, I64)

    def add(self, a: Index, b: Index) -> Index:
        """``a + b``; folded when both are Python ints."""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if isinstance(a, int) and a == 0:
            return b
        if isinstance(b, int) and b == 0:
            return a
        return self.ir.add(self.index(a), self.index(b), flags=["nsw"])

    def sub(self, a: Index, b: Index) -> Index:
        """``a - b``; folded when both are Python ints."""
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        return self.ir.sub(self.index(a), self.index(b), flags=["nsw"])

    def mul(self, a: Index, b: Index) -> Index:
        """``a * b``; folded when both are Python ints or one is 0 or 1."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if isinstance(a, int):
            a, b = b, a
        if isinstance(b, int) and b in (0, 1):
            return a if b else 0
        return self.ir.mul(self.index(a), self.index(b), flags=["nsw"])

    def div(self, a: Index, b: Index) -> Index:
        """``a // b`` of non-negative values."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if isinstance(b, int) and b == 1 else self.ir.udiv(self.index(a), self.index(b))

    def mod(self, a: Index, b: Index) -> Index:
        """``a % b`` of non-negative values."""
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return 0 if isinstance(b, int) and b == 1 else self.ir.urem(self.index(a), self.index(b))

    def minimum(self, a: Index, b: Index) -> Index:
        """The smaller of two indices."""
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        a, b = self.index(a), self.index(b)
        return self.ir.select(self.ir.icmp_signed("<", a, b), a, b)

    def maximum(self, a: Index, b: Index) -> Index:
        """The larger of two indices."""
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        a, b = self.index(a), self.index(b)
        return self.ir.select(self.ir.icmp_signed(">", a, b), a, b)

    @staticmethod
    def integer(bits: int) -> Any:
        """The integer type of ``bits`` bits."""
        return ir.IntType(bits)

    # -- memory -------------------------------------------------------------------------------

    def at(self, pointer: Value, offset: Index) -> Value:
        """``pointer + offset`` bytes."""
        if isinstance(offset, int) and offset == 0:
            return pointer
        return self.ir.gep(pointer, [self.index(offset)], source_etype=I8)

    def load(self, type_: Any, pointer: Value, offset: Index = 0, align: int = 1) -> Value:
        """Load a scalar or vector from ``pointer + offset``."""
        return self.ir.load(self.at(pointer, offset), typ=type_, align=align)

    def store(self, value: Value, pointer: Value, offset: Index = 0, align: int = 1) -> None:
        """Store a scalar or vector to ``pointer + offset``."""
        self.ir.store(value, self.at(pointer, offset), align=align)

    def stack(self, size: int, align: int = 64) -> Value:
        """``size`` bytes on the stack, alive until the function returns."""
        with self.ir.goto_entry_block():
            slot = self.ir.alloca(I8, size=ir.Constant(I64, size))
        slot.align = align
        # llvmlite gives stack slots a typed pointer, which current LLVM does not read.
        slot.type = POINTER
        return slot

    # -- control ------------------------------------------------------------------------------

    def loop(
        self,
        start: Index,
        stop: Index,
        body: Callable[..., Sequence[Value] | None],
        *,
        step: int = 1,
        carried: Sequence[Value] = (),
        name: str = "loop",
    ) -> list[Value]:
        """``for index in range(start, stop, step): carried = body(index, *carried)``.

        Returns the carried values after the last turn.  Known bounds are exploited: no turn and one
        turn need no loop, and a loop that surely turns has no guard.
        """
        known = isinstance(start, int) and isinstance(stop, int)
        if known and stop <= start:
            return list(carried)
        if known and stop - start <= step:
            return list(body(start, *carried) or ())
        before = self.ir.block
        begin, end = self.index(start), self.index(stop)
        head = self.function.append_basic_block(name)
        done = self.function.append_basic_block(f"{name}.done")
        if known:
            self.ir.branch(head)
        else:
            self.ir.cbranch(self.ir.icmp_signed("<", begin, end), head, done)
        self.ir.position_at_end(head)
        index = self._phi(I64, begin, before)
        inner = [self._phi(value.type, value, before) for value in carried]
        new = list(body(index, *inner) or ())
        following = self.ir.add(index, ir.Constant(I64, step), flags=["nsw"])
        latch = self.ir.block
        for phi, value in zip([index, *inner], [following, *new], strict=True):
            phi.add_incoming(value, latch)
        self.ir.cbranch(self.ir.icmp_signed("<", following, end), head, done)
        self.ir.position_at_end(done)
        if known:
            return new
        return [self._merge(a, before, b, latch) for a, b in zip(carried, new, strict=True)]

    def _phi(self, type_: Any, value: Value, block: Any) -> Value:
        phi = self.ir.phi(type_)
        phi.add_incoming(value, block)
        return phi

    def _merge(self, a: Value, a_block: Any, b: Value, b_block: Any) -> Value:
        phi = self._phi(b.type, a, a_block)
        phi.add_incoming(b, b_block)
        return phi

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """``if condition:`` around the body of the ``with`` statement."""
        with self.ir.if_then(condition):
            yield

    def thread_range(self, total: Index, step: int = 1) -> tuple[Value, Value]:
        """This thread's share ``[begin, end)`` of ``range(total)``.

        Shares are contiguous, differ by at most ``step``, and begin at multiples of ``step``.
        """
        tid, count = (self.index(self.operand(name)) for name in ("tid", "nthreads"))
        units = self.div(self.add(total, step - 1), step)
        begin = self.div(self.mul(units, tid), count)
        end = self.div(self.mul(units, self.add(tid, 1)), count)
        return (
            self.index(self.mul(begin, step)),
            self.index(self.minimum(self.mul(end, step), total)),
        )

    def fence(self, values: Sequence[Value]) -> list[Value]:
        """The vectors ``values``, known to LLVM only behind this place; no load moves across it.

        An empty piece of AArch64 assembly that is said to change them.
        """
        types = [value.type for value in values]
        result = types[0] if len(types) == 1 else ir.LiteralStructType(types)
        places = ["=w"] * len(types) + [str(i) for i in range(len(types))]
        signature = ir.FunctionType(result, types)
        code = ir.InlineAsm(signature, "", ",".join(places), side_effect=True)
        found = self.ir.call(code, list(values))
        if len(types) == 1:
            return [found]
        return [self.ir.extract_value(found, i) for i in range(len(types))]

    # -- vectors ------------------------------------------------------------------------------

    def splat(self, scalar: Value, count: int) -> Value:
        """``count`` copies of a scalar."""
        type_ = vector(scalar.type, count)
        undefined = ir.Constant(type_, ir.Undefined)
        first = self.ir.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.ir.shuffle_vector(first, undefined, constant(vector(I32, count), 0))

    def shuffle(self, a: Value, b: Value | None, indices: Sequence[int]) -> Value:
        """Elements of ``a`` and then ``b`` (or nothing) picked by ``indices``."""
        other = ir.Constant(a.type, ir.Undefined) if b is None else b
        return self.ir.shuffle_vector(a, other, constant(vector(I32, len(indices)), list(indices)))

    def halves(self, value: Value) -> tuple[Value, Value]:
        """The lower and the upper half of a vector."""
        half = value.type.count // 2
        return (
            self.shuffle(value, None, range(half)),
            self.shuffle(value, None, range(half, 2 * half)),
        )

    def join(self, low: Value, high: Value) -> Value:
        """Two vectors one after the other."""
        return self.shuffle(low, high, range(2 * low.type.count))
