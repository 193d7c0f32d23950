"""LSTM and GRU against their reference, byte for byte."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels import recurrent_plan
from qcc.backends.llvm.kernels.recurrent import RecurrentKernel
from qcc.errors import ConfigError
from qcc.ref.recurrent import Recurrence, gru, lstm
from tests.backends.llvm.kernels.buffers import (
    FLOAT_ISAS,
    ISAS,
    at_page_end,
    blank,
    bytes_of,
    constants,
)
from tests.backends.llvm.native import build, executable_form, run

Floats = NDArray[np.float32]
X86 = [name for name in ISAS if name.startswith("x86")]
ALL = {"LSTM": ("y", "h", "c"), "GRU": ("y", "h")}
STATES = {"LSTM": ("h", "c"), "GRU": ("h",)}
KINDS = [("LSTM", False), ("GRU", False), ("GRU", True)]


def numbers(sizes: Recurrence, seed: int, spread: float = 0.4) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    ways, count = len(sizes.backward), sizes.gates * sizes.hidden
    shapes = {
        "x": (sizes.steps, sizes.batch, sizes.inputs),
        "weights": (ways, count, sizes.inputs),
        "hidden": (ways, count, sizes.hidden),
        "bias": (ways, 2 * count),
        "initial_h": (ways, sizes.batch, sizes.hidden),
        "initial_c": (ways, sizes.batch, sizes.hidden),
    }
    return {k: rng.normal(0, spread, shape).astype(np.float32) for k, shape in shapes.items()}


def expected(sizes: Recurrence, given: dict[str, Floats]) -> dict[str, Floats]:
    """Every result, direction by direction."""
    parts: dict[str, list[Floats]] = {name: [] for name in ALL[sizes.kind]}
    for d, backward in enumerate(sizes.backward):
        x = given["x"][::-1] if backward else given["x"]
        common = (x, given["weights"][d], given["hidden"][d], given["bias"][d])
        if sizes.kind == "LSTM":
            y, *last = lstm(*common, given["initial_h"][d], given["initial_c"][d])
        else:
            y, *last = gru(*common, given["initial_h"][d], reset_after=sizes.reset_after)
        for name, value in zip(parts, [y[::-1] if backward else y, *last], strict=True):
            parts[name].append(value)
    return {name: np.stack(v, 1 if name == "y" else 0) for name, v in parts.items()}


def check(kernel: RecurrentKernel, isa: str, given: dict[str, Floats], threads: int = 1) -> None:
    form = executable_form(isa)
    wanted = expected(kernel.sizes, given)
    operands: dict[str, Any] = {"x": bytes_of(given["x"])}
    operands |= {f"initial_{name}": bytes_of(given[f"initial_{name}"]) for name in kernel.states}
    packed = kernel.pack(form, **{name: given[name] for name in ("weights", "hidden", "bias")})
    operands |= constants(packed)
    operands["output_scratch"] = blank(kernel.scratch_bytes(form))
    operands |= {f"output_{name}": blank(wanted[name].nbytes) for name in kernel.outputs}
    run(kernel, form, operands, threads)
    for name in kernel.outputs:
        assert operands[f"output_{name}"].tobytes() == wanted[name].tobytes(), name


def whole(sizes: Recurrence) -> RecurrentKernel:
    return RecurrentKernel(sizes, STATES[sizes.kind], ALL[sizes.kind])


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize(("kind", "reset_after"), KINDS)
@pytest.mark.parametrize("hidden", [1, 8, 17, 64])
def test_units(hidden: int, kind: str, reset_after: bool, isa: str) -> None:
    sizes = Recurrence(kind, 5, 1, 7, hidden, (False, True), reset_after)
    check(whole(sizes), isa, numbers(sizes, hidden), threads=2)


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=10)
@given(
    kind=st.sampled_from(KINDS),
    steps=st.integers(1, 6),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 20),
    hidden=st.integers(1, 50),
    backward=st.sampled_from([(False,), (True,), (False, True)]),
    spread=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_shapes(
    isa: str,
    kind: tuple[str, bool],
    steps: int,
    batch: int,
    inputs: int,
    hidden: int,
    backward: tuple[bool, ...],
    spread: float,
) -> None:
    sizes = Recurrence(kind[0], steps, batch, inputs, hidden, backward, kind[1])
    check(whole(sizes), isa, numbers(sizes, steps * inputs + hidden, spread))


@pytest.mark.parametrize(("kind", "reset_after"), KINDS)
def test_numbers_that_are_none(kind: str, reset_after: bool) -> None:
    sizes = Recurrence(kind, 4, 1, 3, 11, (False,), reset_after)
    given = numbers(sizes, 1)
    given["x"][1, 0, 0], given["x"][2, 0, 1] = np.inf, np.nan
    given["initial_h"][0, 0, :3] = [np.inf, -np.inf, -np.nan]
    given["initial_c"][...] = np.float32(3e38)
    check(whole(sizes), "x86-avx2", given)


@pytest.mark.parametrize(("kind", "reset_after"), KINDS)
@pytest.mark.parametrize("backward", [(False,), (True,), (False, True)])
def test_long_sequences_are_computed_ahead_piece_by_piece(
    kind: str, reset_after: bool, backward: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent_plan, "AHEAD_BYTES", 3 * 2 * 4 * 4 * 16)
    sizes = Recurrence(kind, 10, 2, 5, 16, backward, reset_after)
    check(whole(sizes), "x86-avx2", numbers(sizes, 3))


@pytest.mark.parametrize(("kind", "reset_after"), KINDS)
@pytest.mark.parametrize("wanted", [(7, 1), (1, 7), (3, 5), (2, 2)])
def test_steps_that_nobody_reads_are_left_out(
    kind: str, reset_after: bool, wanted: tuple[int, int]
) -> None:
    sizes = Recurrence(kind, 7, 2, 5, 13, (False, True), reset_after)
    given, form = numbers(sizes, 8), executable_form("x86-avx2")
    kernel = RecurrentKernel(sizes, STATES[kind], ("y",), wanted)
    operands: dict[str, Any] = {"x": bytes_of(given["x"])}
    operands |= {f"initial_{name}": bytes_of(given[f"initial_{name}"]) for name in kernel.states}
    packed = kernel.pack(form, **{name: given[name] for name in ("weights", "hidden", "bias")})
    operands |= constants(packed) | {"output_scratch": blank(kernel.scratch_bytes(form))}
    whole_y = expected(sizes, given)["y"]
    operands["output_y"] = blank(whole_y.nbytes)
    run(kernel, form, operands, 2)
    found = operands["output_y"].view(np.float32).reshape(whole_y.shape)
    untouched = blank(whole_y.nbytes).view(np.float32).reshape(whole_y.shape)
    forward, back = wanted[0], 7 - wanted[1]
    assert found[:forward, 0].tobytes() == whole_y[:forward, 0].tobytes()
    assert found[back:, 1].tobytes() == whole_y[back:, 1].tobytes()
    assert found[forward:, 0].tobytes() == untouched[forward:, 0].tobytes()
    assert found[:back, 1].tobytes() == untouched[:back, 1].tobytes()


def test_states_that_are_absent_are_zero() -> None:
    sizes = Recurrence("LSTM", 3, 2, 5, 9, (True,))
    given = numbers(sizes, 4)
    given["initial_h"][...] = given["initial_c"][...] = 0
    check(RecurrentKernel(sizes, (), ("h",)), "x86-avx2", given)
    check(RecurrentKernel(sizes, ("c",), ("c", "y")), "x86-avx2", given)


def test_absent_bias_is_zero() -> None:
    sizes = Recurrence("GRU", 2, 1, 3, 5, (False,), True)
    given, kernel = (
        numbers(sizes, 5),
        RecurrentKernel(Recurrence("GRU", 2, 1, 3, 5, (False,), True)),
    )
    form = executable_form("x86-avx2")
    parts = {name: given[name] for name in ("weights", "hidden")}
    zeros = kernel.pack(form, **parts, bias=np.zeros_like(given["bias"]))
    packed = kernel.pack(form, **parts, bias=None)
    assert all(np.array_equal(zeros[name], packed[name]) for name in zeros)


@pytest.mark.parametrize(("kind", "reset_after"), KINDS)
@pytest.mark.parametrize("hidden", [3, 13])
def test_not_a_byte_past_the_end_is_touched(hidden: int, kind: str, reset_after: bool) -> None:
    sizes = Recurrence(kind, 3, 2, 5, hidden, (False,), reset_after)
    given, kernel, isa = numbers(sizes, 6), whole(sizes), host_instruction_set()
    wanted = expected(sizes, given)
    memory: dict[str, Any] = {"x": at_page_end(given["x"])}
    memory |= {f"initial_{name}": at_page_end(given[f"initial_{name}"]) for name in kernel.states}
    packed = kernel.pack(isa, **{name: given[name] for name in ("weights", "hidden", "bias")})
    memory |= {name: at_page_end(array) for name, array in packed.items()}
    memory["output_scratch"] = at_page_end(np.zeros(kernel.scratch_bytes(isa), np.uint8))
    memory |= {f"output_{name}": at_page_end(np.zeros_like(v)) for name, v in wanted.items()}
    loaded = machine.load_object(build(kernel, isa).object_code)
    count = len(kernel.operands)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * count, ctypes.c_int32, ctypes.c_int32)
    pointers = [memory[name].ctypes.data for name in kernel.operands]
    signature(loaded.address("kernel"))(*pointers, 0, 1)
    for name, value in wanted.items():
        assert memory[f"output_{name}"].tobytes() == value.tobytes()


def test_what_is_refused() -> None:
    sizes = Recurrence("GRU", 3, 1, 5, 9, (False,))
    with pytest.raises(ConfigError, match="hidden units"):
        RecurrentKernel(replace(sizes, steps=0))
    with pytest.raises(ConfigError, match="no such state"):
        RecurrentKernel(sizes, ("c",))
    with pytest.raises(ConfigError, match="its number of steps"):
        RecurrentKernel(sizes, (), ("y",), (1, 2))
    with pytest.raises(ConfigError, match="all steps"):
        RecurrentKernel(sizes, (), ("y", "h"), (1,))


@pytest.mark.parametrize(("kind", "reset_after"), KINDS)
def test_code_for_every_instruction_set(kind: str, reset_after: bool) -> None:
    sizes = Recurrence(kind, 4, 1, 8, 40, (False, True), reset_after)
    for name in ISAS:
        text = build(whole(sizes), INSTRUCTION_SETS[name]).assembly
        assert any(word in text for word in ("vfmadd", "fmla"))
        assert not any(word in text for word in ("callq", "\tbl\t"))
