"""Resizing against the op's own evaluation, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.isa import host_instruction_set
from qcc.backends.llvm.kernels.resize import ResizeLinearKernel, nearest_kernel, nearest_tables
from qcc.errors import ConfigError
from qcc.ir.core import Graph, Node
from qcc.ir.integer.resize import linear_taps, nearest_indices
from qcc.ir.types import Quant, TensorType
from tests.backends.llvm.kernels.buffers import (
    FILL,
    ISAS,
    blank,
    constants,
    layout_of,
    reference,
)
from tests.backends.llvm.native import executable_form, interior, outside_intact, physical, run

X = Quant.make("uint8", 0.0173, 77)
Y = Quant.make("uint8", 0.0141, 103, low=5, high=250)
MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]


def node_of(attributes: dict[str, Any]) -> Node:
    graph = Graph()
    x = graph.add_input("x", TensorType((1, 1, 1, 1), X))
    return graph.create_node("q.resize", [x], [TensorType(None, X)], attributes=attributes)


def check(
    shape: tuple[int, int, int, int],
    sizes: tuple[int, int],
    mode: str,
    transform: str,
    isa: str,
    threads: int = 1,
    y: Quant = Y,
) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    scales = [float(np.float32(sizes[i] / shape[2 + i])) for i in range(2)]
    attributes = {
        "sizes": list(sizes),
        "scales": scales,
        "mode": mode,
        "coordinate_transformation_mode": transform,
    }
    want = reference("q.resize", [(x, X)], X if mode == "nearest" else y, (), **attributes)
    source = layout_of(shape, halo=(1, 0, 1, 2))
    target = layout_of((*shape[:2], *sizes), shape[1] + 6 & ~3, (1, 1, 0, 0))
    node, form = node_of(attributes), executable_form(isa)
    output = blank(target.size_bytes)
    buffer = physical(source, x, 255, rng)
    axes = [(axis, shape[2 + axis], sizes[axis]) for axis in range(2)]
    if mode == "nearest":
        copy = nearest_kernel(source, target)
        rows, columns = (nearest_indices(node, *axis) for axis in axes)
        packed = constants(copy.pack(form, **nearest_tables(source, rows, columns)))
        run(copy, form, {"source": buffer, "target": output, **packed}, threads)
    else:
        kernel = ResizeLinearKernel.of(source, target, X.scale[0], y.scale[0])
        taps = [linear_taps(node, *axis) for axis in axes]
        bounds = dict(zip(("low", "high"), y.range, strict=True))
        packed = constants(
            kernel.pack(form, rows=taps[0], columns=taps[1], input_scale=X.scale[0],
                        input_zero_point=77, output_scale=y.scale[0],
                        output_zero_point=y.zero_point[0], **bounds)
        )  # fmt: skip
        run(kernel, form, {"input": buffer, "output": output, **packed}, threads)
    np.testing.assert_array_equal(interior(target, output), want.transpose(0, 2, 3, 1))
    assert outside_intact(target, output, FILL)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("transform", MODES)
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((2, 21, 5, 6), (10, 12)), ((1, 64, 4, 4), (7, 9)), ((1, 3, 9, 8), (4, 3))],
)
def test_resize(
    shape: tuple[int, int, int, int], sizes: tuple[int, int], mode: str, transform: str, isa: str
) -> None:
    check(shape, sizes, mode, transform, isa, 1 + sizes[0] % 3)


@settings(deadline=None, max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9)),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    mode=st.sampled_from(["nearest", "linear"]),
    transform=st.sampled_from(MODES),
)
def test_any_resize(
    shape: tuple[int, int, int, int], sizes: tuple[int, int], mode: str, transform: str
) -> None:
    check(shape, sizes, mode, transform, "x86-avx2", 2)


def test_results_far_out_of_range_saturate() -> None:
    check((1, 9, 4, 4), (5, 5), "linear", "half_pixel", "x86-avx2", 1, Quant.make("uint8", 1e-9, 3))


def test_refusals() -> None:
    small, large = layout_of((1, 4, 2, 2)), layout_of((1, 4, 3, 3))
    with pytest.raises(ConfigError, match="keeps images and channels"):
        ResizeLinearKernel(small, layout_of((1, 8, 3, 3)))
    kernel = ResizeLinearKernel.of(small, large, 1.0, 1.0)
    isa = host_instruction_set()
    numbers: dict[str, Any] = {"input_zero_point": 0, "output_zero_point": 0}
    good = (np.zeros(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.float32))
    far = (np.full(3, 2), np.full(3, 2), good[2])
    with pytest.raises(ConfigError, match="leave its 2 elements"):
        kernel.pack(isa, rows=good, columns=far, input_scale=1.0, output_scale=1.0, **numbers)
    with pytest.raises(ConfigError, match="3 entries"):
        kernel.pack(isa, rows=good, columns=(*good[:2], good[2][:1]), input_scale=1.0,
                    output_scale=1.0, **numbers)  # fmt: skip
    with pytest.raises(ConfigError, match="pass any bound"):
        kernel.pack(isa, rows=good, columns=good, input_scale=1.0, output_scale=1e-9, **numbers)
