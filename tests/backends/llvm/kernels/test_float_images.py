"""Pools and resizing of float32 images against their ops' own evaluation, byte for byte."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcc.backends.llvm.kernels.float_pool import FloatPoolKernel, Pool
from qcc.backends.llvm.kernels.float_resize import FloatResizeKernel
from qcc.backends.llvm.kernels.nest import View, dense_view
from qcc.backends.llvm.kernels.window import Window
from qcc.errors import ConfigError
from qcc.ir.core import Graph, Node
from qcc.ir.integer.pooling import pooled_size
from qcc.ir.integer.resize import linear_taps
from qcc.ir.ops import definition
from qcc.ir.types import TensorType
from tests.backends.llvm.kernels.buffers import FLOAT_ISAS, blank, bytes_of, constants
from tests.backends.llvm.native import executable_form, run


def node_of(op: str, x: np.ndarray, **attributes: Any) -> Node:
    graph = Graph()
    value = graph.add_input("x", TensorType(x.shape, "float32"))
    result = TensorType(None, "float32")
    return graph.create_node(op, [value], [result], attributes={**attributes, "layout": "nhwc"})


def evaluated(node: Node, x: np.ndarray) -> np.ndarray:
    found = definition(node.op)
    assert found is not None
    return np.asarray(found.evaluate(node, [x])[0])


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def check_pool(pool: Pool, x: np.ndarray, isa: str, threads: int = 1, **attributes: Any) -> None:
    node = node_of(f"q.float_{pool}_pool", x, **attributes)
    wanted = evaluated(node, x)
    pads = attributes.get("pads", [0, 0, 0, 0])
    counts = bool(attributes.get("count_include_pad"))
    images, rows, columns, channels = wanted.shape
    kernel = FloatPoolKernel(
        pool,
        (images, rows, columns, channels),
        (x.shape[1], x.shape[2]),
        Window(
            tuple(attributes["kernel_shape"]),
            tuple(attributes.get("strides", (1, 1))),
            tuple(attributes.get("dilations", (1, 1))),
            (pads[0], pads[1]),
        ),
        dense_view(x.shape, 4),
        dense_view(wanted.shape, 4),
        (pads[2], pads[3]) if counts else None,
    )
    target = executable_form(isa)
    output = blank(wanted.nbytes)
    run(kernel, target, {"input": bytes_of(x), "output": output}, threads)
    assert output.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("pool", ["max", "average"])
@settings(deadline=None, max_examples=12)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(7, 11), st.integers(7, 11), st.integers(1, 70)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    ceil_mode=st.integers(0, 1),
    include=st.integers(0, 1),
)
def test_pools(
    isa: str,
    pool: Pool,
    shape: tuple[int, int, int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    pads: tuple[int, int, int, int],
    ceil_mode: int,
    include: int,
) -> None:
    # Every window must hold a pixel of the image.
    within = [pad % kernel[i % 2] for i, pad in enumerate(pads)]
    attributes: dict[str, Any] = {
        "kernel_shape": list(kernel),
        "strides": list(strides),
        "dilations": list(dilations) if pool == "max" else [1, 1],
        "pads": within,
        "ceil_mode": ceil_mode,
    }
    if pool == "average":
        attributes["count_include_pad"] = include
    x = image(*shape)
    sizes = pooled_size(node_of("q.float_max_pool", x, **attributes), shape[1:3])
    assume(min(sizes) > 0)
    steps = attributes["dilations"]
    for i in range(2):
        starts = range(-within[i], sizes[i] * strides[i] - within[i], strides[i])
        inside = [
            any(0 <= start + tap * steps[i] < shape[1 + i] for tap in range(kernel[i]))
            for start in starts
        ]
        assume(all(inside))
    check_pool(pool, x, isa, 2, **attributes)


@pytest.mark.parametrize("pool", ["max", "average"])
def test_pools_of_what_is_not_finite(pool: Pool) -> None:
    x = image(1, 6, 6, 9)
    x[0, 0, 0, :4] = [np.nan, np.inf, -np.inf, -0.0]
    x[0, 1, 1, :4] = [1, -np.inf, -np.inf, 0.0]
    x[0, 2:, :, 4] = -0.0
    x[0, 2:, :, 5] = -np.inf
    x[0, 5, 5] = np.nan
    check_pool(pool, x, "x86-avx2", kernel_shape=[3, 3], pads=[1, 1, 1, 1])


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("pool", ["max", "average"])
def test_the_whole_image(pool: Pool, isa: str) -> None:
    check_pool(pool, image(2, 7, 7, 65), isa, 3, kernel_shape=[7, 7])


MODES = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]


@pytest.mark.parametrize("isa", FLOAT_ISAS)
@pytest.mark.parametrize("mode", MODES)
@settings(deadline=None, max_examples=6)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 7), st.integers(1, 7), st.integers(1, 40)),
    sizes=st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_linear_resizing(
    isa: str, mode: str, shape: tuple[int, int, int, int], sizes: tuple[int, int]
) -> None:
    x = image(*shape)
    x[0, 0, 0, 0] = np.nan
    scales = [float(np.float32(size / old)) for size, old in zip(sizes, shape[1:3], strict=True)]
    node = node_of(
        "q.resize",
        x,
        mode="linear",
        sizes=list(sizes),
        scales=scales,
        coordinate_transformation_mode=mode,
    )
    wanted = evaluated(node, x)
    images, rows, columns, channels = wanted.shape
    kernel = FloatResizeKernel(
        (images, rows, columns, channels),
        (shape[1], shape[2]),
        dense_view(shape, 4),
        dense_view(wanted.shape, 4),
    )
    target = executable_form(isa)
    taps = [linear_taps(node, axis, shape[1 + axis], sizes[axis]) for axis in range(2)]
    packed = constants(kernel.pack(target, rows=taps[0], columns=taps[1]))
    output = blank(wanted.nbytes)
    run(kernel, target, {"input": bytes_of(x), "output": output, **packed}, 2)
    assert output.tobytes() == wanted.tobytes()


def test_what_is_refused() -> None:
    view = dense_view((1, 4, 4, 3), 4)
    pool = FloatPoolKernel("max", (1, 4, 4, 3), (4, 4), Window(), view, view)
    with pytest.raises(ConfigError, match="4 strides"):
        dataclasses.replace(pool, input=View(0, (4, 4)))
    with pytest.raises(ConfigError, match="without elements"):
        dataclasses.replace(pool, sizes=(1, 0, 4, 3))
    with pytest.raises(ConfigError, match="side by side"):
        FloatResizeKernel((1, 4, 4, 3), (4, 4), View(0, (0, 0, 0, 8)), view)
