"""Elementwise ops against contract 5: all pairs of values, broadcasts, cheap and exact formulas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcc import numerics
from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.binary import BinaryKernel, ConstantBinaryKernel
from qcc.backends.llvm.kernels.formulas import (
    OPS,
    ConstantFormula,
    ConstantOp,
    Numbers,
    Op,
    binary_formula,
    constant_formula,
)
from qcc.backends.llvm.kernels.nest import View, broadcast_view, dense_view
from qcc.errors import ConfigError
from tests.backends.llvm.kernels.buffers import FILL, ISAS, blank, bytes_of, constants, layout_of
from tests.backends.llvm.native import executable_form, interior, outside_intact, physical, run

NUMBERS = {
    "add": Numbers((0.021, 130), (0.013, 101), (0.029, 140), 2, 250),
    "sub": Numbers((0.021, 130), (0.013, 101), (0.029, 140)),
    "mul": Numbers((0.021, 130), (0.013, 0), (0.017, 117), 117, 255),
}
ODD = {
    "tiny result scale": Numbers((1.0, 128), (1.0, 0), (1e-30, 3)),
    "overflow": Numbers((3e38, 0), (3e38, 255), (1.0, 7)),
    "exact ties": Numbers((0.25, 10), (0.25, 20), (0.5, 30)),
    "thirds": Numbers((0.3, 77), (0.3, 0), (0.6, 128)),
    "subnormal scale": Numbers((1e-39, 1), (1e-39, 2), (1e-40, 0)),
}


def expected(op: str, a: Any, b: Any, numbers: Numbers) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        value = OPS[op](numerics.dequantize(a, *numbers.a), numerics.dequantize(b, *numbers.b))
    return numerics.quantize(value, *numbers.y, "uint8", low=numbers.low, high=numbers.high)


def all_pairs(op: Op, numbers: Numbers, kernel: BinaryKernel, isa: str) -> None:
    grid = np.arange(256, dtype=np.uint8)
    a, b = (np.ascontiguousarray(g) for g in np.meshgrid(grid, grid, indexing="ij"))
    output = blank(65536)
    form = executable_form(isa)
    packed = constants(kernel.pack(form, numbers=numbers))
    run(kernel, form, {"a": bytes_of(a), "b": bytes_of(b), "target": output, **packed}, 2)
    np.testing.assert_array_equal(output.reshape(256, 256), expected(op, a, b, numbers))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["add", "sub", "mul"])
@pytest.mark.parametrize("numbers", ["usual", *ODD])
def test_all_pairs(op: Op, numbers: str, isa: str) -> None:
    chosen = NUMBERS[op] if numbers == "usual" else ODD[numbers]
    formula = binary_formula(op, chosen)
    view = dense_view((65536,), 1)
    kernel = BinaryKernel(op, (65536,), view, view, view, formula.kind, formula.division,
                          formula.bounded)  # fmt: skip
    all_pairs(op, chosen, kernel, isa)
    exact = replace(kernel, kind="exact", division="divide", bounded=False)
    if exact != kernel:
        all_pairs(op, chosen, exact, isa)


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_usual_numbers_have_a_cheap_formula(op: Op) -> None:
    assert binary_formula(op, NUMBERS[op]).kind == ("product" if op == "mul" else "affine")


@settings(deadline=None, max_examples=25)
@given(
    op=st.sampled_from(["add", "sub", "mul"]),
    scales=st.tuples(*[st.floats(2.0**-12, 2.0, width=32)] * 3),
    points=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_any_numbers(
    op: Op, scales: tuple[float, float, float], points: tuple[int, int, int]
) -> None:
    a, b, y = zip(scales, points, strict=True)
    numbers = Numbers(a, b, y)
    formula = binary_formula(op, numbers)
    view = dense_view((65536,), 1)
    kernel = BinaryKernel(op, (65536,), view, view, view, formula.kind, formula.division,
                          formula.bounded)  # fmt: skip
    all_pairs(op, numbers, kernel, "x86-avx2")


SHAPES = {
    "same": ((2, 24, 5, 7), (2, 24, 5, 7)),
    "squeeze and excite": ((2, 33, 5, 7), (2, 33, 1, 1)),
    "scalar": ((1, 17, 5, 7), (1, 1, 1, 1)),
    "per pixel": ((1, 20, 5, 7), (1, 1, 5, 7)),
    "row": ((1, 8, 5, 7), (1, 8, 1, 7)),
    "left broadcast": ((1, 1, 1, 1), (1, 37, 3, 3)),
    "one channel": ((1, 1, 9, 11), (1, 1, 9, 11)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stride", [0, 48])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("op", ["add", "mul"])
def test_broadcast(
    op: Op, shape: tuple[tuple[int, int, int, int], ...], stride: int, isa: str
) -> None:
    rng = np.random.default_rng(3)
    values = [rng.integers(0, 256, s).astype(np.uint8) for s in shape]
    layout_a, layout_b = layout_of(shape[0], halo=(1, 0, 2, 1)), layout_of(shape[1])
    whole = np.broadcast_shapes(*shape)
    assert len(whole) == 4
    output_layout = layout_of(whole, stride, (0, 1, 1, 2))
    kernel = BinaryKernel.of(op, layout_a, layout_b, output_layout, NUMBERS[op])
    output = blank(output_layout.size_bytes)
    form = executable_form(isa)
    operands = {
        "a": physical(layout_a, values[0], 50, rng),
        "b": physical(layout_b, values[1], 50, rng),
        "target": output,
        **constants(kernel.pack(form, numbers=NUMBERS[op])),
    }
    run(kernel, form, operands, 3)
    want = expected(op, values[0], values[1], NUMBERS[op])
    np.testing.assert_array_equal(interior(output_layout, output), want.transpose(0, 2, 3, 1))
    assert outside_intact(output_layout, output, FILL)


def test_in_place() -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(0, 256, 10001).astype(np.uint8) for _ in range(2))
    view = dense_view((10001,), 1)
    formula = binary_formula("add", NUMBERS["add"])
    kernel = BinaryKernel("add", (10001,), view, view, view, formula.kind, formula.division,
                          formula.bounded)  # fmt: skip
    isa = executable_form("x86-avx2")
    buffer = bytes_of(a)
    packed = constants(kernel.pack(isa, numbers=NUMBERS["add"]))
    run(kernel, isa, {"a": buffer, "b": bytes_of(b), "target": buffer, **packed}, 3)
    np.testing.assert_array_equal(buffer, expected("add", a, b, NUMBERS["add"]))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["found", "exact"])
@pytest.mark.parametrize("op", ["add", "sub", "reversed_sub", "mul"])
@pytest.mark.parametrize("shape", [(37,), (1,), (6, 1), (5, 6, 37)])
def test_constants(op: ConstantOp, shape: tuple[int, ...], kind: str, isa: str) -> None:
    rng = np.random.default_rng(9)
    sizes = (5, 6, 37)
    x = rng.integers(0, 256, sizes).astype(np.uint8)
    constant = rng.normal(0, 2, shape).astype(np.float32)
    if kind == "exact":
        constant.flat[0] = np.float32(np.nan)
    a, y = (0.023, 128), (0.031, 120)
    formula, coefficients = constant_formula(op, constant, a, y, 4, 250)
    assert formula.kind == ("exact" if kind == "exact" else "affine")
    dense = dense_view(sizes, 1)
    kernel = ConstantBinaryKernel(op, sizes, dense, broadcast_view(shape, sizes, 4), dense, formula)
    form = executable_form(isa)
    output = blank(x.size)
    packed = kernel.pack(
        form, constant=constant, coefficients=coefficients, a=a, y=y, low=4, high=250
    )
    run(kernel, form, {"a": bytes_of(x), "target": output, **constants(packed)}, 2)
    with np.errstate(all="ignore"):
        value = OPS[op](numerics.dequantize(x, *a), constant)
    want = numerics.quantize(value, *y, "uint8", low=4, high=250)
    np.testing.assert_array_equal(output.reshape(sizes), want)


def test_refusals() -> None:
    view = View(0, (1,))
    isa = host_instruction_set()
    with pytest.raises(ConfigError, match="no affine formula"):
        BinaryKernel("mul", (4,), view, view, view, "affine")
    kernel = BinaryKernel("add", (4,), view, view, view, "affine", "reciprocal")
    with pytest.raises(ConfigError, match="do not allow"):
        kernel.pack(isa, numbers=ODD["overflow"])
    three, two = layout_of((1, 3, 4, 4)), layout_of((1, 2, 4, 4))
    with pytest.raises(ConfigError, match="does not broadcast"):
        BinaryKernel.of("add", three, two, three, NUMBERS["add"])
    bounded = BinaryKernel("add", (4,), view, view, view, "exact", "divide", True)
    with pytest.raises(ConfigError, match="pass any bound"):
        bounded.pack(isa, numbers=ODD["overflow"])
    affine = ConstantFormula("affine", "reciprocal", True)
    with pytest.raises(ConfigError, match="needs the coefficients"):
        ConstantBinaryKernel("add", (4,), view, View(0, (4,)), view, affine).pack(
            isa, constant=np.ones(4), coefficients=None, a=(1.0, 0), y=(1.0, 0)
        )
