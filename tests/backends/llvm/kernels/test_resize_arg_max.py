"""Resized images searched along their channels, against the two references one after the other."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm import machine
from qcc.backends.llvm.isa import INSTRUCTION_SETS, host_instruction_set
from qcc.backends.llvm.kernels.resize_arg_max import ResizeArgMaxKernel
from qcc.errors import ConfigError
from qcc.ir.core import Graph
from qcc.ir.integer.resize import linear_taps
from qcc.ir.ops import definition
from qcc.ir.types import TensorType
from qcc.ref.arg_max import arg_max
from tests.backends.llvm.kernels.buffers import (
    FLOAT_ISAS,
    ISAS,
    at_page_end,
    blank,
    bytes_of,
    constants,
)
from tests.backends.llvm.native import build, executable_form, run

X86 = [name for name in ISAS if name.startswith("x86")]


def resized(x: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The reference's resized image of ``x`` [N, H, W, C], and the taps of both axes."""
    images, height, width, channels = x.shape
    graph = Graph()
    node = graph.create_node(
        "q.resize",
        [graph.add_input("x", TensorType(x.shape, "float32"))],
        [TensorType((images, rows, columns, channels), "float32")],
        attributes={
            "sizes": [rows, columns],
            "scales": [rows / height, columns / width],
            "mode": "linear",
            "layout": "nhwc",
        },
    )
    found = definition("q.resize")
    assert found is not None
    taps = {
        "rows": linear_taps(node, 0, height, rows),
        "columns": linear_taps(node, 1, width, columns),
    }
    with np.errstate(invalid="ignore"):
        return np.asarray(found.evaluate(node, [x])[0]), taps


def check(x: np.ndarray, rows: int, columns: int, isa: str, last: bool = False) -> None:
    images, height, width, channels = x.shape
    kernel = ResizeArgMaxKernel((images, rows, columns, channels), (height, width), last)
    whole, taps = resized(x, rows, columns)
    wanted = arg_max(whole, -1, last=last)
    form = executable_form(isa)
    output = blank(wanted.nbytes)
    operands = {"input": bytes_of(x), "target": output, **constants(kernel.pack(form, **taps))}
    run(kernel, form, operands, 2)
    assert output.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("channels", [1, 7, 8, 9, 21, 33, 64])
def test_channels(channels: int, isa: str) -> None:
    rng = np.random.default_rng(channels)
    check(rng.normal(size=(2, 5, 7, channels)).astype(np.float32), 12, 15, isa)


@pytest.mark.parametrize("isa", X86)
@settings(deadline=None, max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 2), *[st.integers(1, 9)] * 2, st.integers(1, 30)),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    last=st.booleans(),
)
def test_shapes(
    isa: str, shape: tuple[int, int, int, int], rows: int, columns: int, last: bool
) -> None:
    rng = np.random.default_rng(rows)
    check(rng.integers(0, 3, shape).astype(np.float32), rows, columns, isa, last)


def test_numbers_that_are_none() -> None:
    x = np.random.default_rng(1).normal(size=(1, 4, 4, 11)).astype(np.float32)
    x[0, 1, 1, 3], x[0, 2, 2, :], x[0, 0, 3, 5] = np.nan, np.nan, np.inf
    check(x, 9, 9, "x86-avx2")


def test_not_a_byte_past_the_end_is_touched() -> None:
    x = np.random.default_rng(2).normal(size=(1, 3, 5, 13)).astype(np.float32)
    kernel, isa = ResizeArgMaxKernel((1, 7, 6, 13), (3, 5)), host_instruction_set()
    whole, taps = resized(x, 7, 6)
    packed = {name: at_page_end(data) for name, data in kernel.pack(isa, **taps).items()}
    memory = {"input": at_page_end(x), "target": at_page_end(np.zeros(42, np.int64)), **packed}
    loaded = machine.load_object(build(kernel, isa).object_code)
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int32, ctypes.c_int32)
    pointers = [memory[name].ctypes.data for name in kernel.operands]
    signature(loaded.address("kernel"))(*pointers, 0, 1)
    assert memory["target"].tobytes() == arg_max(whole, -1).tobytes()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="too long"):
        ResizeArgMaxKernel((1, 4, 4, 64), (4, 1000))
    with pytest.raises(ConfigError, match="too long"):
        ResizeArgMaxKernel((1, 4, 4, 65), (4, 4))


def test_nothing_is_fused_or_called() -> None:
    kernel = ResizeArgMaxKernel((1, 20, 20, 21), (5, 5))
    for name in ISAS:
        text = build(kernel, INSTRUCTION_SETS[name]).assembly
        assert not any(word in text for word in ("vfmadd", "fmla", "callq", "\tbl\t"))
