"""The driver itself: memory around buffers is out of bounds, and a process that hangs is ended."""

from __future__ import annotations

import numpy as np
import pytest

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS
from tests.emulation.programs import (
    EmulatedCall,
    EmulatedProgram,
    EmulationError,
    require_emulator,
    run_programs,
)

ISA = INSTRUCTION_SETS["arm-neon"]

STEP = """
define void @run_0(ptr %arena, ptr %weights, ptr %inputs, ptr %outputs, i32 %tid, i32 %count) {{
  %input = load ptr, ptr %inputs
  %output = load ptr, ptr %outputs
  %from = getelementptr i8, ptr %{source}, i64 {read}
  %to = getelementptr i8, ptr %{target}, i64 {written}
  %value = load i8, ptr %from
  store i8 %value, ptr %to
  ret void
}}
"""


@pytest.fixture(autouse=True)
def _emulator() -> None:
    require_emulator()


def copy_byte(source: str, read: int, target: str, written: int) -> EmulatedCall:
    """One byte copied between buffers of 64 bytes, of which the first is 7 and the last 9."""
    text = STEP.format(source=source, read=read, target=target, written=written)
    code = machine.compile_module(text, ISA).object_code
    content = np.zeros(64, np.uint8)
    content[0], content[63] = 7, 9
    program = EmulatedProgram(code, ("run_0",), [[content]], (64,), content, 64 * 512)
    return run_programs([program], ISA)[0][0]


@pytest.mark.parametrize("source", ["input", "weights"])
@pytest.mark.parametrize("place", [0, 63])
def test_buffers_are_read_to_their_ends(source: str, place: int) -> None:
    (output,) = copy_byte(source, place, "output", place).outputs
    assert output is not None
    assert output[place] == (7 if place == 0 else 9)


@pytest.mark.parametrize("source", ["input", "weights", "arena"])
def test_a_byte_behind_a_buffer_may_not_be_read(source: str) -> None:
    size = 64 * 512 if source == "arena" else 64
    with pytest.raises(EmulationError, match="exit code"):
        copy_byte(source, size, "output", 0)


@pytest.mark.parametrize(("target", "place"), [("output", 64), ("weights", 0), ("arena", -1)])
def test_a_byte_that_is_not_its_own_may_not_be_written(target: str, place: int) -> None:
    with pytest.raises(EmulationError, match="exit code"):
        copy_byte("input", 0, target, place)


def test_a_program_that_does_not_end_is_stopped() -> None:
    text = """
    define void @run_0(ptr %a, ptr %w, ptr %inputs, ptr %outputs, i32 %tid, i32 %count) {
    entry:
      br label %again
    again:
      fence seq_cst
      br label %again
    }
    """
    code = machine.compile_module(text, ISA).object_code
    program = EmulatedProgram(code, ("run_0",), [[]], (), np.zeros(64, np.uint8), 512)
    with pytest.raises(EmulationError, match=r"no end after 0\.5 s"):
        run_programs([program], ISA, seconds=0.5)
