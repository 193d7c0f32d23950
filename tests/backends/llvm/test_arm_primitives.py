"""AArch64's instructions against their definitions, and what is composed of them, under qemu."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from llvmlite import ir
from numpy.typing import NDArray

from qcc.backends.llvm import machine, primitives
from qcc.backends.llvm.builder import (
    F32,
    I8,
    POINTER,
    Index,
    LoopBuilder,
    Value,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import INSTRUCTION_SETS, InstructionSet
from qcc.backends.llvm.kernels.byte_table import lookup, packed_table
from qcc.backends.llvm.kernels.lanes import load_first, load_words
from tests.backends.llvm.kernels.buffers import bytes_of
from tests.emulation.programs import Bytes, EmulatedProgram, require_emulator, run_programs

ROWS = [row for row in INSTRUCTION_SETS.values() if row.architecture == "aarch64"]
TURNS = 64
SIZE = 16
ANY_BYTES = ("pick_bytes", "lookup_64", "replace_by_64", "pack_to_int16", "pack_to_uint8")

Body = Callable[[LoopBuilder, "list[Value]", Index], "list[Value]"]
"""From a program's operands (pointers) and a turn to vectors, one for each output."""


@pytest.fixture(autouse=True)
def _emulator() -> None:
    require_emulator()


def executed(isa: InstructionSet, inputs: Sequence[Bytes], body: Body, outputs: int) -> list[Bytes]:
    """What ``body`` gives for each of ``TURNS`` turns, 16 bytes an output."""
    module = ir.Module("primitives")
    k = LoopBuilder(declare_kernel(module, "run_0", ["arena", "weights", "inputs", "outputs"]))

    def entry(table: str, i: int) -> Value:
        return k.load(POINTER, k.operand(table), 8 * i, align=8)

    given = [entry("inputs", i) for i in range(len(inputs))]

    def turn(i: Value) -> None:
        for number, value in enumerate(body(k, given, i)):
            k.store(value, entry("outputs", number), k.mul(i, SIZE))

    k.loop(0, TURNS, turn)
    code = machine.compile_module(k.finish().module, isa).object_code
    weights = np.zeros(64, np.uint8)
    sizes = (SIZE * TURNS,) * outputs
    program = EmulatedProgram(code, ("run_0",), [list(inputs)], sizes, weights, 512)
    found = run_programs([program], isa)[0][0].outputs
    return [array for array in found if array is not None]


def random_operands(name: str, count: int) -> list[Bytes]:
    rng = np.random.default_rng(3)
    if name == "round_to_int":
        scale = 10.0 ** rng.integers(-2, 9, SIZE // 4 * TURNS)
        values = (rng.normal(size=scale.size) * scale).astype(np.float32)
        values[:8] = [0.5, 1.5, 2.5, -0.5, -0.0, 2.0**30 + 64, -(2.0**31), 8388607.5]
        return [bytes_of(values)]
    operands = [rng.integers(0, 256, SIZE * TURNS).astype(np.uint8) for _ in range(count)]
    for operand in operands[1:]:
        operand[:SIZE], operand[SIZE : 2 * SIZE] = 0x80, 0x7F
    operands[0][:SIZE], operands[0][SIZE : 2 * SIZE] = 0x80, 0xFF
    return operands


@pytest.mark.parametrize("name", ["round_to_int", *ANY_BYTES])
def test_instructions_do_what_their_definitions_say(name: str) -> None:
    isa = INSTRUCTION_SETS["arm-neon"]
    row = primitives.primitive(name, isa, SIZE)

    def both(k: LoopBuilder, given: list[Value], turn: Index) -> list[Value]:
        place = k.mul(turn, SIZE)
        pairs = zip(row.operand_types, given, strict=True)
        operands = [k.load(type_, pointer, place) for type_, pointer in pairs]
        return [primitives.call(k, form, name, *operands) for form in (isa, isa.for_emulation())]

    inputs = random_operands(name, len(row.operand_types))
    if name in ("replace_by_64", "lookup_64"):
        inputs[-1] %= 100
    first, second = executed(isa, inputs, both, 2)
    assert first.any()
    np.testing.assert_array_equal(first, second)


def dot_name(isa: InstructionSet) -> str:
    return "dot_signed_signed" if isa.signed else "dot_unsigned_signed"


@pytest.mark.parametrize("isa", ROWS, ids=lambda isa: isa.name)
def test_dot_products_do_what_their_definition_says(isa: InstructionSet) -> None:
    name = dot_name(isa)
    row = primitives.primitive(name, isa.for_emulation(), SIZE)

    def both(k: LoopBuilder, given: list[Value], turn: Index) -> list[Value]:
        place = k.mul(turn, SIZE)
        pairs = zip(row.operand_types, given, strict=True)
        operands = [k.load(type_, pointer, place) for type_, pointer in pairs]
        return [primitives.call(k, form, name, *operands) for form in (isa, isa.for_emulation())]

    accumulator, activations, weights = random_operands(name, 3)
    weights = np.maximum(weights.view(np.int8), isa.least_weight).view(np.uint8)
    first, second = executed(isa, [accumulator, activations, weights], both, 2)
    np.testing.assert_array_equal(first, second)


def special_floats() -> NDArray[np.float32]:
    """Ordinary numbers, bounds and their neighbours, infinities, quiet and signaling NaNs."""
    values = np.random.default_rng(0).normal(0, 4, 4 * TURNS).astype(np.float32)
    edges = [4.0, -4.0, np.nextafter(np.float32(4), np.float32(9)), np.inf, -np.inf, 0.0, -0.0]
    values[: len(edges)] = edges
    nans = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFF812345, 0x7FFFFFFF], np.uint32)
    values[8:13] = nans.view(np.float32)
    return values


def test_a_clamp_gives_the_lower_bound_for_every_nan() -> None:
    isa, values = INSTRUCTION_SETS["arm-neon"], special_floats()

    def clamped(k: LoopBuilder, given: list[Value], turn: Index) -> list[Value]:
        value = k.load(vector(F32, 4), given[0], k.mul(turn, SIZE))
        # Bounds from memory, as kernels have them: LLVM turns a select by constants into an
        # instruction that treats signaling NaNs otherwise.
        low, high = (k.splat(k.load(F32, given[1], at, align=4), 4) for at in (0, 4))
        forms = (isa, isa.for_emulation())
        return [primitives.clamp_or_low(k, form, value, low, high) for form in forms]

    bounds = np.array([-4, 4], np.float32)
    first, second = executed(isa, [bytes_of(values), bytes_of(bounds)], clamped, 2)
    np.testing.assert_array_equal(first, second)
    wanted = np.where(np.isnan(values), np.float32(-4), np.clip(values, -4, 4))
    assert first.tobytes() == wanted.astype(np.float32).tobytes()


@pytest.mark.parametrize("count", [1, 4, 5, 13, 16])
def test_bytes_are_widened_in_memory_order(count: int) -> None:
    isa = INSTRUCTION_SETS["arm-dotprod"]
    given = np.random.default_rng(1).integers(0, 256, SIZE * TURNS).astype(np.uint8)
    words = -(-count // 4)

    def widened(k: LoopBuilder, operands: list[Value], turn: Index) -> list[Value]:
        return load_words(k, isa, operands[0], k.mul(turn, SIZE), count)

    found = executed(isa, [given], widened, words)
    joined = np.stack([array.view(np.int32).reshape(TURNS, 4) for array in found], axis=1)
    wanted = given.reshape(TURNS, SIZE)[:, : 4 * words]
    np.testing.assert_array_equal(joined.reshape(TURNS, -1), wanted)


def test_the_first_bytes_are_loaded_and_none_behind_them() -> None:
    isa = INSTRUCTION_SETS["arm-neon"]
    for count in range(1, SIZE):
        # The last turn ends where the buffer does: a byte more would be out of bounds.
        given = np.random.default_rng(count).integers(1, 256, TURNS - 1 + count).astype(np.uint8)

        def first(
            k: LoopBuilder, operands: list[Value], turn: Index, count: int = count
        ) -> list[Value]:
            return [load_first(k, I8, SIZE, operands[0], turn, count)]

        (found,) = executed(isa, [given], first, 1)
        wanted = np.zeros((TURNS, SIZE), np.uint8)
        wanted[:, :count] = np.lib.stride_tricks.sliding_window_view(given, count)
        np.testing.assert_array_equal(found.reshape(TURNS, SIZE), wanted)


@pytest.mark.parametrize("isa", ROWS, ids=lambda isa: isa.name)
def test_every_byte_is_looked_up_in_a_table(isa: InstructionSet) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 256, 256).astype(np.uint8)
    index = np.resize(rng.permutation(256).astype(np.uint8), SIZE * TURNS)

    def looked_up(k: LoopBuilder, given: list[Value], turn: Index) -> list[Value]:
        value = k.load(vector(I8, SIZE), given[1], k.mul(turn, SIZE))
        return lookup(k, isa, given[0], [value])

    (found,) = executed(isa, [packed_table(isa, table), index], looked_up, 1)
    np.testing.assert_array_equal(found, table[index])
