"""Instruction sets, compilation, loading, and the primitives against their definitions."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from llvmlite import ir

from qcc.backends.llvm import machine, primitives
from qcc.backends.llvm.builder import (
    I8,
    I64,
    LoopBuilder,
    Value,
    constant,
    declare_kernel,
    vector,
)
from qcc.backends.llvm.isa import (
    INSTRUCTION_SETS,
    InstructionSet,
    can_run,
    host_instruction_set,
    instruction_set,
)
from qcc.backends.llvm.kernels import Kernel
from qcc.backends.llvm.kernels.activation import ActivationLayout
from qcc.backends.llvm.kernels.byte_table import lookup, packed_table
from qcc.backends.llvm.kernels.conv import ConvKernel
from qcc.backends.llvm.kernels.halo import FillHaloKernel
from qcc.backends.llvm.schedule import GemmShape, Inner, candidates, gemm_schedule, split_rows
from qcc.errors import ArtifactError, ConfigError
from tests.backends.llvm.native import aligned, in_process_form, native_or_skip, run


def call(isa: InstructionSet, function: ir.Function, *buffers: np.ndarray) -> None:
    """Compile the finished ``function`` for ``isa`` and call it with ``tid=0, nthreads=1``."""
    loaded = machine.load_object(machine.compile_module(function.module, isa).object_code)
    types = [ctypes.c_void_p] * len(buffers) + [ctypes.c_int32] * 2
    native = ctypes.CFUNCTYPE(None, *types)(loaded.address("f"))
    native(*[buffer.ctypes.data for buffer in buffers], 0, 1)


def new(*operands: str) -> LoopBuilder:
    return LoopBuilder(declare_kernel(ir.Module(), "f", operands))


def test_the_best_row_of_this_machine_runs_here() -> None:
    isa = host_instruction_set()
    assert can_run(isa)
    assert isa.needs <= machine.host_cpu_features()


def test_features_of_arm_cpus_are_read_from_their_capability_words() -> None:
    # As qemu-aarch64 shows them for cortex-a53, neoverse-n1 and max.
    assert machine.arm_features(0x8FB, 0) == {"neon"}
    assert machine.arm_features(0x119FFB, 0) == {"neon", "dotprod"}
    assert machine.arm_features(0xECFFFFFB, 0x7F877FFF) == {"neon", "dotprod", "i8mm"}


def test_every_row_runs_when_emulated() -> None:
    assert all(can_run(row.for_emulation()) for row in INSTRUCTION_SETS.values())


def test_an_unknown_row_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="x86-avx2"):
        instruction_set("x86-mmx")


@pytest.mark.parametrize("name", [*INSTRUCTION_SETS])
def test_every_row_compiles(name: str) -> None:
    k = new("a")
    k.store(constant(I64, 7), k.operand("a"))
    compiled = machine.compile_module(k.finish().module, INSTRUCTION_SETS[name])
    assert compiled.object_code[:4] == b"\x7fELF"
    assert "f:" in compiled.assembly


def test_damaged_and_foreign_object_code_is_refused() -> None:
    k = new("a")
    module = k.finish().module
    arm = machine.compile_module(module, INSTRUCTION_SETS["arm-dotprod"]).object_code
    for bad in (b"", b"\x7fELF", arm):
        if machine.host_architecture() == "aarch64" and bad is arm:
            continue
        with pytest.raises(ArtifactError, match="another CPU"):
            machine.load_object(bad)


def test_a_missing_symbol_is_an_artifact_error() -> None:
    isa = host_instruction_set()
    loaded = machine.load_object(machine.compile_module(new("a").finish().module, isa).object_code)
    with pytest.raises(ArtifactError, match="no function 'g'"):
        loaded.address("g")


AVX2_PRIMITIVES = [
    "multiply_add_pairs",
    "multiply_add_bytes",
    "round_to_int",
    "pack_to_int16",
    "pack_to_uint8",
    "lookup_16",
]


@pytest.mark.parametrize("name", AVX2_PRIMITIVES)
@pytest.mark.parametrize("size", [16, 32])
def test_instructions_do_what_their_definitions_say(name: str, size: int) -> None:
    isa = native_or_skip("x86-avx2")
    if (isa.architecture, name, size) not in primitives._INTRINSICS:
        pytest.skip("the row has no such instruction")
    row = primitives.primitive(name, isa, size)
    rng = np.random.default_rng(0)
    for turn in range(8):
        inputs = [aligned(rng.integers(0, 256, size).astype(np.uint8)) for _ in row.operand_types]
        if turn == 0:
            inputs[-1][:] = 0x80
        if name == "round_to_int":
            scale = 10.0 ** rng.integers(-2, 12, size // 4)
            inputs[0].view(np.float32)[:] = rng.normal(size=size // 4) * scale
            inputs[0].view(np.float32)[:4] = [0.5, 1.5, 2.5, -0.5]
        results = []
        for form in (isa, isa.for_emulation()):
            k = new(*[f"a{i}" for i in range(len(inputs))], "out")
            operands = [k.load(t, k.operand(f"a{i}")) for i, t in enumerate(row.operand_types)]
            k.store(primitives.call(k, form, name, *operands), k.operand("out"))
            out = aligned(np.zeros(size, np.uint8))
            call(form, k.finish(), *inputs, out)
            results.append(out.copy())
        np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("name", [*INSTRUCTION_SETS])
def test_byte_lookup_on_every_row(name: str) -> None:
    isa = in_process_form(name)
    table = np.random.default_rng(0).integers(0, 256, 256).astype(np.uint8)
    index, size = np.arange(256, dtype=np.uint8), isa.vector_bytes
    k = new("table", "index", "out")

    def body(i: Value) -> None:
        value = k.load(vector(I8, size), k.operand("index"), i)
        (found,) = lookup(k, isa, k.operand("table"), [value])
        k.store(found, k.operand("out"), i)

    k.loop(0, 256, body, step=size)
    out = aligned(np.zeros(256, np.uint8))
    call(isa, k.finish(), aligned(packed_table(isa, table)), aligned(index), out)
    np.testing.assert_array_equal(out, table)


@pytest.mark.parametrize(("count", "step"), [(0, 1), (1, 1), (7, 1), (8, 3), (9, 3)])
@pytest.mark.parametrize("known", [True, False])
def test_loops_carry_values(count: int, step: int, known: bool) -> None:
    k = new("count", "out")
    stop = count if known else k.load(I64, k.operand("count"))
    total, turns = k.loop(
        0,
        stop,
        lambda i, total, turns: [k.add(total, i), k.add(turns, 1)],
        step=step,
        carried=[k.index(0), k.index(0)],
    )
    k.store(k.index(total), k.operand("out"))
    k.store(k.index(turns), k.operand("out"), 8)
    out = np.zeros(2, np.int64)
    call(host_instruction_set(), k.finish(), np.array([count], np.int64), out)
    assert list(out) == [sum(range(0, count, step)), len(range(0, count, step))]


@pytest.mark.parametrize(("total", "step"), [(1, 1), (7, 1), (10, 4), (3, 8), (64, 8)])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_thread_ranges_cover_everything_once(total: int, step: int, threads: int) -> None:
    k = new("out")
    begin, end = k.thread_range(total, step)
    k.store(begin, k.operand("out"))
    k.store(end, k.operand("out"), 8)
    code = machine.compile_module(k.finish().module, host_instruction_set()).object_code
    loaded = machine.load_object(code)
    native = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)(
        loaded.address("f")
    )
    covered: list[int] = []
    for tid in range(threads):
        out = np.zeros(2, np.int64)
        native(out.ctypes.data, tid, threads)
        assert out[0] % step == 0 or out[0] >= total
        covered += range(int(out[0]), int(out[1]))
    assert covered == list(range(total))


@pytest.mark.parametrize("halos", [(1, 1, 1, 1), (0, 2, 1, 0), (2, 0, 0, 0), (0, 0, 0, 3)])
@pytest.mark.parametrize("stride", [4, 36, 68])
@pytest.mark.parametrize("threads", [1, 3])
def test_fill_halo_writes_the_halo_and_nothing_else(
    halos: tuple[int, int, int, int], stride: int, threads: int
) -> None:
    layout = ActivationLayout(2, 3, 5, stride - 1, stride, *halos)
    kernel = FillHaloKernel(layout)
    isa = in_process_form("x86-avx2")
    out = aligned(np.full(layout.size_bytes, 7, np.uint8))
    run(kernel, isa, {"value": aligned(kernel.pack(isa, zero_point=99)["value"]), "output": out},
        threads)  # fmt: skip
    want = np.full((2, layout.rows, layout.columns, stride), 99, np.uint8)
    top, left = layout.halo_top, layout.halo_left
    want[:, top : top + 3, left : left + 5] = 7
    np.testing.assert_array_equal(out, want.reshape(-1))


def test_a_layout_without_halo_is_not_filled() -> None:
    with pytest.raises(ConfigError, match="no halo"):
        FillHaloKernel(ActivationLayout.plain(1, 2, 2, 3))


def test_a_channel_stride_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match="channel stride"):
        ActivationLayout(1, 2, 2, 5, 4)


def test_kernels_follow_the_protocol() -> None:
    layout = ActivationLayout.plain(1, 2, 2, 3)
    assert isinstance(ConvKernel(layout, layout), Kernel)
    assert hash(ConvKernel(layout, layout)) == hash(ConvKernel(layout, layout))


@pytest.mark.parametrize("rows", [1, 5, 6, 7, 49, 196])
@pytest.mark.parametrize("tile", [1, 4, 6])
def test_row_tiles_cover_all_rows(rows: int, tile: int) -> None:
    tiles, height, taller = split_rows(rows, tile)
    assert tiles * height + taller == rows
    assert height + (taller > 0) <= tile


@pytest.mark.parametrize("name", [*INSTRUCTION_SETS])
def test_schedules_fit_the_registers(name: str) -> None:
    isa = INSTRUCTION_SETS[name]
    inner: Inner = "widened" if isa.dot == "vpmaddwd" else "dot"
    for m in (1, 7, 49, 3136):
        for n in (1, 16, 33, 512):
            shape = GemmShape(m, n, 256, 512, 14, inner == "widened")
            cut = gemm_schedule(isa, inner, shape)
            assert (cut.rows, cut.vectors) in candidates(isa, inner)
            assert cut.block_tiles >= 1
            assert cut.chunk_tiles >= 1


def test_the_prototypes_tile_is_chosen_on_avx512() -> None:
    isa = INSTRUCTION_SETS["x86-avx512vnni"]
    cut = gemm_schedule(isa, "dot", GemmShape(196, 256, 1024, 1024, 14, False))
    assert cut.rows * cut.vectors >= 20
    assert cut.vectors == 4
