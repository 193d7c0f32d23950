"""Rows of a table by indices of the input: every index, and those that no row has."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.lookup import LookupKernel
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import ISAS, at_page_end, blank, bytes_of
from tests.backends.llvm.native import build, executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]


def looked_up(
    table: np.ndarray, indices: np.ndarray, isa: str = "x86-avx2", threads: int = 2
) -> tuple[np.ndarray, list[int]]:
    """The rows and the fault words."""
    row = table.dtype.itemsize * table.shape[1]
    size = indices.dtype.itemsize
    kernel = LookupKernel(indices.size, len(table), row, 4 if size == 4 else 8)
    output, fault = blank(indices.size * row), bytes_of(np.zeros(2, np.int64))
    operands = {"source": bytes_of(table), "indices": bytes_of(indices), "fault": fault}
    run(kernel, executable_form(isa), {**operands, "target": output}, threads)
    rows = output.view(table.dtype).reshape(indices.size, table.shape[1])
    return rows, fault.view(np.int64).tolist()


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=10)
@given(st.integers(1, 9), st.integers(1, 80), st.sampled_from([np.int32, np.int64]), st.data())
def test_lookup(isa: str, rows: int, columns: int, dtype: type, data: st.DataObject) -> None:
    table = np.random.default_rng(columns).normal(size=(rows, columns)).astype(np.float32)
    picked = data.draw(st.lists(st.integers(-rows, rows - 1), min_size=1, max_size=7))
    indices: np.ndarray = np.array(picked, dtype)
    found, fault = looked_up(table, indices, isa)
    assert np.array_equal(found, table[indices])
    assert fault == [0, 0]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("wrong", [5, -6, 2**31 - 1, -(2**31)])
def test_what_lies_outside_is_noted_and_reads_row_0(dtype: type, wrong: int) -> None:
    table = np.arange(15, dtype=np.float32).reshape(5, 3)
    found, fault = looked_up(table, np.array([4, wrong, -1], dtype))
    assert np.array_equal(found, table[[4, 0, -1]])
    assert fault == [5, wrong]


@pytest.mark.parametrize("wrong", [2**63 - 1, -(2**63), 2**62])
def test_indices_whose_offset_would_wrap(wrong: int) -> None:
    table = np.arange(15, dtype=np.float32).reshape(5, 3)
    found, fault = looked_up(table, np.array([wrong]))
    assert np.array_equal(found, table[[0]])
    assert fault == [5, wrong]


@pytest.mark.parametrize("columns", [1, 3, 37])
def test_not_a_byte_past_the_end_is_touched(columns: int) -> None:
    table = np.random.default_rng(0).normal(size=(4, columns)).astype(np.float32)
    indices = np.array([3, 0, 3], np.int32)
    kernel = LookupKernel(3, 4, 4 * columns, 4)
    loaded = machine.load_object(build(kernel, host_instruction_set()).object_code)
    target = at_page_end(np.zeros((3, columns), np.float32))
    arrays = [at_page_end(table), at_page_end(indices), bytes_of(np.zeros(2, np.int64)), target]
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int32, ctypes.c_int32)
    signature(loaded.address("kernel"))(*(array.ctypes.data for array in arrays), 0, 1)
    assert target.tobytes() == table[indices].tobytes()


def test_empty_tables_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        LookupKernel(3, 0, 4, 8)
