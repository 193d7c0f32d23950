"""Where the pixels of a tile lie, computed by native code."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from qcc.backends.llvm import machine
from qcc.backends.llvm.builder import I64, LoopBuilder, declare_kernel
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.window import Pitches


def computed(pitches: Pitches, begin: int, count: int, aligned: int) -> list[int]:
    module = ir.Module("offsets")
    k = LoopBuilder(declare_kernel(module, "offsets", ("source", "target")))
    pixel = k.load(I64, k.operand("source"), align=8)
    for i, offset in enumerate(pitches.offsets(k, pixel, count, aligned)):
        k.store(k.index(offset), k.at(k.operand("target"), 8 * i))
    k.finish()
    isa = host_instruction_set()
    code = machine.load_object(machine.compile_module(module, isa).object_code)
    found = np.zeros(count, np.int64)
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int32] * 2)
    first = np.array([begin], np.int64)
    run(code.address("offsets"))(first.ctypes.data, found.ctypes.data, 0, 1)
    return [int(offset) for offset in found]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_offsets_of_neighbouring_pixels(data: Any) -> None:
    draw = data.draw
    images, height, width = (draw(st.integers(1, n)) for n in (3, 5, 9))
    column = draw(st.integers(1, 40))
    row = width * column + draw(st.sampled_from([0, 7]))
    image = height * row + draw(st.sampled_from([0, 11]))
    pitches = Pitches(images, (height, width), image, row, column)
    pixels = images * height * width
    count = draw(st.integers(1, min(pixels, 12)))
    aligned = draw(st.sampled_from([1, count]))
    begin = draw(st.integers(0, (pixels - count) // aligned)) * aligned
    expected = [
        i // (height * width) * image + i // width % height * row + i % width * column
        for i in range(begin, begin + count)
    ]
    assert computed(pitches, begin, count, aligned) == expected
